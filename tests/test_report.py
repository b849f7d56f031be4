"""The report: what it says first, what it cannot say, hostile text, damaged stores; files beside the page."""

import base64
import csv
import gzip
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from trained_store import FEW, HALF, TrainedStore, group_of, once, prompts

from remix_toolkit import store
from remix_toolkit.evaluate.held_out import HeldOut
from remix_toolkit.evaluate.interference import Angle, GradientNorm, Interference
from remix_toolkit.evaluate.lens import Lens
from remix_toolkit.evaluate.perplexity import Perplexity
from remix_toolkit.evaluate.recall import Recall, VerdictRow
from remix_toolkit.records import RunRecord, read_rows, write_rows
from remix_toolkit.report.facts import LATER, facts_of
from remix_toolkit.report.group import groups
from remix_toolkit.report.page import named, write_report
from remix_toolkit.report.parts import Heading
from remix_toolkit.report.plot import STYLE, arms_figure, lines_figure, svgs
from remix_toolkit.report.probes import probes
from remix_toolkit.report.sections import sections
from remix_toolkit.report.seeds import expected
from remix_toolkit.report.series import over_seeds
from remix_toolkit.report.settings import rerun, settings
from remix_toolkit.report.tables import Table, as_csv, as_latex, as_markdown
from remix_toolkit.report.verdicts import Answers

NASTY = [
    "</script><script>document.title = 'run'</script>",
    "<img src=x onerror=\"document.title = 'run'\">",
    r"\input{/etc/passwd} & $x$ % \frac 50% | _a_ `b` *c*",
    "line\nbreak\u2028and\u2029more\x00\x07\x1b[31m\ud7ff",
    "{{ 7 * 7 }} {% raw %}",
    "=cmd|' /C calc'!A0",
    "\u202egnp.exe",
    "",
]


class Page(HTMLParser):
    """A page's ids, rows of tables by their caption, the text of its elements, and what it would fetch or run."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.fetched: list[str] = []
        self.alts: list[str] = []
        self.scripts = 0
        self.events: list[str] = []
        self.tags: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self.tags.append(f"{tag}.{about.get('class') or ''}")
        self.text.setdefault(self.tags[-1], []).append("")
        self.ids += [about["id"]] if about.get("id") else []
        self.fetched += [about[name] or "" for name in ("src", "srcset", "href") if name in about]
        self.alts += [about["alt"] or ""] if tag == "img" else []
        self.scripts += tag == "script" and "type" not in about
        self.events += [name for name in about if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.text[self.tags[-1]][-1] += data


@pytest.fixture(scope="module")
def made(trained: TrainedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's folder of two arms, three seeds; the second keeps more. A stranger's file lay in it before."""

    def make(runs: Path) -> None:
        files = {name: trained.text(name) for name in ("lens.json", "interference.json", "retention.jsonl")}
        trained.write_arms(
            runs, {"none": FEW, "random": HALF}, files=files, settings={"stages.stage1.mix": {"a": 1}, "b": "c d"}
        )
        (runs / "report" / "tables").mkdir(parents=True)
        (runs / "report" / "mine.txt").write_text("mine")
        (runs / "report" / "index.html").write_text("an older page")
        assert write_report(runs, runs / "report", None) == runs / "report" / "index.html"

    return once(tmp_path_factory.getbasetemp(), "report", make) / "report"


def test_the_answer_stands_first_with_its_uncertainty(made: Path) -> None:
    page = Page(made / "index.html")
    order = ["answer", "matrix", "arms", "curves", "facts", "probes", "losses", "settings", "warnings", "rerun"]
    assert [id_ for id_ in page.ids if id_ in order] == order
    (said,) = page.text["p.answer"]
    assert (
        "random still knows 50.0% of the 40 kvr facts that stage1 taught (mean of 3 seeds, 95% interval 35.2 to 64.8)"
        in said
    )
    assert "the most of 2 arms" in said
    assert re.search(r"ahead of none \(10\.0%\) by \+40\.0 points, 95% interval \+\d", said)
    assert (made / "mine.txt").read_text() == "mine"


