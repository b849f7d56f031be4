"""What can be measured of a published stage, in one list that everything else reads.

A measurement leaves `<name>.json` in the stage's folder and, where it has results row by row, `<name>.jsonl`. Keys and
plans are made from this list, so nothing here imports torch: a measurement imports it when it runs.

To add a probe, write what it computes in a file of its own, its record in records.py, and a class with the members of
`Measurement` here, in MEASUREMENTS. A recipe asks for it by a name in `Probe` of recipe/schema.py; report/probes.py
shows it.
"""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from remix_toolkit.console import info
from remix_toolkit.data.identity import facts_id, list_id
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.protocol import Measurement, Models, Subject, in_shares, is_main_process
from remix_toolkit.evaluate.records import (
    HarnessRecord,
    HarnessResult,
    HeldOutRecord,
    HeldOutRow,
    InterferenceRecord,
    LensRecord,
    LensResult,
    ListRecall,
    PerplexityRecord,
    RecallRecord,
)
from remix_toolkit.recipe.schema import Evaluate, Factoid, Instruction, Recipe
from remix_toolkit.records import write_lines, write_text


def requested(recipe: Recipe, stage: str) -> set[str]:
    """The ids of all that a recipe asks to be measured after a stage."""
    return {id_ for measurement in MEASUREMENTS for id_ in measurement.requested(recipe, stage)}


def measured(folder: Path) -> set[str]:
    """The ids of all that has been measured of a published stage. Raises BadInput where a file cannot be read."""
    try:
        return {id_ for measurement in MEASUREMENTS for id_ in measurement.measured(folder)}
    except BadInput as error:
        raise BadInput(f"{error}; delete that file, and it is measured again") from None


def is_measured(recipe: Recipe, stage: str, folder: Path) -> bool:
    """Has all been measured that the recipe asks for?"""
    return requested(recipe, stage) <= measured(folder)


class Recall(Measurement):
    """Recall of the facts of all stages so far, and of the lists that the stage's own `recall` names."""

    name, record, shared = "recall", RecallRecord, True

    def requested(self, recipe: Recipe, stage: str) -> set[str]:
        so_far = list(recipe.stages)[: recipe.position(stage) + 1]
        trained = {facts_id(recipe, name) for name in so_far if isinstance(recipe.stages[name].data, Factoid)}
        return trained | {list_id(task, recipe) for task in recipe.stages[stage].recall}

    def measured(self, folder: Path) -> set[str]:
        return set(_lists(folder))

    def run(self, subject: Subject, models: Models, folder: Path, missing: Collection[str]) -> None:
        from remix_toolkit.evaluate.recall import percent, recall, verdict_record

        lists = _lists(folder)
        lines = _complete_lines(folder / "recall.jsonl", lists)
        for id_ in (id_ for id_ in subject.lists if id_ in missing):
            verdicts = in_shares(subject.facts[id_], lambda facts: recall(models.model, models.tokenizer, facts))
            lists[id_] = ListRecall(
                task=subject.lists[id_].task,
                label=subject.lists[id_].label,
                recall=percent(verdicts),
                facts=len(verdicts),
                correct=sum(verdict.correct for verdict in verdicts),
                settled_by=dict(Counter(verdict.settled_by for verdict in verdicts)),
            )
            rows = (verdict_record(id_, number, verdict) for number, verdict in enumerate(verdicts))
            lines += "".join(f"{row.model_dump_json()}\n" for row in rows)
            label, percentage = lists[id_].label, lists[id_].recall
            info(f"{subject.stage}: recall of {label}: {percentage:.1f}% of {len(verdicts)} facts")
        if is_main_process():
            write_text(folder / "recall.jsonl", lines)
            RecallRecord(lists=lists).write(folder / "recall.json")


