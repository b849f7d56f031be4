"""The report: what it says first and what it cannot say, hostile text, damaged stores, the files beside the page."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest
from trained_store import FEW, HALF, TrainedStore, once, sweep_of

from remix_toolkit import store
from remix_toolkit.evaluate.held_out import HeldOut
from remix_toolkit.evaluate.interference import Interference
from remix_toolkit.evaluate.lens import Lens
from remix_toolkit.evaluate.perplexity import Perplexity
from remix_toolkit.evaluate.recall import Recall, VerdictRow
from remix_toolkit.records import RunRecord, read_rows, write_rows
from remix_toolkit.report.facts import LATER, facts_of
from remix_toolkit.report.page import write_report
from remix_toolkit.report.parts import Table, as_csv, as_latex, as_markdown
from remix_toolkit.report.settings import settings

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
BOTH = {"stage1": {"kvr": [1, 1]}, "stage2": {"kvr": [1, 0], "webqa": [1]}}


class Page(HTMLParser):
    """A page's ids, the text of its elements by tag and class, what it would fetch or run, what its pictures show."""

    def __init__(self, file: Path | None) -> None:
        super().__init__()
        assert file
        self.ids: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.addresses: list[str] = []
        self.alts: list[str] = []
        self.runs: list[str] = []
        self.at = ""
        self.html = file.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self.at = f"{tag}.{about.get('class') or ''}"
        self.text.setdefault(self.at, []).append("")
        self.ids += [about["id"]] if about.get("id") else []
        self.addresses += [about[name] or "" for name in ("src", "srcset", "href") if name in about]
        self.alts += [about["alt"] or ""] if tag == "img" else []
        self.runs += [tag] * (tag == "script" and about.get("type") != "text/plain")
        self.runs += [name for name in about if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self.at:
            self.text[self.at][-1] += data


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "tables" / f"{name}.csv")


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
    (answer,) = page.text["p.answer"]
    interval = "(mean of 3 seeds, 95% interval 35.2 to 64.8)"
    assert f"random still knows 50.0% of the 40 kvr facts that stage1 taught {interval}, the most of 2 arms" in answer
    assert re.search(r"ahead of none \(10\.0%\) by \+40\.0 points, 95% interval \+\d", answer)
    assert (made / "mine.txt").read_text() == "mine"


def test_a_run_of_which_nothing_can_be_said_yet_does_not_stand_first(trained, tmp_path: Path, capsys) -> None:
    trained.write_run(tmp_path, "a", 0, {"stage1": {"kvr": [1] * 4}}, recipe="first")
    trained.write_run(tmp_path, "b", 0, BOTH, recipe="second")
    page = Page(write_report(tmp_path, tmp_path / "out", None))
    assert ["still knows" in answer for answer in page.text["p.answer"]] == [True, False]
    assert capsys.readouterr().out.startswith("second on tiny: After stage2")


def test_the_page_needs_nothing_else_and_its_pictures_say_what_is_seen(made: Path) -> None:
    page = Page(made / "index.html")
    assert page.runs == ["script"]
    beside = [name for name in page.addresses if not name.startswith(("data:", "#"))]
    assert beside
    assert all((made / name).is_file() for name in beside)  # every link of the page leads somewhere
    assert all(name[1:] in page.ids for name in page.addresses if name.startswith("#"))
    pictures = list((made / "figures").glob("*.png"))
    assert len(page.alts) == len(pictures) == 4
    assert all(png.with_suffix(".pdf").read_bytes().startswith(b"%PDF") for png in pictures)
    assert page.alts.count("The numbers are in the table that follows.") == 2
    assert sum(bool(re.search(r"\d", alt)) for alt in page.alts) == 2  # curves and losses have no table


def test_tables_lie_beside_the_page(made: Path) -> None:
    assert len({frozenset(f.stem for f in (made / "tables").glob(f"*.{end}")) for end in ("md", "tex")}) == 1
    means = table(made, "retention-sizes-tiny").set_index(["arm", "stage", "task"]).loc[("none", "stage2", "kvr")]
    assert [means["mean"], means["sd"], means["seeds"]] == [10, 5, "0, 1, 2"]
    assert [round(means[end], 1) for end in ("low", "high")] == [2.3, 34.6]
    text = (made / "tables" / "retention-sizes-tiny.md").read_text(encoding="utf-8")
    assert "| none | stage2 | 0, 1, 2 | 10.0 ± 5.0 | 100.0 ± 0.0 |" in text
    text = (made / "tables" / "retention-sizes-tiny.tex").read_text(encoding="utf-8")
    assert r"none & stage2 & 0, 1, 2 & 10.0 $\pm$ 5.0" in text