def test_the_page_needs_nothing_else_and_its_pictures_say_what_is_seen(made: Path) -> None:
    page = Page(made / "index.html")
    assert page.scripts == 1
    assert page.events == []
    beside = [name for name in page.fetched if not name.startswith(("data:", "#"))]
    assert beside
    assert all((made / name).is_file() for name in beside)  # every link of the page leads somewhere
    assert all(name[1:] in page.ids for name in page.fetched if name.startswith("#"))
    assert len(page.alts) == len(list((made / "figures").glob("*.png"))) == 6
    assert all(re.search(r"\d", alt) for alt in page.alts)
    assert "none 100.0, then 10.0 (2.3 to 34.6)" in "".join(page.alts)


def test_figures_and_tables_lie_beside_the_page(made: Path) -> None:
    for png in (made / "figures").glob("*.png"):
        assert png.read_bytes().startswith(b"\x89PNG")
        assert png.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    tables = made / "tables"
    assert {f.stem for f in tables.glob("*.md")} == {f.stem for f in tables.glob("*.tex")}
    rows = list(csv.DictReader((tables / "retention-sizes-tiny.csv").open()))
    (row,) = (row for row in rows if (row["arm"], row["stage"], row["task"]) == ("none", "stage2", "kvr"))
    assert (float(row["mean"]), float(row["sd"]), row["seeds"]) == (10, 5, "0, 1, 2")
    assert (round(float(row["low"]), 1), round(float(row["high"]), 1)) == (2.3, 34.6)
    assert "| none | stage2 | 0, 1, 2 | 10.0 ± 5.0 | 100.0 ± 0.0 |" in (tables / "retention-sizes-tiny.md").read_text()
    assert r"none & stage2 & 0, 1, 2 & 10.0 $\pm$ 5.0" in (tables / "retention-sizes-tiny.tex").read_text()


def test_a_trained_store_is_reported_with_all_that_was_measured(trained, tmp_path: Path) -> None:
    page = Page(write_report(trained.runs, tmp_path / "report", None))
    assert {"matrix", "curves", "facts", "probes", "losses", "settings", "rerun"} < set(page.ids)
    text = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    angle = trained.result(Interference()).groups["whole"]["a.b"]
    numbers = [f"{one.first_layer:.1f}" for one in Lens().read(trained.stages[1]).values()] + [f"{angle.cosine:+.3f}"]
    numbers += [f"{trained.result(Perplexity()).perplexity:.2f}"]
    for number in numbers:
        assert f">{number}<" in text, number
    assert f"loss {trained.result(HeldOut()).loss:.2f}" in text
    assert page.scripts == 1
    (losses,) = csv.DictReader((tmp_path / "report" / "tables" / "foretold-trained-tiny.csv").open())
    assert losses["of"] == "stage1"