class HeldOut(Measurement):
    """The loss on rows that the stage held out and, where they have results (GSM8K), how many are right."""

    name, record, shared = "held_out", HeldOutRecord, True

    def requested(self, recipe: Recipe, stage: str) -> set[str]:
        task = recipe.stages[stage].data
        return {f"held_out {task.held_out}"} if isinstance(task, Instruction) and task.held_out else set()

    def measured(self, folder: Path) -> set[str]:
        record = HeldOutRecord.read_if_exists(folder / "held_out.json")
        return {f"held_out {record.rows}"} if record else set()

    def run(self, subject: Subject, models: Models, folder: Path, missing: Collection[str]) -> None:
        from remix_toolkit.evaluate.held_out import answer_rows, example_losses

        examples = subject.encode(models.tokenizer, subject.held_out)
        losses = in_shares(examples, lambda share: example_losses(models.model, models.tokenizer, share))
        tokens = sum(count for _, count in losses)
        rows: list[HeldOutRow] = []
        if subject.held_out[0].source == "gsm8k":
            rows = in_shares(subject.held_out, lambda share: answer_rows(models.model, models.tokenizer, share))
        record = HeldOutRecord(
            rows=len(subject.held_out),
            loss=sum(loss for loss, _ in losses) / max(tokens, 1),
            tokens=tokens,
            accuracy=100.0 * sum(row.correct for row in rows) / len(rows) if rows else None,
        )
        if is_main_process():
            write_lines(folder / "held_out.jsonl", rows)
            record.write(folder / "held_out.json")
        correct = "" if record.accuracy is None else f", {record.accuracy:.1f}% of the results right"
        info(f"{subject.stage}: loss {record.loss:.3f} on {record.rows} held-out rows{correct}")


class Perplexity(Measurement):
    """Perplexity of generic text; that of the default text counts as measured once any text has been."""

    name, record, shared = "perplexity", PerplexityRecord, False

    def requested(self, recipe: Recipe, stage: str) -> set[str]:
        text = recipe.evaluate.text
        return {"perplexity" if text == Evaluate().text else f"perplexity {text}"}

    def measured(self, folder: Path) -> set[str]:
        record = PerplexityRecord.read_if_exists(folder / "perplexity.json")
        return {"perplexity", f"perplexity {record.text}"} if record else set()

    def check(self, subject: Subject) -> None:
        from remix_toolkit.evaluate.perplexity import passages

        passages(subject.recipe.evaluate.text)

    def run(self, subject: Subject, models: Models, folder: Path, missing: Collection[str]) -> None:
        from remix_toolkit.evaluate.perplexity import perplexity

        text = subject.recipe.evaluate.text
        perplexity(models.model, models.tokenizer, text).write(folder / "perplexity.json")


class Lens(Measurement):
    """The logit lens on each list of facts whose recall is measured, where `probe` names it."""

    name, record, shared = "lens", LensRecord, False

    def requested(self, recipe: Recipe, stage: str) -> set[str]:
        lists = Recall().requested(recipe, stage) if "lens" in recipe.stages[stage].probe else set()
        return {f"lens {id_}" for id_ in lists}

    def measured(self, folder: Path) -> set[str]:
        return {f"lens {id_}" for id_ in self._results(folder)}

    def run(self, subject: Subject, models: Models, folder: Path, missing: Collection[str]) -> None:
        from remix_toolkit.evaluate.lens import lens

        lists = self._results(folder)
        for id_ in (id_ for id_ in subject.lists if f"lens {id_}" in missing):
            result = lists[id_] = lens(models.model, models.tokenizer, subject.facts[id_])
            where = "in no layer" if result.first_layer is None else f"from layer {result.first_layer:.1f} on"
            info(f"{subject.stage}: lens on {subject.lists[id_].label}: {where}, of {result.layers}")
        LensRecord(lists=lists).write(folder / "lens.json")

    def _results(self, folder: Path) -> dict[str, LensResult]:
        record = LensRecord.read_if_exists(folder / "lens.json")
        return dict(record.lists) if record else {}


