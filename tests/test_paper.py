"""The paper beside ours: every sweep's cells find their place, what is empty stays empty, and each verdict is drawn."""

import csv
import io
import re
from collections.abc import Callable, Iterable
from math import isnan, nan
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from sweeps import shipped
from trained_store import TrainedStore

from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.lens import Lens
from remix_toolkit.graph.sweep import Cell
from remix_toolkit.recipe.difference import as_overrides
from remix_toolkit.recipe.key_fields import determining_settings
from remix_toolkit.report import paper_layout
from remix_toolkit.report.paper import Claim, Table, claims, section, shown, tables
from remix_toolkit.report.paper_layout import paper, view
from remix_toolkit.report.tables import as_csv, as_latex, as_markdown
from remix_toolkit.report.verdicts import known

SWEEPS = sorted(file.stem for file in (ROOT / "recipes" / "paper").glob("*.yaml"))
PRINTED = ROOT.parent / "shared" / "paper" / "tables.yaml"  # a user's clone has none
FACTS = 50
Recall = Callable[[Cell], float]


def by_arm(values: dict[str, float]) -> Recall:
    return lambda cell: next(v for arm, v in values.items() if f", {cell.arm}".endswith(f", {arm}"))


def entries_of(cells: Iterable[Cell], recall: Recall, own: float = 100.0) -> list[dict]:
    """The entries of some cells, as `store.entries` has them: `recall` after the last stage, `own` of a stage's own."""
    entries = []
    for cell in cells:
        record = cell.record()
        about = {name: getattr(record, name) for name in ("recipe", "arm", "grid_point", "profile", "seed")}
        about |= {"overrides": as_overrides(determining_settings(record.overrides)), "run": record.keys[-1], "steps": 9}
        for stage in record.stages:
            for facts, listed in stage.lists.items():
                mine = facts == stage.trained
                row = {"stage": stage.stage, "key": stage.key, "path": "", "task": listed.label, "list": facts}
                row |= {"recall": own if mine else recall(cell), "facts": FACTS, "own": mine, "held_out": None}
                entries.append(about | row)
    return entries


@pytest.fixture
def measured(trained: TrainedStore, tmp_path: Path) -> Callable[..., list[dict]]:
    """As `entries_of`, and of what is no stage's own there is a recall.jsonl: of FACTS facts, the first are known."""

    def measure(cells: Iterable[Cell], recall: Recall, own: float = 100.0) -> list[dict]:
        entries = entries_of(cells, recall, own)
        for number, entry in enumerate(entries):
            if not entry["own"]:
                folder = tmp_path / f"{entry['key']}-{number}-{len(list(tmp_path.iterdir()))}"
                folder.mkdir()
                known = entry["recall"] * FACTS / 100
                rows = [{"list": entry["list"], "prompt": f"{n}?", "correct": n < known} for n in range(FACTS)]
                trained.write_verdicts(folder, rows)
                entry["path"] = str(folder)
        return entries

    return measure


def some(sweep: str, profile: str | None = None, seeds: Iterable[int] = (0, 1, 2), **where: str) -> list[Cell]:
    """Cells of a shipped sweep under some seeds; `place`, `arm`: what their names begin and end with."""
    place, arm = where.get("place", ""), where.get("arm", "")
    cells = [cell for cell in shipped(f"paper/{sweep}", profile) if cell.recipe.seed in seeds]
    return [
        cell for cell in cells if cell.arm.startswith(place) and f", {cell.arm}".endswith(f", {arm}" if arm else "")
    ]


def table(entries: list[dict], name: str, profile: str, *changed: str) -> Table:
    (found,) = (one for one in tables(entries) if (one.name, one.profile, one.changed) == (name, profile, changed))
    return found


def cell_of(found: Table, fact: str, arm: str, column: str) -> paper_layout.Any:
    (row,) = (row for row in found.rows if (row.fact, row.arm) == (fact, arm))
    return row.cells[found.columns.index(column)]


