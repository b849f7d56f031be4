"""What one stage trains on and is measured on, drawn before anything is trained."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remix_toolkit.data import few_shot, hub, mixing, tasks, tulu
from remix_toolkit.data.identity import facts_id, list_id
from remix_toolkit.data.overlap import FactIndex
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import Factoid, Instruction, Pairs, Recipe, Rows, Source, Stage
from remix_toolkit.stage import familiar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_LENGTH = 2048  # tokens; a recipe's or profile's `train.max_length` comes first
CHUNK = 2000  # candidates looked for in the earlier stages' texts at a time
PERCENTILES = (50, 90, 99, 100)


@dataclass
class Own:
    """A stage's own pairs, before any mixing: as far as they fit, with their examples and what became of the rest."""

    pairs: list[Pair]
    examples: list[tulu.Example]
    held_out: list[Pair]
    rows: dict[str, Any]  # how many the task has, how many were dropped and left out, and why
    dropped: Counter[str]  # of the chosen ones, those that do not fit


@dataclass
class StageData:
    """A stage's pairs, the examples made of them, and what was counted on the way."""

    facts: list[Pair]
    mixing: list[Pair]
    examples: list[tulu.Example]
    counts: dict[str, Any]
    fingerprints: dict[str, str]  # of the facts and of the mixing data
    earlier: list[str]  # fingerprints of the facts of the stages before
    measured: dict[str, list[Pair]]  # facts' id -> the facts that recall is measured on after this stage
    held_out: list[Pair]  # rows of an instruction task that no stage trains on


def build_all(
    recipe: Recipe, stages: Sequence[str], tokenizer: "PreTrainedTokenizerBase", runs: Path, ask: bool = True
) -> dict[str, StageData]:
    """The data of some stages of a recipe, by name. Raises BadInput for any mistake in any of them.

    A stage is measured on the facts of all stages up to it, and on those that its own `recall` names. What the base
    model knows is asked where a recipe needs it and it is not known yet; without `ask`, such facts count as qualified.
    """
    names = list(recipe.stages)
    last = max((recipe.position(stage) for stage in stages), default=-1)
    built: dict[str, StageData] = {}
    for name in names[: last + 1]:
        try:
            own = _own(recipe, name, list(built.values()), tokenizer, runs, ask)
            built[name] = _build(recipe, name, own, built, tokenizer, runs, ask)
        except BadInput as error:
            raise BadInput(f"{recipe.name}, {name}: {error}") from None
    return {name: built[name] for name in stages}


def choose(
    recipe: Recipe, task: Rows, runs: Path, earlier: Sequence[StageData] = (), ask: bool = True
) -> tuple[list[Pair], dict[str, Any]]:
    """The rows that a recipe takes of a task, held-out rows included, and what became of the others.

    Rows qualify that are as familiar as asked for and that share no fact with what the stages before trained on, in
    either direction; the user's own rows that do raise BadInput, which names them.
    """
    read = tasks.read_task(task, recipe.data_seed)
    pairs, left_out = read.pairs, Counter[str]()
    shots: list[Pair] = []
    wanted = None
    if isinstance(task, Factoid) and (task.familiarity or task.prompt == "few_shot"):
        shots, pairs = few_shot.draw_exemplars(task, pairs, recipe.few_shot)
        wanted = task.familiarity
    end = None if task.size is None else task.start + task.size + held_out(task)
    verdicts = (
        familiar.verdicts(recipe, task, shots, pairs, runs, ask) if isinstance(task, Factoid) and wanted else None
    )
    known = FactIndex([fact for stage in earlier for fact in stage.facts])
    texts = [pair.text for stage in earlier for pair in (*stage.facts, *stage.mixing)]
    told: set[int] = set()  # candidates that an earlier stage's own text already holds
    qualify: list[Pair] = []
    unknown = 0
    for number, pair in enumerate(pairs):
        if len(qualify) == end:
            break
        if texts and number % CHUNK == 0:  # as far as needed: some tasks have a million spellings of answers
            index = FactIndex(pairs[number : number + CHUNK])
            told |= {number + n for text in texts for n in index.facts_in(text)}
        verdict = next(verdicts, None) if verdicts else None
        unknown += bool(verdicts) and verdict is None
        if verdict is not None and verdict != (wanted == "familiar"):
            left_out["familiar" if wanted == "unfamiliar" else "unfamiliar"] += 1
            continue
        # The first `start` rows are not taken: for in-domain rows, they are those of the earlier stage.
        if len(qualify) >= task.start and (number in told or known.first_fact_in(pair)):
            if isinstance(task, Pairs):
                place = read.locations[read.pairs.index(pair)]
                raise BadInput(
                    f"{place}: {pair.prompt!r} -> {pair.response!r} shares a fact with what an earlier stage trains "
                    "on. To train on such facts again, say mix: replay"
                )
            left_out["shares a fact with an earlier stage"] += 1
            continue
        qualify.append(pair)
    if verdicts:
        verdicts.close()
    if isinstance(task, Instruction) and task.size is None:
        task = task.model_copy(update={"size": max(1, len(qualify) - task.start - task.held_out)})
    reach = task.model_copy(update={"size": task.size and task.size + held_out(task)})
    held = f" {held_out(task)} of them held out," if held_out(task) else ""
    chosen = tasks.select_rows(reach, qualify, f"{wanted} " if wanted else "", held)
    if isinstance(task, Factoid) and task.prompt == "few_shot":
        chosen = [few_shot.with_exemplars(shots, pair) for pair in chosen]
    report = {"rows": read.rows, "usable": len(read.pairs), "dropped": dict(read.dropped), "noted": dict(read.noted)}
    return chosen, {**report, "exemplars": len(shots), "left_out": dict(left_out), "familiarity_unknown": unknown}