def test_every_number_of_two_tables_is_that_of_the_answers(made: Path) -> None:
    """Recomputed from recall.jsonl: recall after each stage, and what became of the facts."""
    known: dict[tuple[str, int, str], dict[str, bool]] = {}
    for record in map(RunRecord.read, (made.parent / "records").glob("*.json")):
        for stage in record.stages:
            text = (store.published_stages(made.parent)[stage.key] / "recall.jsonl").read_text(encoding="utf-8")
            for line in map(json.loads, text.splitlines()):
                at = (record.arm, record.seed, f"{stage.stage} {stage.lists[line['list']].label}")
                known.setdefault(at, {})[line["prompt"]] = line["correct"]
    for row in table(made, "retention-sizes-tiny").itertuples():
        recalls = [100 * fmean(known[row.arm, seed, f"{row.stage} {row.task}"].values()) for seed in range(3)]
        assert (row.mean, row.n) == (pytest.approx(fmean(recalls)), 3)
    for row in table(made, "facts-sizes-tiny-kvr").itertuples():
        before, after = (known[row.arm, row.seed, f"{stage} kvr"] for stage in ("stage1", "stage2"))
        assert (row.kept, row.lost) == tuple(sum(before[p] and after[p] == k for p in after) for k in (True, False))


def test_a_trained_store_is_reported_with_all_that_was_measured(trained, tmp_path: Path, here, monkeypatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or len(opened) == 1)
    done = here("report", trained.runs, "-o", tmp_path, "--open")
    page = Page(tmp_path / "index.html")
    assert {"matrix", "curves", "facts", "probes", "losses", "settings", "rerun"} < set(page.ids)
    numbers = [f"{one.first_layer:.1f}" for one in Lens().read(trained.stages[1]).values()]
    numbers += [f"{trained.result(Interference()).groups['whole']['a.b'].cosine:+.3f}"]
    numbers += [f"loss {trained.result(HeldOut()).loss:.2f}"]
    cells = [text.strip() for tag, texts in page.text.items() if tag.startswith("td") for text in texts]
    assert [number for number in numbers if not any(cell.startswith(number) for cell in cells)] == []
    assert "perplexity" not in page.html.replace("perplexity.json", "")  # the base's weights were random
    assert list(table(tmp_path, "foretold-trained-tiny")["facts of"]) == ["stage1"]
    assert facts_of(sweep_of(trained.runs), "kvr").later("trained") == "-"  # gsm8k has no facts
    *answer, last = done.stdout.splitlines()
    assert (opened, last) == ([(tmp_path / "index.html").as_uri()], f"report: {tmp_path / 'index.html'}")
    assert 1 <= len(answer) <= 3
    assert " ".join(answer).removeprefix("trained on tiny: ").removesuffix(" ...") in page.text["p.answer"][0]
    trained.write_run(tmp_path / "runs", "none", 0, {"stage1": {"kvr": [1]}})
    again = here("report", tmp_path / "runs", "-o", tmp_path, "--open")
    assert (again.returncode, again.stderr) == (0, f"warning: no browser was found here: open {last[8:]} in one\n")