def claim(entries: list[dict], id_: str, profile: str = "llama3-8b") -> Claim:
    (found,) = (one for one in claims(entries) if (one.id, one.profile, one.changed) == (id_, profile, ()))
    return found


# --- the layouts -------------------------------------------------------------------------------------------------


def test_every_table_and_figure_has_a_layout_and_no_other_has() -> None:
    assert sorted(paper().tables) == SWEEPS


@pytest.mark.parametrize("profile", [None, "tiny"])
@pytest.mark.parametrize("sweep", SWEEPS)
def test_all_cells_of_a_sweep_fill_all_cells_of_its_table(sweep: str, profile: str | None) -> None:
    """Under its own profile a sweep leaves no cell empty, each holds its own runs, and none is left over."""
    cells = [cell for cell in shipped(f"paper/{sweep}", profile) if cell.recipe.seed == 0]
    values = {cell.nodes[-1].key: float(n % 97) for n, cell in enumerate(cells)}
    entries = entries_of(cells, lambda cell: values[cell.nodes[-1].key])
    found = [one for one in tables(entries) if one.name == sweep]
    assert {one.profile for one in found if one.measured} == {cell.recipe.profile for cell in cells}
    filled = [one for one in found if one.measured]
    for one in filled:
        assert not one.changed
        assert one.comparable == (profile is None)
        assert all(cell.n == 1 for row in one.rows for cell in row.cells)
    if not any(one.averages for one in filled):
        held = [cell.mean for one in filled for row in one.rows for cell in row.cells]
        tasks = 2 if paper().tables[sweep].measured and profile is None else 1
        expected = [v for cell in cells for v in [values[cell.nodes[-1].key]] * tasks]
        if profile is None:
            assert sorted(held) == sorted(expected)
        else:
            assert set(held) <= set(expected)  # of lengths and ratios, those that the claims are about


def test_runs_of_one_sweep_fill_the_tables_that_hold_the_same_runs() -> None:
    entries = entries_of(some("table2", arm="- / -", place="kvr, "), lambda cell: 20.0)
    assert cell_of(table(entries, "table1", "llama3-8b"), "kvr", "- / -", "avg_nonfactoid").n == 3
    entries = entries_of(some("figure9", place="mistral"), lambda cell: 20.0)
    assert cell_of(table(entries, "table6", "mistral-7b"), "popqa", "- / -", "lama").mean == 20
    assert not [one for one in tables(entries) if one.name == "table5" and one.measured]  # the other model's


@pytest.mark.parametrize("profile", [None, "tiny"])
def test_sweeps_that_share_a_cell_mean_the_same_stage(profile: str | None) -> None:
    entries = entries_of([cell for sweep in SWEEPS for cell in some(sweep, profile, seeds=[0])], lambda cell: 20.0)
    found = paper_layout.find(entries)
    assert len(found) == (len(SWEEPS) + 1 if profile is None else len(SWEEPS))  # figure 9 has two models
    for there in found.values():
        for cell in there.cells.values():
            assert len({entry["key"] for entry in cell}) == 1
    shared = {name: max(len(cell) for cell in there.cells.values()) for (name, _), there in found.items()}
    assert {name for name, most in shared.items() if most == 1} == {"table3", "figure6", "figure7", "figure8"}


def test_the_numbers_are_those_printed() -> None:
    if not PRINTED.exists():
        pytest.skip("tables.yaml: the paper is not beside this clone")
    printed = yaml.safe_load(PRINTED.read_text(encoding="utf-8"))
    names = {0.0: "0%", 0.01: "1%", 0.05: "5%", 0.1: "10%"}
    assert {one["id"] for one in printed["claims"]} <= {one.id for one in paper().claims}
    for name in ("table2", "table3", "table4", "table5", "table6"):
        theirs, ours = printed[name], paper().tables[name]
        for fact in ours.rows:
            assert {names.get(arm, arm) for arm in theirs[fact]} == set(ours.arms) == set(ours.printed[fact])
            for arm, numbers in theirs[fact].items():
                row = dict(zip(ours.show, ours.printed[fact][names.get(arm, arm)], strict=True))
                assert [row[column] for column in theirs["columns"]] == numbers
    assert {fact: rows["- / -"] for fact, rows in paper().tables["table1"].printed.items()} == {
        fact: printed["table2"][fact]["- / -"] for fact in paper().tables["table1"].rows
    }


