"""What one stage trains on and is measured on: built once, kept, and loaded by every process that needs it.

    work/<key>/data/facts.jsonl, mixing.jsonl, held_out.jsonl   the pairs, one JSON object a line
                    examples/                                   their tokens and labels, as `datasets` saves them
                    data.json                                   what was counted
                    manifest.json                               the checksums of these; written last

A published stage keeps its pairs (not the examples) in data/: a later stage leaves out what they hold, replays them and
is measured on them without reading their source again.
"""

import random
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from remix_toolkit import store
from remix_toolkit.data import encoding, hub, mixing, tasks
from remix_toolkit.data.identity import facts_ids, list_id
from remix_toolkit.data.overlap import FactIndex
from remix_toolkit.data.pair import Pair, fingerprint, read_pairs, write_pairs
from remix_toolkit.disk import file_lock
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.schema import Factoid, Instruction, Pairs, Recipe, Source, Stage
from remix_toolkit.recipe.sft_fields import device_batch, max_length
from remix_toolkit.records import DataRecord, Fingerprints, OverlapCounts, RowCounts, StageCounts
from remix_toolkit.stage.take_rows import take_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PERCENTILES = (50, 90, 99, 100)


class Redrawn(NamedTuple):
    """Of a stage's examples, the last `pool`: `drawn` of them are drawn anew for each epoch."""

    drawn: int
    pool: int


NONE_REDRAWN = Redrawn(0, 0)


@dataclass
class StageData:
    """A stage's pairs, the examples made of them, and what was counted on the way."""

    facts: list[Pair]
    mixing: list[Pair]
    held_out: list[Pair]  # rows of an instruction task that no stage trains on
    counts: StageCounts
    fingerprints: Fingerprints
    examples: list[encoding.Example] = field(default_factory=list)
    measured: dict[str, list[Pair]] = field(default_factory=dict)  # list id -> the facts measured after this stage

    @property
    def redrawn(self) -> Redrawn:
        """Which of its examples not every epoch trains on."""
        drawn = self.counts.redrawn
        return Redrawn(drawn, len(self.examples) - self.counts.examples + drawn)

    def earlier_facts(self, recipe: Recipe, position: int) -> list[Pair]:
        """The facts of the stages before the one at this position."""
        ids = list(facts_ids(recipe).values())[:position]
        return [fact for id_ in ids for fact in self.measured.get(id_, ())]

    def __str__(self) -> str:
        """`100 facts + 200 random_words`, and what was dropped."""
        unit = "rows" if self.held_out else "facts"
        parts = [f"{self.counts.facts} {unit}", *(f"{n} {source}" for source, n in self.counts.mixing.items())]
        return " + ".join(parts) + "".join(f", {n} dropped: {why}" for why, n in self.counts.dropped.items())


def build_all(
    recipe: Recipe,
    stages: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    runs: Path,
    ask: bool = True,
    keys: Mapping[str, str] | None = None,
) -> dict[str, StageData]:
    """The data of some stages of a recipe, by name. Raises BadInput for any mistake in any of them.

    A stage is measured on the facts of all stages up to it, and on those that its own `recall` names. What the base
    model knows is asked where a recipe needs it and it is not known yet; without `ask`, such facts count as qualified.
    The data of stages whose `keys` are given is loaded where it was built before, and kept where it is built now.
    """
    builder = _Builder(recipe, tokenizer, runs, ask)
    last = max((recipe.position(stage) for stage in stages), default=-1)
    for name in list(recipe.stages)[: last + 1]:
        try:
            builder.built[name] = builder.load_or_build(name, (keys or {}).get(name))
            if name in stages:
                builder.complete(name)
        except BadInput as error:
            raise BadInput(f"{recipe.name}, {name}: {error}") from None
    return {name: builder.built[name] for name in stages}


