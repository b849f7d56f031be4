"""Which rows a recipe takes of a task: as familiar as asked for, and sharing no fact with the stages before."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remix_toolkit.data import few_shot, tasks
from remix_toolkit.data.overlap import FactIndex
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import Factoid, Instruction, Pairs, Recipe, Rows
from remix_toolkit.stage import familiar

CHUNK = 2000  # candidates looked for in the earlier stages' texts at a time: some tasks have a million spellings


def take_rows(
    recipe: Recipe,
    task: Rows,
    runs: Path,
    earlier_facts: Sequence[Pair] = (),
    earlier_mixing: Sequence[Pair] = (),
    ask: bool = True,
) -> tuple[list[Pair], dict[str, Any]]:
    """The rows that a recipe takes of a task, held-out rows included, and what became of the others.

    Rows qualify that are as familiar as asked for and that share no fact with what the stages before trained on, in
    either direction; the user's own rows that do raise BadInput, which names them. Without `ask`, facts of which it is
    not known whether the base model knows them count as qualified.
    """
    rows = tasks.read_task(task, recipe.data_seed)
    candidates, left_out = rows.pairs, Counter[str]()
    exemplars: list[Pair] = []
    familiarity = task.familiarity if isinstance(task, Factoid) else None
    if isinstance(task, Factoid) and (familiarity or task.prompt == "few_shot"):
        exemplars, candidates = few_shot.draw_exemplars(task, candidates, recipe.few_shot)
    verdicts = None
    if isinstance(task, Factoid) and familiarity:
        verdicts = familiar.verdicts(recipe, task, exemplars, candidates, runs, ask)
    end = None if task.size is None else task.start + task.size + held_out_rows(task)
    overlap = _Overlap(candidates, earlier_facts, earlier_mixing)
    qualified: list[Pair] = []
    unknown = 0
    for number, pair in enumerate(candidates):
        if len(qualified) == end:
            break
        verdict = next(verdicts, None) if verdicts else None
        unknown += bool(verdicts) and verdict is None
        if verdict is not None and verdict != (familiarity == "familiar"):
            left_out["familiar" if familiarity == "unfamiliar" else "unfamiliar"] += 1
            continue
        # The first `start` rows are not taken: for in-domain rows, they are those of the earlier stage.
        if len(qualified) >= task.start and overlap.holds(number):
            if isinstance(task, Pairs):
                location = rows.locations[rows.pairs.index(pair)]
                raise BadInput(
                    f"{location}: {pair.prompt!r} -> {pair.response!r} shares a fact with what an earlier stage trains "
                    "on; to train on such facts again, use mix: replay"
                )
            left_out["shares a fact with an earlier stage"] += 1
            continue
        qualified.append(pair)
    if verdicts:
        verdicts.close()
    taken = _select(task, qualified, familiarity)
    if isinstance(task, Factoid) and task.prompt == "few_shot":
        taken = [few_shot.with_exemplars(exemplars, pair) for pair in taken]
    report = {"rows": rows.rows, "usable": len(rows.pairs), "dropped": dict(rows.dropped), "noted": dict(rows.noted)}
    report |= {"exemplars": len(exemplars), "left_out": dict(left_out), "familiarity_unknown": unknown}
    return taken, report


def held_out_rows(task: Rows) -> int:
    """How many rows after the trained ones are held out."""
    return task.held_out if isinstance(task, Instruction) else 0


class _Overlap:
    """Which candidates share a fact with the pairs of earlier stages, worked out as far as it is asked for."""

    def __init__(self, candidates: Sequence[Pair], facts: Sequence[Pair], mixing: Sequence[Pair]) -> None:
        self.candidates = candidates
        self.facts = FactIndex(facts)
        self.texts = [pair.text for pair in (*facts, *mixing)]
        self.in_texts: set[int] = set()  # candidates that an earlier stage's text holds
        self.searched = 0

    def holds(self, number: int) -> bool:
        """Does the candidate with this number share a fact with an earlier stage, in either direction?"""
        while self.texts and self.searched <= number:
            index = FactIndex(self.candidates[self.searched : self.searched + CHUNK])
            self.in_texts |= {self.searched + n for text in self.texts for n in index.facts_in(text)}
            self.searched += CHUNK
        return number in self.in_texts or bool(self.facts.first_fact_in(self.candidates[number]))


def _select(task: Rows, qualified: list[Pair], familiarity: str | None) -> list[Pair]:
    """The rows `start .. start + size` of those that qualify, and the held-out ones behind them."""
    held_out = held_out_rows(task)
    if isinstance(task, Instruction) and task.size is None:  # all but those held out, one at least
        task = task.model_copy(update={"size": max(1, len(qualified) - task.start - task.held_out)})
    with_held_out = task.model_copy(update={"size": task.size and task.size + held_out})
    note = f" {held_out} of them held out," if held_out else ""
    return tasks.select_rows(with_held_out, qualified, f"{familiarity} " if familiarity else "", note)