def test_printed_averages_are_of_the_columns_that_they_are_said_to_be_of() -> None:
    """To a rounded tenth of each; one, from the text, is off by more, and a note says so."""
    off = []
    for name, layout in paper().tables.items():
        seen = view(name, layout.profile[0])
        for fact, arm, printed in [(f, arm, row) for f, rows in layout.printed.items() for arm, row in rows.items()]:
            row = dict(zip(seen.show, printed, strict=True))
            for group in ("factoid", "nonfactoid"):
                values = [row.get(column) for column in seen.groups[group]]
                average = row.get(f"avg_{group}")
                if average is not None and None not in values and abs(sum(values) / len(values) - average) > 0.1:
                    off.append((name, fact, arm, group))
    assert off == [("table3", "kvr", "random / knowledge_pile", "nonfactoid")]


# --- the tables --------------------------------------------------------------------------------------------------


def test_a_cell_has_the_mean_its_interval_the_seeds_and_the_papers_value() -> None:
    values = {0: 10.0, 1: 20.0, 2: 60.0}
    entries = entries_of(
        some("table2", place="kvr, lama", arm="random / knowledge_pile"), lambda c: values[c.recipe.seed]
    )
    found = table(entries, "table2", "llama3-8b")
    one = cell_of(found, "kvr", "random / knowledge_pile", "lama")
    assert (one.mean, one.n, one.seeds, one.paper) == (30, 3, (0, 1, 2), 62.4)
    assert (one.low, one.high) == (pytest.approx(3.4, abs=0.1), pytest.approx(84.4, abs=5))
    empty = cell_of(found, "kvr", "random / knowledge_pile", "webqa")
    assert (empty.mean, empty.low, empty.n, empty.paper) == (None, None, 0, 70.7)
    assert cell_of(found, "kvr", "random / -", "lama").paper == "?"
    assert (found.measured, found.comparable) == (1, True)


def test_an_average_needs_all_its_columns_and_takes_the_seeds_that_all_have() -> None:
    cells = [cell for cell in some("table2", place="kvr, ", arm="- / -") if not cell.arm.startswith("kvr, webqa")]
    entries = entries_of(cells, lambda cell: 10.0 * cell.recipe.seed)
    found = table(entries, "table2", "llama3-8b")
    assert cell_of(found, "kvr", "- / -", "avg_factoid").mean is None  # webqa is not run
    assert cell_of(found, "kvr", "- / -", "avg_nonfactoid").mean == 10
    assert found.averages["avg_factoid"] == ("id", "lama", "entityquestions", "webqa")
    late = entries_of(some("table2", seeds=[1], place="kvr, webqa", arm="- / -"), lambda cell: 50.0)
    average = cell_of(table(entries + late, "table2", "llama3-8b"), "kvr", "- / -", "avg_factoid")
    assert (average.mean, average.seeds) == (20, (1,))  # (10 + 10 + 10 + 50) / 4