@dataclass
class _Builder:
    """Builds the data of a recipe's stages in order: each leaves out what those before it train on."""

    recipe: Recipe
    tokenizer: "PreTrainedTokenizerBase"
    runs: Path
    ask: bool
    built: dict[str, StageData] = field(default_factory=dict)

    def load_or_build(self, name: str, key: str | None) -> StageData:
        """The next stage's data. With a key, it is loaded where it was built before, and kept where it is built now."""
        if key is None:
            return self.build(name)
        folder = store.work_dir(self.runs, key) / "data"
        (self.runs / "work").mkdir(parents=True, exist_ok=True)
        with file_lock(store.lock_file(self.runs, f"{key}.data")):  # one process builds, the others load
            if published := store.published_stages(self.runs).get(key):
                # What is left of its folder under work/ may be deleted at this moment.
                store.verify(published, inner="data/")
                if (published / "data" / "data.json").exists():
                    return self.with_held_out(load(published / "data"), name)
            elif store.is_whole(folder, "the data is built again"):
                return self.with_held_out(load(folder), name)
            data = self.build(name)
            if not data.counts.read.familiarity_unknown:
                save(data, folder)
            return data

    def build(self, name: str) -> StageData:
        """The stage's rows, its mixing data, and the examples of both."""
        recipe, stage = self.recipe, self.recipe.stages[name]
        earlier_facts = {before: data.facts for before, data in self.built.items()}
        rows, held_out, read = self.take(name)
        encoded, dropped = encoding.encode_all(self.tokenizer, rows, max_length(stage.train))
        facts = [pair for pair, example in zip(rows, encoded, strict=True) if example]
        others: list[Pair] = []
        if anchor := stage.mix.format_anchor:
            wanted = 2 * round(anchor.ratio * len(facts))  # some may contain a fact
            others = tasks.other_rows(recipe.stages[anchor.stage].data, wanted, recipe.data_seed)
        again: list[Pair] = []
        if stage.mix.paraphrases and isinstance(stage.data, Pairs):
            again = tasks.paraphrases(stage.data, facts, stage.mix.paraphrases.column)
        place = recipe.seed, recipe.position(name)
        extra, left_out = mixing.draw(stage.mix, facts, earlier_facts, *place, others, again)
        encoded_extra, dropped_extra = encoding.encode_all(self.tokenizer, extra, max_length(stage.train))
        examples = [example for example in (*encoded, *encoded_extra) if example]
        by_source, redrawn, epoch = mixing.count_by_source(extra), 0, examples
        if (replay := stage.mix.replay) and replay.redraw and "replay" in by_source:
            fits = [pair.source for pair, example in zip(extra, encoded_extra, strict=True) if example]
            by_source["replay"] = redrawn = min(mixing.replayed(replay, earlier_facts), fits.count("replay"))
            epoch = examples[: len(examples) - fits.count("replay") + redrawn]  # as much as any epoch trains on
        if problem := recipe.too_few(len(epoch)):
            raise BadInput(problem)
        counts = StageCounts(
            facts=len(facts),
            held_out=len(held_out),
            mixing=by_source,
            examples=len(epoch),
            redrawn=redrawn,
            dropped=dict(dropped + dropped_extra),
            read=read,
            overlap=OverlapCounts(
                facts=sum(map(len, earlier_facts.values())) + len(facts), mixing_left_out=dict(left_out), measured={}
            ),
            commits=_commits(stage),
            steps_per_epoch=len(epoch) // recipe.global_batch_size,
            trained_tokens=sum(example.trained_tokens for example in epoch),
            **lengths(epoch, recipe.global_batch_size, device_batch(stage.train)),
        )
        fingerprints = Fingerprints(facts=fingerprint(facts), mixing=fingerprint(extra))
        return StageData(facts, extra, held_out, counts, fingerprints, examples)

    def take(self, name: str) -> tuple[list[Pair], list[Pair], RowCounts]:
        """The rows that a stage trains on, those that it holds out, and what became of the others."""
        stage = self.recipe.stages[name]
        earlier = [pair for data in self.built.values() for pair in (*data.facts, *data.mixing)]
        taken = take_rows(self.recipe, stage.data, self.runs, earlier, self.ask)
        _refuse_trained(stage, taken[1], earlier)
        return taken

    def with_held_out(self, data: StageData, name: str) -> StageData:
        """A stage's data with the rows that this recipe holds out: how many is no part of what the stage trains on."""
        task = self.recipe.stages[name].data
        rows = task.held_out if isinstance(task, Instruction) else 0
        if rows > len(data.held_out):
            data.held_out = self.take(name)[1]
        data.held_out = data.held_out[:rows]
        return data

    def complete(self, name: str) -> None:
        """Add what a stage needs only to be trained or measured itself: its examples, the facts measured after it."""
        recipe, data = self.recipe, self.built[name]
        if not data.examples:  # those of a published stage are not kept
            longest = max_length(recipe.stages[name].train)
            encoded = [encoding.encode_all(self.tokenizer, pairs, longest)[0] for pairs in (data.facts, data.mixing)]
            data.examples = [example for part in encoded for example in part if example]
        ids = facts_ids(recipe)
        for so_far, built in self.built.items():
            if isinstance(recipe.stages[so_far].data, Factoid):
                data.measured[ids[so_far]] = built.facts
        also_trained: dict[str, int] = {}
        for task in recipe.stages[name].recall:
            facts, _, _ = take_rows(recipe, task, self.runs, ask=self.ask)
            index = FactIndex(facts)
            data.measured[list_id(task, recipe)] = facts
            trained_on = {n for pair in (*data.facts, *data.mixing) for n in index.facts_in(pair.text)}
            also_trained[list_id(task, recipe)] = len(trained_on)
        overlap = data.counts.overlap.model_copy(update={"measured": also_trained})
        data.counts = data.counts.model_copy(update={"overlap": overlap})