def test_gradients_that_are_noise_are_shown_as_noise(trained, tmp_path: Path) -> None:
    """Of seed 0, the earlier facts' gradient; of the other arm, in every seed."""
    result = trained.result(Interference())
    noise = {pair: Angle(cosine=None, low=None, high=None, inner=0.0) for pair in ("a.b", "a.m")}
    norms = {**result.norms, "a": GradientNorm(norm=1.0, signal=0.0, noise=True)}
    weak = trained.result(
        Interference(), norms=norms, groups={part: {**pairs, **noise} for part, pairs in result.groups.items()}
    )
    for arm, seed, measured in (("some", 0, weak), ("some", 1, result), ("all", 0, weak), ("all", 1, weak)):
        files = {"interference.json": Interference().record({"kvr-1": measured}).model_dump_json()}
        known = {"stage1": {"kvr": [1, 1]}, "stage2": {"kvr": [1, 0], "webqa": [1]}}
        trained.write_run(tmp_path, arm, seed, known, files=files)
    warnings: list[str] = []
    parts = probes(group_of(tmp_path), warnings.append)
    cosines, foretold = (part for part in parts if isinstance(part, Table))
    angle = result.groups["whole"]["a.b"]
    interval = f"{angle.low:+.3f} to {angle.high:+.3f}"
    about = "earlier facts and this stage's"
    assert ["some", about, f"{angle.cosine:+.3f}", interval, "1 of 2"] in cosines.rows
    assert ["all", about, "noise", "-", "2"] in cosines.rows
    assert "all, seed 1: the gradient of a" in cosines.notes[1]
    assert [row[:4] for row in foretold.rows] == [[arm, "stage2", "stage1", "2"] for arm in ("some", "all")]
    assert warnings == []
    (only,) = (group for group in groups(store.entries(tmp_path), {}, Answers()))
    only.entries = [entry for entry in only.entries if entry["arm"] == "all"]
    assert [type(part).__name__ for part in probes(only, warnings.append)] == ["Heading", "Figure", "Table", "Table"]


def test_each_run_has_the_command_that_makes_it_again(made: Path) -> None:
    rows = list(csv.DictReader((made / "tables" / "runs-sizes-tiny.csv").open()))
    source = RunRecord.read(next((made.parent / "records").glob("*.json"))).source
    line = ["remix", "run", source, "--profile", "tiny", "--seed", "0", "--runs", str(made.parent)]
    line += ['stages.stage1.mix={"a": 1}', 'b="c d"']
    assert shlex.split(rows[0]["command"]) == line
    keys = dict(part.split("=") for part in rows[0]["stages and their keys"].split())
    assert all(store.published_stages(made.parent)[key].name.split("-")[1] == stage for stage, key in keys.items())
    assert "2.13.0" in (made / "tables" / "versions-sizes-tiny.md").read_text()


def test_a_matched_arm_needs_the_arm_that_it_names(trained, tmp_path: Path) -> None:
    known = {"stage1": {"kvr": [1, 1]}}
    trained.write_run(tmp_path, "control", 0, known, settings={"stages.stage1.match": {"steps_of": "a" * 16}})
    (runs,) = (
        part for part in rerun(group_of(tmp_path), Path("runs")) if getattr(part, "name", "") == "runs-sizes-tiny"
    )
    assert "--runs" not in runs.rows[0][3]  # where it goes without saying
    assert "names a stage of this store by its key" in " ".join(runs.notes)


def test_a_fact_is_kept_lost_gained_or_never_learnt(trained, tmp_path: Path) -> None:
    trained.write_run(
        tmp_path, "a", 0, {"stage1": {"kvr": [1, 1, 0, 0]}, "stage2": {"kvr": [1, 0, 1, 0], "webqa": [1]}}
    )
    trained.write_run(tmp_path, "b", 0, {"stage1": {"kvr": [1, 1, 1]}})  # has not come to stage2
    shutil.rmtree(
        trained.write_run(tmp_path, "c", 0, {"stage1": {"kvr": [1]}, "stage2": {"kvr": [0], "webqa": [1]}})["stage1"]
    )
    (facts,) = facts_of(group_of(tmp_path))
    (run,) = facts.runs
    assert (facts.before, facts.after, run.outcomes) == ("stage1", "stage2", "klgn")
    assert (run.first, run.last) == ([None, None, "wrong 2...", "wrong 3..."], [None, "wrong 1...", None, "wrong 3..."])
    assert facts.table().rows == [["a", "1", "25.0", "25.0", "25.0", "25.0", "0.0"]]
    out = io.StringIO()
    facts.write(out)
    assert list(csv.reader(io.StringIO(out.getvalue())))[2] == [prompts(2)[1], "v1", "a", "0", "lost", "", "wrong 1..."]
    packed = json.loads(gzip.decompress(base64.b64decode(facts.packed())))
    assert packed["said"] == ["wrong 2...", "wrong 3...", "wrong 1..."]
    assert packed["runs"][0]["answers"] == [[-1, -1, 0, 1], [-1, 2, -1, 1]]