class Harness(Measurement):
    """Tasks of the lm-evaluation-harness: `evaluate.lm_eval`."""

    name, record, shared = "lm_eval", HarnessRecord, False

    def _id(self, task: str, limit: int | None) -> str:
        return f"lm_eval {task}" + ("" if limit is None else f" on {limit} rows")

    def requested(self, recipe: Recipe, stage: str) -> set[str]:
        return {self._id(task, recipe.evaluate.limit) for task in recipe.evaluate.lm_eval}

    def measured(self, folder: Path) -> set[str]:
        return {self._id(task, result.limit) for task, result in self._results(folder).items()}

    def check(self, subject: Subject) -> None:
        from remix_toolkit.evaluate.harness import check_installed

        check_installed(subject.recipe.evaluate.lm_eval)

    def run(self, subject: Subject, models: Models, folder: Path, missing: Collection[str]) -> None:
        from remix_toolkit.evaluate.harness import harness

        evaluate = subject.recipe.evaluate
        names = [task for task in evaluate.lm_eval if self._id(task, evaluate.limit) in missing]
        results = harness(models.model, models.tokenizer, names, evaluate.limit)
        HarnessRecord(tasks=self._results(folder) | results).write(folder / "lm_eval.json")

    def _results(self, folder: Path) -> dict[str, HarnessResult]:
        record = HarnessRecord.read_if_exists(folder / "lm_eval.json")
        return dict(record.tasks) if record else {}


class Interference(Measurement):
    """Gradients at the model that the stage started from: D_A are the first stage's facts, D_B the stage's own data."""

    name, record, shared = "interference", InterferenceRecord, False
    needs_parent = True

    def requested(self, recipe: Recipe, stage: str) -> set[str]:
        return {"interference"} & set(recipe.stages[stage].probe)

    def measured(self, folder: Path) -> set[str]:
        return {"interference"} if InterferenceRecord.read_if_exists(folder / "interference.json") else set()

    def check(self, subject: Subject) -> None:
        from remix_toolkit.evaluate.interference import MIN_PARTS

        fewest = min(len(self._first_facts(subject)), len(subject.pairs))
        if fewest < MIN_PARTS:
            where = f"{subject.recipe.name}: {subject.stage}: probe"
            raise BadInput(f"{where}: interference takes {MIN_PARTS} facts or more, not {fewest}")

    def run(self, subject: Subject, models: Models, folder: Path, missing: Collection[str]) -> None:
        from remix_toolkit.evaluate.interference import PARTS, interference

        examples = {
            "a": subject.encode(models.tokenizer, self._first_facts(subject)),
            "b": subject.encode(models.tokenizer, subject.pairs),
        }
        sources = {"a": next(iter(subject.recipe.stages)), "b": subject.stage}
        parts = min(PARTS, *map(len, examples.values()))
        mixing = subject.encode(models.tokenizer, subject.mixing)
        if len(mixing) >= parts:
            examples["m"], sources["m"] = mixing, "mixing"
        before = models.load_parent()
        record = interference(before, models.tokenizer, examples, models.model, parts, sources)
        record.write(folder / "interference.json")
        cosine = record.groups["whole"]["a.b"].cosine
        angle = "one of them is no more than noise" if cosine is None else f"cosine {cosine:+.3f}"
        info(f"{subject.stage}: gradients of {sources['a']} and {sources['b']}: {angle}")

    def _first_facts(self, subject: Subject) -> Sequence[Pair]:
        return subject.facts[facts_id(subject.recipe, next(iter(subject.recipe.stages)))]


# In the order in which they run. Interference comes last: it moves the published model off its device.
MEASUREMENTS: tuple[Measurement, ...] = (Recall(), HeldOut(), Perplexity(), Lens(), Harness(), Interference())
FILES = frozenset(f"{measurement.name}.{suffix}" for measurement in MEASUREMENTS for suffix in ("json", "jsonl"))


def _lists(folder: Path) -> dict[str, ListRecall]:
    record = RecallRecord.read_if_exists(folder / "recall.json")
    return dict(record.lists) if record else {}


def _complete_lines(file: Path, lists: Collection[str]) -> str:
    """The lines of recall.jsonl that belong to a list in recall.json: a crash between the two may have left others."""
    if not file.exists():
        return ""
    with file.open(encoding="utf-8") as lines:  # not splitlines: an answer may hold U+2028
        return "".join(line for line in lines if json.loads(line)["list"] in lists)