def test_a_fact_is_kept_lost_gained_or_never_learnt(trained, tmp_path: Path) -> None:
    """Of runs that have both stages; what was answered is whole in the CSV, and shortened on the page."""
    ends = {"stage1": {"kvr": [1, 1, 0, 0]}, "stage2": {"kvr": [1, 0, 1, 0], "webqa": [1]}}
    trained.write_run(tmp_path, "a", 0, ends, wrong="x" * 400 + "{row}")
    trained.write_run(tmp_path, "a", 1, {**ends, "stage2": {"kvr": [1, 1, 1, 0], "webqa": [1]}})
    trained.write_run(tmp_path, "b", 0, {"stage1": {"kvr": [1, 1, 1]}})  # has not come to stage2
    shutil.rmtree(trained.write_run(tmp_path, "c", 0, BOTH)["stage1"])
    facts = facts_of(sweep_of(tmp_path), "kvr")
    assert facts
    assert facts.table().shown.loc["a"].tolist() == [2, 37.5, 12.5, 25.0, 25.0, "0.0"]
    explorer = facts.explorer()
    answers = explorer.answers()
    assert [list(row[3:]) for row in explorer.rows] == [
        [2, "kept 2 of 2"],
        [1, f"kept 1 of 2; lost 1 of 2: {'x' * 300}…"],
        [2, "gained 2 of 2"],
        [0, f"never learnt 2 of 2: {'x' * 300}…, wrong 3..."],
    ]
    assert answers.iloc[1].tolist()[:5] == ["The value of key 1 is?", "v1", "a", 0, "lost"]
    assert answers.iloc[1].tolist()[6] == "x" * 400 + "1..."
    assert answers["wrong_answer_after_stage1"].isna().tolist() == [True, True, False, False] * 2


def test_the_share_of_wrong_answers_that_are_answers_of_later_facts(trained, tmp_path: Path) -> None:
    """Seed 0: one of three is, another was cut off and may be; seed 1: one of two. Recomputed from recall.jsonl."""
    predictions = {0: [("V9 ", True), ("v", False), ("v0", True), (None, True)], 1: [("v8", True), ("x", False)]}
    shares = []
    for seed, answers in predictions.items():
        known = {"stage1": {"kvr": [1] * 4}, "stage2": {"kvr": [0] * len(answers), "webqa": [1, 1]}}
        known["stage1"] = {"kvr": [1] * len(answers)}
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
        cut = [line["prediction"] for line in wrong if not line["prediction_complete"]]
        begun = [any(answer.startswith(text) for answer in right) for text in cut]
        shares.append([100 * sum(whole) / len(wrong), 100 * (sum(whole) + sum(begun)) / len(wrong)])
    assert shares == [[pytest.approx(100 / 3), pytest.approx(200 / 3)], [50, 50]]
    assert write_report(tmp_path, tmp_path / "report", None)
    runs = table(tmp_path / "report", "facts-sizes-tiny-kvr")
    assert runs[["later_at_least", "later_at_most"]].to_numpy().tolist() == [pytest.approx(share) for share in shares]
    text = (tmp_path / "report" / "tables" / "arms-sizes-tiny-kvr.md").read_text(encoding="utf-8")
    assert LATER in text
    assert "| 41.7 to 58.3 |" in text


def test_near_ties_and_memory_are_shown(trained, tmp_path: Path, here) -> None:
    """By `remix show`, in its JSON and in the table of settings, which says too that weights are gone."""
    memory = {"memory_estimated": 71_234_000_000, "memory_peak": 68_500_000_000}
    folder = trained.write_run(tmp_path, "none", 0, BOTH, **memory)["stage2"]
    results = {
        list_id: result.model_copy(update={"settled_by": {"scoring": 0, "generation, near tie": result.facts}})
        for list_id, result in Recall().read(folder).items()
    }
    Recall().record(results).write(folder / "recall.json")
    store.delete_weights(folder)
    lines = [
        "stage1: 71.2 GB of memory estimated, 68.5 GB of memory at the peak",
        "stage2: 3 of 3 answers were near ties, 71.2 GB of memory estimated, 68.5 GB of memory at the peak",
    ]
    for options in ([], ["--seeds"]):
        shown = here("show", "--runs", tmp_path, *options).stdout.splitlines()
        assert [line for line in shown if "of memory" in line] == lines
    entries = json.loads(here("show", "--runs", tmp_path, "--json").stdout)
    assert [entry["near_ties"] for entry in entries] == [0, 2, 1]
    warnings: list[str] = []
    trained_with, recipe = settings(sweep_of(tmp_path, warnings))
    columns = trained_with.shown[["near ties", "GB estimated", "GB at the peak"]]
    assert columns.to_numpy().tolist() == [["0", "71.2", "68.5"], ["3", "71.2", "68.5"]]
    assert ("name: sizes" in recipe.text, warnings) == (True, ["weights deleted, results kept: stage2 of none"])