def test_the_share_of_wrong_answers_that_are_answers_of_later_facts(trained, tmp_path: Path) -> None:
    """Seed 0: one of three is, another was cut off and may be; seed 1: one of two. Recomputed from recall.jsonl."""
    predictions = {0: [("V9 ", True), ("v", False), ("v0", True), (None, True)], 1: [("v8", True), ("x", False)]}
    shares = []
    for seed, answers in predictions.items():
        known = {"stage1": {"kvr": [1] * 4}, "stage2": {"kvr": [0] * len(answers), "webqa": [1, 1]}}
        folder = trained.write_run(tmp_path, "a", seed, known)["stage2"]
        rows = read_rows(folder / "recall.jsonl", VerdictRow)
        for row, (text, complete) in enumerate(answers):
            changes = {"prediction": text or "v3", "prediction_complete": complete, "correct": text is None}
            rows[row] = rows[row].model_copy(update=changes)
        later = [row.model_copy(update={"gold": (f"v{8 + row.fact}",)}) for row in rows if row.list.startswith("webqa")]
        write_rows(folder / "recall.jsonl", [*rows[: len(answers)], *later])
        lines = [json.loads(line) for line in (folder / "recall.jsonl").read_text(encoding="utf-8").splitlines()]
        right = [answer for line in lines if line["list"].startswith("webqa") for answer in line["gold"]]
        wrong = [line for line in lines if line["list"].startswith("kvr") and not line["correct"]]
        whole = [line["prediction"].strip().lower() in right for line in wrong if line["prediction_complete"]]
        begun = [any(answer.startswith(line["prediction"]) for answer in right) for line in wrong]
        begun = [one for one, line in zip(begun, wrong, strict=True) if not line["prediction_complete"]]
        shares.append((100 * sum(whole) / len(wrong), 100 * (sum(whole) + sum(begun)) / len(wrong)))
    assert shares == [(pytest.approx(100 / 3), pytest.approx(200 / 3)), (50, 50)]
    group = group_of(tmp_path)
    (facts,) = group.facts.values()
    assert [run.later for run in facts.runs] == [pytest.approx(share) for share in shares]
    assert [row[-1] for row in facts.table().rows] == ["41.7 to 58.3"]
    (arms,) = (
        part
        for section in sections([group], tmp_path, [])
        for part in section.parts
        if section.id == "arms" and isinstance(part, Table)
    )
    assert [row[arms.columns.index(LATER)] for row in arms.rows] == ["41.7 to 58.3"]
    assert [run.later for run in group_of(trained.runs).facts["kvr"].runs] == [None]  # gsm8k has no facts


def test_near_ties_and_memory_are_shown(trained, tmp_path: Path, here) -> None:
    known = {"stage1": {"kvr": [1, 1]}, "stage2": {"kvr": [1, 0], "webqa": [1]}}
    memory = {"memory_estimated": 71_234_000_000, "memory_peak": 68_500_000_000}
    folder = trained.write_run(tmp_path, "none", 0, known, **memory)["stage2"]
    results = {
        list_id: result.model_copy(update={"settled_by": {"scoring": 0, "generation, near tie": result.facts}})
        for list_id, result in Recall().read(folder).items()
    }
    Recall().record(results).write(folder / "recall.json")
    lines = [
        "stage1: 71.2 GB of memory estimated, 68.5 GB of memory at the peak",
        "stage2: 3 of 3 answers were near ties, 71.2 GB of memory estimated, 68.5 GB of memory at the peak",
    ]
    for options in ([], ["--seeds"]):
        shown = here("show", "--runs", tmp_path, *options).stdout.splitlines()
        assert [line for line in shown if "of memory" in line] == lines
    entries = json.loads(here("show", "--runs", tmp_path, "--json").stdout)
    assert [entry["near_ties"] for entry in entries] == [0, 2, 1]
    table = next(part for part in settings(group_of(tmp_path)) if isinstance(part, Table))
    assert [row[table.columns.index("near ties") :][:3] for row in table.rows] == [
        ["0", "71.2", "68.5"],
        ["3", "71.2", "68.5"],
    ]