def _refuse_trained(stage: Stage, held_out: Sequence[Pair], earlier: Sequence[Pair]) -> None:
    trained = {(pair.history, pair.prompt) for pair in earlier}
    if any((pair.history, pair.prompt) in trained for pair in held_out):
        raise BadInput(
            f"{tasks.describe(stage.data)}: an earlier stage trains on rows that are held out here; set data.start or "
            "data.held_out so that they are others"
        )


def save(data: StageData, folder: Path, examples: bool = True) -> None:
    """Write a stage's data: with its examples, sealed, to be loaded again; or without, for a draft of the stage."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, pairs in (("facts", data.facts), ("mixing", data.mixing), ("held_out", data.held_out)):
        write_pairs(folder / f"{name}.jsonl", pairs)
    DataRecord(counts=data.counts, fingerprints=data.fingerprints).write(folder / "data.json")
    if examples:
        from datasets import Dataset

        rows = [{"input_ids": e.input_ids, "labels": e.labels} for e in data.examples]
        Dataset.from_list(rows).save_to_disk(folder / "examples")
        store.seal(folder)


def load(folder: Path) -> StageData:
    """Data that was saved, with its examples where they were."""
    from datasets import load_from_disk

    record = DataRecord.read(folder / "data.json")
    facts, mixed, held_out = (read_pairs(folder / f"{name}.jsonl") for name in ("facts", "mixing", "held_out"))
    rows = load_from_disk(str(folder / "examples")) if (folder / "examples").exists() else []
    examples = [encoding.Example(**row) for row in rows]
    return StageData(facts, mixed, held_out, record.counts, record.fingerprints, examples)


def _commits(stage: Stage) -> dict[str, str]:
    """The hub's commit of each source that was read from there."""
    selections = {
        name: hub.select(name, spec) for name, spec in stage.mix.corpora().items() if spec.hub and not spec.path
    }
    if isinstance(stage.data, Source) and stage.data.path is None:
        selections[stage.data.task] = tasks.hub_selection(stage.data)
    files = {name: hub.cached_file(selection) for name, selection in selections.items()}
    return {name: file.stem for name, file in files.items() if file}


def lengths(examples: Sequence[encoding.Example], batch: int, per_device: int) -> dict[str, Any]:
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