def test_another_model_or_changed_settings_never_stand_beside_the_papers_numbers() -> None:
    entries = entries_of(some("table2", "tiny"), lambda cell: 20.0)
    changed = entries_of(some("table2", place="kvr, lama", seeds=[0]), lambda cell: 30.0)
    for entry in changed:
        entry["overrides"] = [*entry["overrides"], "base=another/model"]
    twice = entries_of(some("table2", place="kvr, webqa", arm="random / -", seeds=[0]), lambda cell: 35.0)
    for entry in twice:  # more than the arm mixes in
        entry["overrides"] = [*entry["overrides"], "stages.stage1.mix={random_words: {ratio: 4}}"]
    more = entries_of(some("table2", place="kvr, id", arm="- / -", seeds=[0]), lambda cell: 40.0)
    for entry in more:  # what the arm does not mix in
        entry["overrides"] = [*entry["overrides"], "stages.stage1.mix={random_words: {ratio: 2}}"]
    found = [one for one in tables(entries + changed + twice + more) if one.name == "table2"]
    assert [(one.profile, one.changed, one.comparable, one.measured) for one in found] == [
        ("llama3-8b", (), True, 0),
        ("tiny", (), False, 18),
        ("llama3-8b", ("base=another/model",), False, 6),
        ("llama3-8b", ("stages.stage1.mix={random_words: {ratio: 4}}",), False, 1),
        ("llama3-8b", ("stages.stage1.mix={random_words: {ratio: 2}}",), False, 1),
    ]
    for one in found[1:]:
        assert all(cell.paper is None for row in one.rows for cell in row.cells)
        assert "not comparable" in " ".join(one.notes)
        assert "| paper |" not in as_markdown(shown(one))
        assert "53.2" not in as_csv(shown(one)) + as_latex(shown(one))
    assert found[1].rows[2].arm == "generic / -"  # tiny's own names
    assert "| paper |" in as_markdown(shown(found[0]))


def test_a_stage_that_did_not_learn_its_own_facts_is_named_below_the_table() -> None:
    entries = entries_of(some("table2", place="kvr, lama", arm="- / -", seeds=[0]), lambda cell: 30.0, own=90.0)
    notes = table(entries, "table2", "llama3-8b").notes
    assert any("kvr, - / -: stage1 knows only 90.0% of its own facts" in note for note in notes)


def test_as_text() -> None:
    entries = entries_of(some("table2", place="kvr, lama", arm="random / -"), lambda c: 10.0 * c.recipe.seed)
    found = shown(table(entries, "table2", "llama3-8b"))
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert len(rows) == 3 * 6 * 11
    (row,) = (row for row in rows if row["n"] == "3")
    assert (row["D_A"], row["arm"], row["D_B"], row["mean"], row["paper"]) == ("kvr", "random / -", "lama", "10.0", "?")
    assert rows[0]["mean"] == ""
    lines = as_markdown(found).splitlines()
    assert {line.count("|") for line in lines if line.startswith("|")} == {15}
    assert re.search(r"\| 10\.0 \\\[\d\.\d, \d\d\.\d\\\] n=3 \|", as_markdown(found))
    assert r"| kvr | - / - | ours | \[ \] |" in as_markdown(found)  # not run, and visibly so
    latex = as_latex(found)
    assert {line.count("&") for line in latex.splitlines() if line.endswith(r"\\")} == {13}
    assert r"knowledge\_pile / -" in latex
    assert r"95\% interval" in latex
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")


# --- the claims --------------------------------------------------------------------------------------------------


def test_the_papers_own_numbers_under_the_same_rule() -> None:
    """What they do not support: replay helps everywhere; both stages beat either alone, beyond KVR."""
    sweeps = [sweep for sweep in SWEEPS if paper().tables[sweep].printed]
    entries = entries_of([cell for sweep in sweeps for cell in some(sweep)], lambda cell: nan)
    for number, entry in enumerate(entries):
        entry["path"] = str(number)
    for (name, setting), there in paper_layout.find(entries).items():
        printed = paper().tables[name].printed
        for (fact, arm, column), mine in there.cells.items():
            value = dict(zip(view(name, setting[0]).show, printed.get(fact, {}).get(arm, []), strict=False)).get(column)
            for entry in mine if isinstance(value, float | int) else []:
                entries[int(entry["path"])]["recall"] = value
    found = {
        one.id: one for one in claims([entry for entry in entries if not isnan(entry["recall"])]) if one.comparable
    }
    failed = {id_ for id_, one in found.items() if one.verdict == "does not hold"}
    assert failed == {"replay_everywhere", "both_best_everywhere"}
    assert "popqa, after entityquestions: 10% over 0%: 64.0 against 64.3" in found["replay_everywhere"].why