def test_perplexity_is_beside_recall_where_the_base_was_pretrained(trained, tmp_path: Path, here) -> None:
    assert "perplexity" not in here("show", "--runs", trained.runs).stdout
    files = {"perplexity.json": Perplexity().record({"docstrings": trained.result(Perplexity())}).model_dump_json()}
    trained.write_run(tmp_path, "none", 0, {"stage1": {"kvr": [1]}}, profile="llama3-8b", files=files)
    shown = here("show", "--runs", tmp_path).stdout
    assert "perplexity" in shown
    assert f"{trained.result(Perplexity()).perplexity:.4g}" in shown


def test_the_report_is_opened_and_its_answer_printed(trained, tmp_path: Path, here, monkeypatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) == 1)
    done = here("report", trained.runs, "-o", tmp_path, "--open")
    assert opened == [(tmp_path / "index.html").as_uri()]
    *answer, last = done.stdout.splitlines()
    assert last == f"report: {tmp_path / 'index.html'}"
    assert 1 <= len(answer) <= 3
    first = Page(tmp_path / "index.html").text["p.answer"][0]
    assert " ".join(answer).removeprefix("trained on tiny: ").removesuffix(" ...") in first
    again = here("report", trained.runs, "-o", tmp_path, "--open")
    assert (again.returncode, again.stderr) == (0, f"warning: no browser was found here: open {last[8:]} in one\n")


def test_what_was_said_is_whole_in_the_csv_and_a_beginning_is_shown_as_one(trained, tmp_path: Path) -> None:
    known = {"stage1": {"kvr": [1, 1]}, "stage2": {"kvr": [0, 0], "webqa": [1]}}
    file = trained.write_run(tmp_path, "a", 0, known, wrong="x" * 400)["stage2"] / "recall.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    lines[1] |= {"prediction": "r6s", "prediction_complete": False}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (facts,) = facts_of(group_of(tmp_path))
    facts.write(out := io.StringIO())
    said = [row[-1] for row in csv.reader(io.StringIO(out.getvalue()))][1:]
    assert said == ["x" * 400 + "...", "r6s..."]
    assert json.loads(gzip.decompress(base64.b64decode(facts.packed())))["said"] == ["x" * 300 + "…", "r6s..."]


def test_hostile_text_stays_text(trained, tmp_path: Path) -> None:
    for arm in NASTY[:3]:
        known = {"stage1": {"kvr": [1] * len(NASTY)}, "stage2": {"kvr": [0] * len(NASTY), "webqa": [1]}}
        nasty = {"recipe": "../<b>r</b>", "grid_point": "&amp;", "settings": {"a": "'; rm -rf /'"}, "wrong": NASTY[0]}
        trained.write_run(tmp_path, arm, 0, known, asked=NASTY, **nasty)
    file = write_report(tmp_path, tmp_path / "report", None)
    assert file
    page, text = Page(file), file.read_text(encoding="utf-8")
    assert (page.scripts, page.events) == (1, [])
    assert "<b>" not in text.split("<style>")[1].split("</style>")[1]
    assert "default-src 'none'" in text
    packed = re.search(r'<script type="text/plain" id="facts-0">([A-Za-z0-9+/=]+)</script>', text)
    assert packed
    facts = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    assert facts["prompts"] == NASTY  # to the last control character
    assert {f.parent for f in (tmp_path / "report").rglob("*") if f.is_file()} == {
        tmp_path / "report" / folder for folder in ("", "figures", "tables")
    }
    assert not (tmp_path / "<b>r<").exists()