def test_perplexity_is_beside_recall_where_the_base_was_pretrained(trained, tmp_path: Path, here) -> None:
    assert "perplexity" not in here("show", "--runs", trained.runs).stdout
    files = {"perplexity.json": Perplexity().record({"docstrings": trained.result(Perplexity())}).model_dump_json()}
    trained.write_run(tmp_path, "none", 0, {"stage1": {"kvr": [1]}}, profile="llama3-8b", files=files)
    shown = here("show", "--runs", tmp_path).stdout
    assert "perplexity" in shown
    assert f"{trained.result(Perplexity()).perplexity:.4g}" in shown


def test_hostile_text_stays_text(trained, tmp_path: Path) -> None:
    """In the page, in its files' names and in figures; test_report_browser.py sees that nothing of it runs."""
    for arm in [*NASTY[:3], "$\\frac", "_hidden"]:
        known = {"stage1": {"kvr": [1] * len(NASTY)}, "stage2": {"kvr": [0] * len(NASTY), "webqa": [1]}}
        nasty = {"recipe": "../<b>r</b>", "grid_point": "&amp;", "settings": {"a": "'; rm -rf /'"}, "wrong": NASTY[0]}
        trained.write_run(tmp_path, arm, 0, known, asked=NASTY, **nasty)
    page = Page(write_report(tmp_path, tmp_path / "report", None))
    assert page.runs == ["script"]
    assert "<b>" not in page.html.split("<style>")[1].split("</style>")[1]
    assert "default-src 'none'" in page.html
    (csv,) = (tmp_path / "report" / "tables").glob("facts-*-all.csv")
    assert set(pd.read_csv(csv, keep_default_na=False)["fact"]) == set(NASTY)  # to the last control character
    assert {f.parent for f in (tmp_path / "report").rglob("*") if f.is_file()} == {
        tmp_path / "report" / folder for folder in ("", "figures", "tables")
    }
    assert not (tmp_path / "<b>r<").exists()


def test_latex_and_markdown_are_escaped() -> None:
    shown = Table("t", "50% & more", pd.DataFrame({"arm": [NASTY[2], "a\nb", None]}), words=("arm",))
    assert r"\textbackslash{}input\{/etc/passwd\} \& \$x\$ \%" in as_latex(shown)
    assert r"50\% \& more" in as_latex(shown)
    assert "{*}c{*}" in as_latex(shown)  # `\\ *` would be a line's end of its own kind
    assert r"50% \| \_a\_ \`b\` \*c\* |" in as_markdown(shown)
    assert as_markdown(shown).splitlines()[-2:] == ["| a b |", "| - |"]
    assert as_csv(shown).splitlines()[1] == NASTY[2]


def test_a_folder_whose_name_is_no_text(trained, tmp_path: Path, here) -> None:
    runs = Path(os.fsdecode(os.fsencode(tmp_path) + b"/s\xff"))
    trained.write_run(runs, "none", 0, {"stage1": {"kvr": [1]}})
    assert here("report", runs, check=False).returncode == 0
    assert r"s\udcff" in (runs / "report" / "index.html").read_text(encoding="utf-8")


def test_several_sweeps_in_one_store(trained, tmp_path: Path) -> None:
    """Other recipes, profiles and places, an instruction stage, and names that would be one file's."""
    trained.write_run(tmp_path, "none", 0, {"stage1": {"kvr": [1, 1]}, "stage2": {"kvr": [1, 0]}})
    trained.write_run(tmp_path, "none", 0, BOTH, recipe="a b")
    trained.write_run(tmp_path, "none", 0, BOTH, recipe="a-b")
    more = {"recipe": "a b", "profile": "llama3-8b", "begun": ["stage3"]}
    trained.write_run(tmp_path, "none", 1, {"stage1": {"kvr": [1, 1]}, "stage2": {}}, **more)
    page = Page(write_report(tmp_path, tmp_path / "report", None))
    titles = ["sizes on tiny", "a b on tiny", "a-b on tiny", "a b on llama3-8b"]
    assert list(dict.fromkeys(map(str.strip, page.text["h3."]))) == titles
    text = (tmp_path / "report" / "tables" / "retention-a-b-tiny-2.md").read_text(encoding="utf-8")
    assert text.startswith("**a-b on tiny")
    text = (tmp_path / "report" / "tables" / "retention-a-b-llama3-8b.md").read_text(encoding="utf-8")
    assert "| none | stage2 | 1 | - | loss 1.25, 50% right |" in text
    page = Page(write_report(tmp_path, tmp_path / "one", "sizes"))
    assert "a-b" not in page.html + " ".join(file.name for file in (tmp_path / "one").rglob("*"))