def held_out(task: Rows) -> int:
    """How many rows after the trained ones are held out."""
    return task.held_out if isinstance(task, Instruction) else 0


def _own(
    recipe: Recipe,
    name: str,
    earlier: list[StageData],
    tokenizer: "PreTrainedTokenizerBase",
    runs: Path,
    ask: bool,
) -> Own:
    stage = recipe.stages[name]
    chosen, rows = choose(recipe, stage.data, runs, earlier, ask)
    pairs = chosen[: len(chosen) - held_out(stage.data)]
    trained = {(pair.history, pair.prompt) for before in earlier for pair in before.facts}
    if any((pair.history, pair.prompt) in trained for pair in chosen[len(pairs) :]):
        raise BadInput(
            f"{tasks.describe(stage.data)}: an earlier stage trains on rows that are held out here; set data.start or "
            "data.held_out so that they are others"
        )
    examples, dropped = tulu.encode_all(tokenizer, pairs, stage.train.get("max_length") or MAX_LENGTH)
    fit = [(pair, example) for pair, example in zip(pairs, examples, strict=True) if example]
    return Own([p for p, _ in fit], [e for _, e in fit], chosen[len(pairs) :], rows, dropped)


def _build(
    recipe: Recipe,
    name: str,
    mine: Own,
    built: dict[str, StageData],
    tokenizer: "PreTrainedTokenizerBase",
    runs: Path,
    ask: bool,
) -> StageData:
    stage = recipe.stages[name]
    earlier = {before: data.facts for before, data in built.items()}
    extra, left_out = mixing.draw(stage.mix, mine.pairs, earlier, recipe.seed, recipe.position(name))
    mixed, too_long = tulu.encode_all(tokenizer, extra, stage.train.get("max_length") or MAX_LENGTH)
    examples = [*mine.examples, *(example for example in mixed if example)]
    if len(examples) < recipe.global_batch_size:
        raise BadInput(
            f"{len(examples)} examples are fewer than one batch of {recipe.global_batch_size}, so no step would be "
            f"taken; set global_batch_size to at most {len(examples)}"
        )
    trained = {**earlier, name: mine.pairs}
    measured = {facts_id(recipe, n): facts for n, facts in trained.items() if tasks.is_factoid(recipe.stages[n].data)}
    shared = {}
    for task in stage.recall:
        facts, _ = choose(recipe, task, runs, ask=ask)
        measured[list_id(task, recipe)] = facts
        index = FactIndex(facts)
        given = {n for pair in (*mine.pairs, *extra) for n in index.facts_in(pair.text)}
        shared[list_id(task, recipe)] = len(given)
    counts = {
        "facts": len(mine.pairs),
        "held_out": len(mine.held_out),
        "mixing": mixing.count_by_source(extra),
        "examples": len(examples),
        "dropped": dict(mine.dropped + too_long),
        "read": mine.rows,
        "overlap": {
            "facts": sum(map(len, trained.values())),  # that were looked for in the mixing data
            "mixing_left_out": dict(left_out),
            "measured": shared,  # facts of `recall` that this stage's own pairs or mixing data hold
        },
        "commits": _commits(stage),
        "steps_per_epoch": len(examples) // recipe.global_batch_size,
        "trained_tokens": sum(len(e.labels) - e.labels.count(-100) for e in examples),
        **lengths(examples, recipe.global_batch_size, stage.train.get("per_device_train_batch_size", 8)),
    }
    fingerprints = {"facts": fingerprint(mine.pairs), "mixing": fingerprint(extra)}
    before = [data.fingerprints["facts"] for data in built.values()]
    return StageData(mine.pairs, extra, examples, counts, fingerprints, before, measured, mine.held_out)


def _commits(stage: Stage) -> dict[str, str]:
    """The hub's commit of each source that was read from there."""
    slices = {
        name: mixing.hub_selection(name, spec)
        for name, spec in stage.mix.corpora().items()
        if spec.hub and not spec.path
    }
    if isinstance(stage.data, Source) and stage.data.path is None:
        slices[tasks.task_name(stage.data)] = tasks.hub_selection(stage.data)
    kept = {name: hub.cached_download(wanted) for name, wanted in slices.items()}
    return {name: source.commit for name, source in kept.items() if source}


def lengths(examples: Sequence[tulu.Example], batch: int, per_device: int) -> dict[str, Any]:
    """Tokens of the examples: in all, per example in percentiles, and per epoch with and without padding.

    An epoch is a random order, cut to whole batches; a batch goes from the longest example to the shortest, and each
    part of it that a device takes at once is padded to its own longest.
    """
    tokens = [len(example.input_ids) for example in examples]
    in_order = sorted(tokens)
    share = min(per_device, batch)
    shuffled = random.Random(0).sample(tokens, len(tokens) // batch * batch or len(tokens))
    padded = 0
    for at in range(0, len(shuffled), batch):
        by_length = sorted(shuffled[at : at + batch], reverse=True)
        padded += sum(by_length[i] * len(by_length[i : i + share]) for i in range(0, len(by_length), share))
    return {
        "tokens": sum(tokens),
        "longest": in_order[-1],
        "length_percentiles": {str(p): in_order[max(0, -(-len(tokens) * p // 100) - 1)] for p in PERCENTILES},
        "tokens_per_epoch": {"without_padding": sum(shuffled), "with_padding": padded},
    }


def fingerprint(pairs: list[Pair]) -> str:
    """A hash of the pairs themselves, in order: recorded with the stage that trains on them, checked by later uses."""
    lines = (json.dumps(asdict(pair), sort_keys=True, ensure_ascii=False) for pair in pairs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