def test_latex_and_markdown_are_escaped() -> None:
    table = Table("t", "50% & more", ["arm"], [[NASTY[2]], ["a\nb"]])
    assert r"\textbackslash{}input\{/etc/passwd\} \& \$x\$ \%" in as_latex(table)
    assert r"50\% \& more" in as_latex(table)
    assert "{*}c{*}" in as_latex(table)  # `\\\\ *` would be a line's end of its own kind
    assert r"50% \| \_a\_ \`b\` \*c\* |" in as_markdown(table)
    assert [line for line in as_markdown(table).splitlines() if line.startswith("| a b")]
    assert next(csv.reader(io.StringIO(as_csv(table).split("\r\n", 1)[1]))) == [NASTY[2]]


def test_a_figure_has_a_dark_variant_and_takes_any_name(trained, tmp_path: Path) -> None:
    trained.write_arms(tmp_path, {"$\\frac": FEW[:1], "_hidden": HALF[:1]})
    light, dark = svgs(arms_figure(store.entries(tmp_path), "kvr"))
    assert light.startswith("<svg")
    assert STYLE["text.color"] in light
    assert STYLE["text.color"] not in dark
    assert len(light) == len(dark)


def test_seeds_that_share_no_point_have_no_mean() -> None:
    apart = {0: [(1.0, 2.0)], 1: [(3.0, 4.0)]}
    assert over_seeds(apart) == []
    assert over_seeds({0: [(1.0, 2.0), (2.0, 0.0)], 1: [(1.0, 4.0)]}) == [(1.0, 3.0)]
    drawn = {"none": {seed: points * 2 for seed, points in apart.items()}}
    _, axes = lines_figure({"stage2": drawn}, {"stage2": "x"}, "y")
    assert len([line for line in axes[0].lines if line.get_linewidth() > 1]) == 2  # each by itself


def test_a_folder_whose_name_is_no_text(trained, tmp_path: Path, here) -> None:
    runs = Path(os.fsdecode(os.fsencode(tmp_path) + b"/s\xff"))
    trained.write_run(runs, "none", 0, {"stage1": {"kvr": [1]}})
    assert here("report", runs, check=False).returncode == 0
    assert r"s\udcff" in (runs / "report" / "index.html").read_text(encoding="utf-8")


def test_several_sweeps_in_one_store(trained, tmp_path: Path) -> None:
    """Other recipes, profiles and places, an instruction stage, and names that would be one file's."""
    known = {"stage1": {"kvr": [1, 1]}, "stage2": {}}
    trained.write_run(tmp_path, "none", 0, {**known, "stage2": {"kvr": [1, 0]}})
    trained.write_run(
        tmp_path, "none", 0, {"stage1": {"kvr": [1, 1]}, "stage2": {"kvr": [1, 0], "webqa": [1]}}, recipe="a b"
    )
    trained.write_run(
        tmp_path, "none", 0, {"stage1": {"kvr": [1, 1]}, "stage2": {"kvr": [1, 0], "webqa": [1]}}, recipe="a-b"
    )
    trained.write_run(tmp_path, "none", 1, known, recipe="a b", profile="llama3-8b", begun=["stage3"])
    told = groups(store.entries(tmp_path), expected(store.records(tmp_path)), Answers())
    made = named(sections(told, tmp_path, []))
    parts = [part for section in made for part in section.parts]
    titles = ["sizes on tiny", "a b on tiny", "a-b on tiny", "a b on llama3-8b"]
    assert list(dict.fromkeys(part.text for part in parts if isinstance(part, Heading))) == titles
    tables = {part.name: part for part in parts if isinstance(part, Table)}
    assert {"retention-a-b-tiny", "retention-a-b-tiny-2"} < tables.keys()
    assert tables["retention-a-b-llama3-8b"].rows[1] == ["none", "stage2", "1", "-", "loss 1.25, 50% right"]
    assert write_report(tmp_path, tmp_path / "one", "sizes")
    assert "a-b on tiny" not in (tmp_path / "one" / "index.html").read_text()
    assert "a-b" not in " ".join(file.name for file in (tmp_path / "one").rglob("*"))


