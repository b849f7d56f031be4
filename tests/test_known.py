"""What the base knew before: measured of the base and after each stage, shown beside what was kept."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from remix_toolkit import disk
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.known import Known
from remix_toolkit.evaluate.measurements import requested
from remix_toolkit.evaluate.recall import Verdict
from remix_toolkit.graph.jobs import graph
from remix_toolkit.graph.lineage import lineage
from remix_toolkit.graph.sweep import Cell
from remix_toolkit.recipe.load import load_recipe, read_resolved
from remix_toolkit.report import results
from remix_toolkit.report.card import card
from remix_toolkit.report.page import write_report

RECIPE = """\
base: base
global_batch_size: 8
train: {max_steps: 1, save_strategy: "no"}
evaluate: {known: {task: capitals, size: 12}}
stages:
  stage1: {data: {task: kvr, size: 8}}
"""
PRETRAINED = ["base=a/b"]


def answers(knows: Callable[[Pair], bool]) -> Callable[..., list[Verdict]]:
    """Stands in for recall: a model that knows some facts, and says London to the others."""

    def recall(model: object, tokenizer: object, facts: Sequence[Pair], whole: bool = False) -> list[Verdict]:
        return [
            Verdict(
                prompt=fact.prompt,
                gold=fact.answers,
                correct=knows(fact),
                prediction=fact.response if knows(fact) else "London",
                prediction_complete=True,
                settled_by="scoring",
            )
            for fact in facts
        ]

    return recall


@pytest.fixture
def mine(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe beside a directory that counts as a pretrained base."""
    shutil.copytree(tiny_base, tmp_path / "base", ignore=shutil.ignore_patterns("manifest.json"))
    (tmp_path / "mine.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine.yaml"


def test_what_the_base_knew_is_asked_again_after_a_stage(here, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base knows the capitals of all countries in A in one format; afterwards, Algeria's and Albania's are left."""
    monkeypatch.setattr("remix_toolkit.evaluate.recall.recall", answers(lambda fact: fact.subject < "B" and fact.plain))
    monkeypatch.setattr("remix_toolkit.evaluate.known.recall", answers(lambda fact: fact.subject[:2] == "Al"))
    command = ("run", mine, "--runs", mine.parent / "runs")
    shown = here(*command, folder=mine.parent).stdout
    runs = mine.parent / "runs"
    (stage,), (base,) = (runs / "stages").iterdir(), (runs / "measured").glob("*/")
    (known,) = Known().verify(stage).values()
    assert (known.asked, known.facts, known.guesses, known.kept) == (12, 11, 0, 2)
    assert (known.before, known.after) == ({"tulu": 0, "qa": 11}, {"tulu": 2, "qa": 2})
    line = "known before: 11 of 12 facts of capitals, 18.2% after stage1"
    assert line in shown
    assert "(base)" in shown  # its perplexity
    assert f"- {line}" in card(stage)
    page = write_report(runs, mine.parent / "report", None)
    assert page
    assert line in page.read_text(encoding="utf-8")
    assert "(base)" in (mine.parent / "report" / "tables" / "abilities-mine-tiny.csv").read_text(encoding="utf-8")
    published = results.read_stage(stage)
    assert next(iter(published.probes["known"].values()))["kept"] == 2
    assert published.base["perplexity"].keys() == published.probes["perplexity"].keys()

    file = base / "perplexity.json"
    good = file.read_text(encoding="utf-8")
    assert here("store", "verify", "--runs", runs).stdout.count(" of ") == 1
    file.write_text(good.replace('"tokens": ', '"tokens": 1'), encoding="utf-8")
    checked = here("store", "verify", "--runs", runs, check=False)
    assert (checked.returncode, "perplexity.json: is not the file that was written" in checked.stdout) == (1, True)
    disk._warn_once.cache_clear()
    here(*command, folder=mine.parent)
    assert file.read_text(encoding="utf-8") == good


def test_a_base_that_knew_nothing(mine: Path) -> None:
    """That is a result, and no error."""
    from remix_toolkit.evaluate.base import Models, Subject
    from remix_toolkit.report.words import known_before

    recipe = load_recipe(mine)
    subject = Subject(recipe, "stage1", {}, {}, [], [], [], 1, known=lambda: (12, []))
    result, rows = Known().measure("capitals-1", subject, Models(None, None, None))  # type: ignore[arg-type]
    assert (result.facts, rows, Known().problem(result, rows)) == (0, [], None)
    lines = known_before([{"arm": arm, "stage": "stage1", **result.model_dump()} for arm in "ab"])
    assert lines == ["known before: none of the 12 facts of capitals that the base model was asked"]


def test_capitals_are_asked_of_a_pretrained_base_unless_a_recipe_says_otherwise(tmp_path: Path) -> None:
    def known(*settings: str) -> set[str]:
        return {one for one in requested(load_recipe("kvr", "tiny", list(settings)), "stage2") if "known" in one}

    assert known() == known("base=tiny-128x2") == known(*PRETRAINED, "evaluate.known=false") == set()
    (default,) = known(*PRETRAINED)
    assert default.startswith("known capitals-")
    assert known("evaluate.known={task: capitals}") == {default}  # even of the tiny base
    others = [known(*PRETRAINED, more) for more in ("few_shot.format=qa", "evaluate.known={task: capitals, size: 9}")]
    assert len({default}.union(*others)) == 3
    recipe = load_recipe("kvr", "tiny", [*PRETRAINED, "paths.popqa=P", "evaluate.known={task: popqa, size: 200}"])
    assert recipe.known
    assert recipe.known.model_dump()["path"] == "P"
    file = tmp_path / "resolved.yaml"
    file.write_text(json.dumps(recipe.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    assert read_resolved(file).known == recipe.known
    jobs = graph([Cell("kvr", recipe, lineage(recipe))])
    (split,) = (job for job in jobs.values() if job.kind == "split" and job.task == recipe.known)
    assert {split.key in job.needs for job in jobs.values() if job.kind == "measure"} == {True}
    assert not any(split.key in job.needs for job in jobs.values() if job.kind == "train")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("{task: capitals, sizes: 3}", "evaluate.known.sizes: unknown key; did you mean 'size'"),
        ("{task: capital}", "evaluate.known.task: unknown task 'capital'; did you mean 'capitals'"),
        ("{task: gsm8k}", "instructions have no recall"),
        ("{size: 3}", "names no task"),
        ("true", "evaluate.known: "),
        ("{task: capitals, familiarity: familiar}", "evaluate.known.familiarity: .*leave it out"),
    ],
)
def test_mistakes_in_it_are_refused_with_their_key(settings: str, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        load_recipe("kvr", "tiny", [f"evaluate.known={settings}"])


def test_it_is_what_the_base_knew_and_no_stage() -> None:
    with pytest.raises(BadInput, match="base_stage puts 'taught' in its place"):
        load_recipe("familiar_facts", "tiny", ["evaluate.known={task: capitals}"])