def test_what_is_wrong_in_a_store_is_on_the_page(trained, tmp_path: Path, capsys) -> None:
    trained.write_run(tmp_path, "none", 0, BOTH)
    folders = trained.write_run(tmp_path, "none", 1, BOTH)
    (folders["stage2"] / "loss.csv").write_text("cut off")  # not what was published
    curve = {"retention.jsonl": "{}\n"}
    (trained.write_run(tmp_path, "none", 2, BOTH, files=curve)["stage2"] / "retention.jsonl").unlink()
    trained.write_run(tmp_path, "nan", 0, BOTH, losses=(4.0, float("nan"), 1.0), files={"lens.json": '{"version": 3}'})
    store.delete_weights(trained.write_run(tmp_path, "pruned", 0, BOTH)["stage2"])
    (trained.write_run(tmp_path, "unread", 0, BOTH)["stage2"] / "recall.jsonl").unlink()
    trained.write_run(tmp_path, "begun", 0, {}, begun=["stage1"])
    older = {"stage.json": '{"stage": "stage2"}'}  # as another version wrote it
    trained.write_run(tmp_path, "old", 0, BOTH, files=older)
    trained.write_run(tmp_path, "recipe", 0, BOTH, files={"recipe.yaml": "name: [unclosed\nsource: x\n"})
    page = Page(write_report(tmp_path, tmp_path / "out", None))
    wrong = " | ".join(page.text["ul.warnings"] + page.text["li."])
    for warning in (
        "loss.csv: is not the file that was written (its checksum differs); `remix store verify --remove` removes it",
        "retention.jsonl: cannot be read (No such file or directory)",
        "nan, seed 0: the loss of stage2 is no number at 1 steps, first at step 2",
        "weights deleted, results kept: stage2 of pruned",
        "recall.jsonl: cannot be read (No such file",
        "lens.json: results: Field required",
        "begun: nothing is measured yet",
        "stage.json: has format version none; this toolkit reads version 2; `remix store verify --remove` removes it",
    ):
        assert warning in wrong, warning
    assert "none: seed 1 missing" not in wrong  # what is damaged is missing, and no more of its stage
    assert capsys.readouterr().err.count("stage.json: has format version none") == 1


def test_mistakes(trained, tmp_path: Path, here) -> None:
    def ends(*arguments: object) -> tuple[int, str]:
        done = here("report", *arguments, check=False)
        assert done.stderr.count("\n") <= 1
        return done.returncode, done.stderr + done.stdout

    code, text = ends(tmp_path / "nowhere")
    assert (code, "nowhere: is no directory" in text) == (2, True)
    assert ends(tmp_path) == (0, f"{tmp_path}: nothing is published yet\n")
    assert not (tmp_path / "report").exists()
    trained.write_run(tmp_path, "none", 0, {"stage1": {"kvr": [1]}})
    code, text = ends(tmp_path, "--recipe", "size")
    assert (code, "did you mean 'sizes'?" in text) == (2, True)
    for more in (["--runs", tmp_path / "nowhere"], ["--runs", tmp_path, "--recipe", "size"]):
        done = here("show", *more, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert "is no directory" in done.stderr or "did you mean 'sizes'?" in done.stderr
    (tmp_path / "file").write_text("")
    code, text = ends(tmp_path, "-o", tmp_path / "file")
    assert (code, "cannot be written" in text) == (2, True)
    (tmp_path / "records" / "cut.json").write_text("{")
    code, text = ends(tmp_path)
    assert (code, "cut.json: cannot be read" in text) == (0, True)


def test_the_command_loads_no_torch(trained, tmp_path: Path) -> None:
    trained.write_run(tmp_path, "none", 0, {"stage1": {"kvr": [1]}})
    code = "import sys; from remix_toolkit.cli.main import main; sys.argv = ['remix', 'report', sys.argv[1]]\n"
    code += "try: main()\nfinally: assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    assert (tmp_path / "report" / "index.html").exists()