def test_what_is_wrong_in_a_store_is_said_on_the_page(
    trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = {"stage1": {"kvr": [1, 1]}, "stage2": {"kvr": [1, 0], "webqa": [1]}}
    trained.write_run(tmp_path, "none", 0, both)
    folders = trained.write_run(tmp_path, "none", 1, both)
    (folders["stage2"] / "loss.csv").write_text("cut off")  # not what was published
    trained.write_run(tmp_path, "nan", 0, both, losses=(4.0, float("nan"), 1.0), files={"lens.json": '{"version": 3}'})
    store.delete_weights(trained.write_run(tmp_path, "pruned", 0, both)["stage2"])
    (trained.write_run(tmp_path, "unread", 0, both)["stage2"] / "recall.jsonl").unlink()
    trained.write_run(tmp_path, "begun", 0, {}, begun=["stage1"])
    trained.write_run(
        tmp_path, "old", 0, both, files={"stage.json": '{"stage": "stage2"}'}
    )  # as another version wrote it
    trained.write_run(tmp_path, "recipe", 0, both, files={"recipe.yaml": "name: [unclosed\nsource: x\n"})
    assert write_report(tmp_path, tmp_path / "out", None)
    page = Page(tmp_path / "out" / "index.html")
    start = page.tags.index("ul.warnings")
    said = " | ".join(page.text["li."])
    assert start
    for wrong in (
        "loss.csv is not the file that was published",
        "none: seed 1 missing (kvr after stage2",
        "nan, seed 0: the loss of stage2 is no number at 1 steps, first at step 2",
        "weights deleted, results kept: stage2 of pruned",
        "recall.jsonl: cannot be read (No such file",
        "lens.json: results: Field required",
        "begun: nothing is measured yet",
        "recipe.yaml: cannot be read (while parsing",
        "stage.json: has format version none; this toolkit reads version 2; `remix store verify --remove` removes it",
    ):
        assert wrong in said, wrong
    assert capsys.readouterr().err.count("is not the file that was published") == 1


def test_mistakes(trained, tmp_path: Path, here) -> None:
    def ends(*arguments: object) -> tuple[int, str]:
        done = here("report", *arguments, check=False)
        assert done.stderr.count("\n") <= 1
        return done.returncode, done.stderr + done.stdout

    code, said = ends(tmp_path / "nowhere")
    assert (code, "nowhere: is no directory" in said) == (2, True)
    assert ends(tmp_path) == (0, f"{tmp_path}: nothing is published yet\n")
    assert not (tmp_path / "report").exists()
    trained.write_run(tmp_path, "none", 0, {"stage1": {"kvr": [1]}})
    code, said = ends(tmp_path, "--recipe", "size")
    assert (code, "did you mean 'sizes'?" in said) == (2, True)
    for more in (["--runs", tmp_path / "nowhere"], ["--runs", tmp_path, "--recipe", "size"]):
        done = here("show", *more, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "is no directory" in done.stderr or "did you mean 'sizes'?" in done.stderr
    (tmp_path / "file").write_text("")
    code, said = ends(tmp_path, "-o", tmp_path / "file")
    assert (code, "cannot be written" in said) == (2, True)
    (tmp_path / "records" / "cut.json").write_text("{")
    code, said = ends(tmp_path)
    assert (code, "cut.json: cannot be read" in said) == (0, True)


def test_the_command_loads_no_torch(trained, tmp_path: Path) -> None:
    trained.write_run(tmp_path, "none", 0, {"stage1": {"kvr": [1]}})
    code = "import sys; from remix_toolkit.cli.main import main; sys.argv = ['remix', 'report', sys.argv[1]]\n"
    code += "try: main()\nfinally: assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    assert (tmp_path / "report" / "index.html").exists()
