"""Which rows a recipe takes of a task: as familiar as asked for, and sharing no fact with the stages before."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from remix_toolkit.data import few_shot, tasks
from remix_toolkit.data.overlap import FactIndex
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import Factoid, Instruction, Pairs, Recipe, Rows
from remix_toolkit.records import RowCounts
from remix_toolkit.stage import familiar

CHUNK = 2000  # candidates looked for in the earlier stages' texts at a time: some tasks have a million spellings


def take_rows(
    recipe: Recipe, task: Rows, runs: Path, earlier: Sequence[Pair] = (), ask: bool = True
) -> tuple[list[Pair], list[Pair], RowCounts]:
    """The rows that a recipe takes of a task, those that it holds out, and what became of the others.

    Rows qualify that are as familiar as asked for and that share no fact with `earlier`, the pairs that the stages
    before train on, in either direction; the user's own rows that do raise BadInput, which names them. Without `ask`,
    facts of which it is not known whether the base model knows them count as qualified.
    """
    rows = tasks.read_task(task, recipe.data_seed)
    candidates, exemplars = rows.pairs, list[Pair]()
    familiarity = task.familiarity if isinstance(task, Factoid) else None
    few_shot_prompt = isinstance(task, Factoid) and task.prompt == "few_shot"
    if familiarity or few_shot_prompt:
        exemplars, candidates = few_shot.draw_exemplars(task, candidates, recipe.few_shot)
    verdicts = familiar.verdicts(recipe, task, exemplars, candidates, runs, ask)
    held_out = task.held_out if isinstance(task, Instruction) else 0
    end = None if task.size is None else task.start + task.size + held_out
    qualified: list[Pair] = []
    left_out, unknown = Counter[str](), 0
    with closing(verdicts):
        shared = _share_facts(candidates, earlier)
        for pair, known, shares in zip(candidates, verdicts, shared, strict=False):
            if familiarity and known is None:
                unknown += 1
            elif familiarity and known != (familiarity == "familiar"):
                left_out["familiar" if known else "unfamiliar"] += 1
                continue
            # The first `start` rows are not taken: for in-domain rows, they are those of the earlier stage.
            if shares and len(qualified) >= task.start:
                if isinstance(task, Pairs):
                    location = rows.places[rows.pairs.index(pair)]
                    raise BadInput(
                        f"{location}: {pair.prompt!r} -> {pair.response!r} shares a fact with what an earlier stage "
                        "trains on; to train on such facts again, use mix: replay"
                    )
                left_out["shares a fact with an earlier stage"] += 1
                continue
            qualified.append(pair)
            if len(qualified) == end:
                break
    taken = tasks.select_rows(task, qualified, familiarity, held_out)
    if few_shot_prompt:
        taken = [few_shot.with_exemplars(exemplars, pair, recipe.few_shot.format) for pair in taken]
    counts = RowCounts(
        rows=rows.rows,
        usable=len(rows.pairs),
        dropped=dict(rows.dropped),
        noted=dict(rows.noted),
        exemplars=len(exemplars),
        left_out=dict(left_out),
        familiarity_unknown=unknown,
    )
    return taken[: len(taken) - held_out], taken[len(taken) - held_out :], counts


def _share_facts(candidates: Sequence[Pair], earlier: Sequence[Pair]) -> Iterator[bool]:
    """For each candidate: does it share a fact with a pair of an earlier stage, in either direction?"""
    facts = FactIndex(earlier)
    for start in range(0, len(candidates), CHUNK):
        chunk = candidates[start : start + CHUNK]
        index = FactIndex(chunk if earlier else [])
        in_earlier = {number for pair in earlier for number in index.facts_in(pair.text)}
        for number, pair in enumerate(chunk):
            yield number in in_earlier or facts.first_fact_in(pair) is not None