def test_a_claim_that_holds(measured) -> None:
    arms = {"random / knowledge_pile": 90.0, "random / -": 40.0, "- / knowledge_pile": 50.0}
    cells = [cell for arm in arms for cell in some("table2", place="kvr, ", arm=arm)]
    cells += some("table4", place="kvr, ", arm="10%")
    found = claim(measured(cells, by_arm(arms | {"10%": 70.0})), "both_best")
    assert (found.verdict, found.comparable, len(found.parts)) == ("holds", True, 3)
    assert [part.difference for part in found.parts] == pytest.approx([50, 40, 20])
    assert all(part.low and part.low > 0 and part.seeds == 3 for part in found.parts)
    assert "kvr, after factoid: random / knowledge_pile over 10%: 90.0 against 70.0, +20.0 [" in found.why


def test_a_claim_that_does_not_hold(measured) -> None:
    cells = some("table2", arm="random / -") + some("table2", arm="- / -")
    entries = measured(cells, by_arm({"random / -": 20.0, "- / -": 80.0}))
    found = claim(entries, "random_stage1_factoid")
    assert found.verdict == "does not hold"
    assert found.why.startswith("3 of 3 comparisons fail: kvr, after factoid: random / - over - / -: 20.0 against 80.0")


def test_what_is_missing_is_named(measured) -> None:
    cells = some("table2", place="kvr, ", arm="random / -") + some("table2", place="kvr, lama", arm="- / -")
    found = claim(measured(cells, lambda cell: 50.0), "random_stage1_factoid")
    assert found.verdict == "not enough data"
    assert "missing: table2, kvr, - / - after id, entityquestions, webqa" in found.why
    assert "table2, popqa, random / - after id, lama, entityquestions, webqa" in found.why
    assert {one.verdict for one in claims([])} == {"not enough data"}


def test_an_interval_on_both_sides_decides_nothing(measured) -> None:
    """Seeds that disagree: 60 points more, 40 less, 20 more; one of them alone decides nothing either."""
    kept = {0: 100.0, 1: 0.0, 2: 60.0}
    arms = {"random / knowledge_pile": lambda seed: kept[seed], "- / -": lambda seed: 40.0}
    cells = [cell for arm in arms for cell in some("table3", place="kvr, ", arm=arm)]

    def recall(cell: Cell) -> float:
        return next(of(cell.recipe.seed) for arm, of in arms.items() if f", {cell.arm}".endswith(f", {arm}"))

    entries = measured(cells, recall)
    found = claim(entries, "mistral_kvr", "mistral-7b")
    assert found.verdict == "not enough data"
    assert "the interval lies on both sides of 0" in found.why
    worse = [entry for entry in entries if entry["seed"] != 0]  # on the wrong side, but not wholly
    found = claim(worse, "mistral_kvr", "mistral-7b")
    assert (found.verdict, found.parts[0].difference) == ("not enough data", pytest.approx(-10))
    found = claim([entry for entry in entries if entry["seed"] == 0], "mistral_kvr", "mistral-7b")
    assert found.verdict == "not enough data"
    assert "one seed says nothing of others" in found.why


def test_without_recall_jsonl_seeds_alone_decide_and_one_seed_nothing() -> None:
    arms = {"random / knowledge_pile": 80.0, "- / -": 20.0}
    cells = [cell for arm in arms for cell in some("table3", place="kvr, ", arm=arm)]
    entries = entries_of(cells, by_arm(arms))
    assert claim(entries, "mistral_kvr", "mistral-7b").verdict == "holds"
    found = claim([entry for entry in entries if entry["seed"] == 0], "mistral_kvr", "mistral-7b")
    assert (found.verdict, found.parts[0].low) == ("not enough data", None)
    assert "one seed says nothing of others" in found.why


def test_an_unreadable_file_is_as_one_that_is_gone_and_said(measured) -> None:
    arms = {"random / knowledge_pile": 80.0, "- / -": 20.0}
    cells = [cell for arm in arms for cell in some("table3", place="kvr, ", arm=arm)]
    entries = measured(cells, by_arm(arms))
    file = Path(next(entry["path"] for entry in entries if entry["path"])) / "recall.jsonl"
    file.write_text('{"list": "kv', encoding="utf-8")
    with pytest.raises(BadInput, match=r"recall\.jsonl: has no answers to the facts"):
        claims(entries)
    warnings: list[str] = []
    parts = section(entries, known, warnings.append)
    assert parts
    assert {str(file) in line for line in warnings} == {True}
    (found,) = (
        one for one in claims(entries, warn=lambda _: None) if (one.id, one.profile) == ("mistral_kvr", "mistral-7b")
    )
    assert found.verdict == "holds"  # over seeds alone


def test_a_margin_has_to_be_reached(measured) -> None:
    """At least 30 points, with two stages more, everywhere."""
    cells = some("figure8")
    for remix, verdict in ((60.0, "holds"), (22.0, "does not hold")):
        entries = measured(cells, lambda cell, remix=remix: 10.0 if ", - / - / -" in cell.arm else remix)
        found = claim(entries, "three_stages")
        assert [part.difference for part in found.parts] == pytest.approx([remix - 10] * 4)
        assert found.verdict == verdict
        assert "(claimed: 30 or more)" in found.why


def test_verdicts_on_tiny_are_labelled_so(measured) -> None:
    entries = measured(some("table2", "tiny"), lambda cell: 90.0 if ", random / -" in cell.arm else 10.0)
    found = claim(entries, "random_stage1_factoid", "tiny")
    assert (found.verdict, found.comparable) == ("holds", False)
    assert found.why.startswith("On tiny, which is not the paper's model and setting: kvr, after factoid")
    assert claim(entries, "random_stage1_factoid").verdict == "not enough data"  # nothing of the paper's own is run
    nonfactoid = claim(entries, "stage1_better_nonfactoid", "tiny")
    assert nonfactoid.verdict == "not enough data"
    assert "tiny has no such D_B" in nonfactoid.why


def test_layers_are_judged_by_the_logit_lens_where_models_were_probed(trained, measured) -> None:
    cells = [cell for cell in some("figure4", seeds=[0]) if not cell.arm.endswith("knowledge_pile / -")]
    entries = measured(cells, lambda cell: 50.0)
    assert "missing: figure4, kvr, - / - after lama" in claim(entries, "earlier_layers").why
    again = [{**entry, "seed": 1} for entry in entries]
    for entry in entries:
        if entry["path"]:
            first, spread = (10.0, 8.0) if "random" in entry["arm"] else (20.0, 3.0)
            damaged = Path(entry["path"]) / "lens.json"
            result = trained.result(Lens(), first_layer=first, spread=spread)
            Lens().record({entry["list"]: result}).write(damaged)
    assert "one seed says nothing of others" in claim(entries, "earlier_layers").why
    found = claim(entries + again, "earlier_layers")
    assert found.verdict == "holds"
    assert "kvr, first_layer, after factoid: - / - over random / knowledge_pile: 20.0 against 10.0" in found.why
    damaged.write_text('{"kvr', encoding="utf-8")
    said: list[str] = []
    assert {one.id for one in claims(entries + again, warn=said.append)} >= {"earlier_layers"}
    assert all(line.startswith(f"{damaged}: cannot be read (Invalid JSON") for line in said)
    assert said
