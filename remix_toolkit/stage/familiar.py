"""Which facts the base model already answers: asked once per base model and task, kept, and reused by every recipe.

    runs/familiar/<task>-<key>/verdicts.jsonl    a line per row of the task: prompt, gold, the model's answer, familiar
                               split.json        what the key stands for, and the checksum of the lines

Rows are asked in upstream order, and no further than a recipe needs; `remix familiar TASK` asks them all. What was
asked stays after a crash, and the next call goes on behind it.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import Field

from remix_toolkit import store
from remix_toolkit.console import format_duration, info, silence_libraries
from remix_toolkit.data import encoding, few_shot, tasks
from remix_toolkit.data.pair import Pair
from remix_toolkit.disk import Damaged, read_sound, write_text
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.recall import matches
from remix_toolkit.graph import lineage
from remix_toolkit.recipe.schema import Factoid, Recipe, Rows
from remix_toolkit.records import Count, FileSeal, Part, SealedRecord, parse_rows, rows_text, seal, sealed_content

Verdicts = Generator[bool | None, None, None]

CHUNK = 256  # rows asked between two writes


class FamiliarityRow(Part):
    """A line of verdicts.jsonl: the base model's answer to one fact."""

    prompt: str
    gold: list[str]
    answer: str
    familiar: bool


class SplitRecord(SealedRecord):
    """split.json: which model was asked which task's facts, and under which prompt."""

    version: Literal[2] = 2
    declaration: dict[str, Any]
    model: str
    rows: Count
    verdicts: FileSeal = Field(description="of the beginning of verdicts.jsonl that is whole")


def verdicts(
    recipe: Recipe, task: Rows, exemplars: Sequence[Pair], pairs: Sequence[Pair], runs: Path, ask: bool = True
) -> Verdicts:
    """Is each pair familiar to the base model? In order; the model is asked only as far as this is read.

    None stands where it is not known: of a task without `familiarity`, and of what would have to be asked without
    `ask`. Raises BadInput where the rows are not those that were asked before, or the base_stage is not published yet.
    """
    if not isinstance(task, Factoid) or task.familiarity is None:
        yield from repeat(None, len(pairs))
        return
    file = lineage.split_folder(recipe, task, runs) / "verdicts.jsonl"
    known = _read(file, pairs)
    yield from known
    if not ask:
        yield from repeat(None, len(pairs) - len(known))
    elif len(known) < len(pairs):
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_name("lock")):  # another process may have asked in the meantime
            known_by_now = _read(file, pairs)
            yield from known_by_now[len(known) :]
            yield from _ask(recipe, task, exemplars, pairs, len(known_by_now), file, runs)


def _read(file: Path, pairs: Sequence[Pair]) -> list[bool]:
    rows = _sound(file.parent)[1]
    for number, (row, pair) in enumerate(zip(rows, pairs, strict=False), start=1):
        if (row.prompt, row.gold) != (pair.prompt, list(pair.answers)):
            raise BadInput(
                f"{file}: row {number} asks {row.prompt!r}, the data has {pair.prompt!r} there: its source has "
                f"changed since. Delete {file.parent} to ask again"
            )
    return [row.familiar for row in rows]


def asked(folder: Path) -> tuple[bytes, list[FamiliarityRow]]:
    """The content of verdicts.jsonl as far as it is sealed, and its rows; nothing where nothing was asked.

    Raises Damaged where it is not what was written, or a verdict is not what the answer gives.
    """
    file, record = folder / "verdicts.jsonl", SplitRecord.read_if_exists(folder / "split.json")
    content = sealed_content(file, record.verdicts) if record else b""
    rows = parse_rows(file, content.decode("utf-8"), FamiliarityRow)
    for number, row in enumerate(rows, start=1):
        if row.familiar != matches(row.answer, row.gold):
            raise Damaged(Path(f"{file}:{number}"), f"familiar: is {row.familiar}, for the answer {row.answer!r}")
    return content, rows


def _sound(folder: Path) -> tuple[bytes, list[FamiliarityRow]]:
    """As `asked`; nothing, and a warning, where that is damaged: the model is asked again."""
    nothing: tuple[bytes, list[FamiliarityRow]] = (b"", [])
    return read_sound(lambda: asked(folder), nothing, "it counts as not asked")


def _ask(
    recipe: Recipe, task: Factoid, exemplars: Sequence[Pair], pairs: Sequence[Pair], start: int, file: Path, runs: Path
) -> Iterator[bool]:
    """Ask about the pairs from `start` on, a chunk at a time, and write down the answers."""
    from accelerate import PartialState
    from accelerate.utils.memory import clear_device_cache

    from remix_toolkit.evaluate.recall import recall
    from remix_toolkit.stage.train import load_model

    silence_libraries()
    name, state = task.task, PartialState()
    if state.num_processes > 1:
        raise BadInput(
            f"{name}: which facts the base model knows has not been asked yet; ask first, in one process: "
            f"remix familiar {name} --profile {recipe.profile} ..., or `remix run`, which does so by itself"
        )
    source, revision = base_of(recipe, runs)
    trust = bool(recipe.train.get("trust_remote_code"))
    info(f"{name}: asking {source} which of {len(pairs):,} facts it knows, {len(exemplars)} exemplars before each")
    precision = "fp32" if recipe.precision == "fp32" else "pure_bf16"
    model = load_model(source, revision, precision, {"trust_remote_code": trust}).to(state.device)
    tokenizer = encoding.load_tokenizer(source, revision, trust)
    declaration = lineage.split_declaration(recipe, task)
    content, _ = _sound(file.parent)
    started = time.monotonic()
    try:
        for at in range(start, len(pairs), CHUNK):
            chunk = pairs[at : at + CHUNK]
            answers = recall(model, tokenizer, [few_shot.with_exemplars(exemplars, p) for p in chunk], whole=True)
            rows = [
                FamiliarityRow(prompt=p.prompt, gold=list(p.answers), answer=a.prediction, familiar=a.correct)
                for p, a in zip(chunk, answers, strict=True)
            ]
            content += rows_text(rows).encode()
            write_text(file, content.decode("utf-8"))
            split = SplitRecord(declaration=declaration, model=source, rows=len(pairs), verdicts=seal(content))
            split.write(file.with_name("split.json"))
            done, known = at + len(chunk), sum(row.familiar for row in rows)
            left = format_duration((time.monotonic() - started) / (done - start) * (len(pairs) - done))
            info(f"{name}: {done:,} facts asked, {known} of the last {len(rows)} familiar, at most {left} left")
            yield from (row.familiar for row in rows)
    finally:
        del model
        clear_device_cache()  # a launcher's processes may need the room


def base_of(recipe: Recipe, runs: Path) -> tuple[str, str | None]:
    """The model that counts as the base: the base_stage's, or the recipe's base, and its revision. Raises BadInput."""
    if recipe.base_stage is None:
        return store.base_model(recipe, runs)
    folder = store.find_stage(runs, lineage.lineage(recipe, until=recipe.base_stage)[-1].key)
    if folder is None:
        raise BadInput(
            f"{recipe.name}: which facts are familiar is known only once {recipe.base_stage}, the base_stage, is "
            f"trained; run it first: --stage {recipe.base_stage}"
        )
    return str(folder), None


def ask_until(recipe: Recipe, task: Factoid, rows: int | None, runs: Path) -> None:
    """Ask until `rows` facts are as familiar as the task wants them, or all."""
    exemplars, pairs = _questions(recipe, task)
    count = 0
    with closing(verdicts(recipe, task, exemplars, pairs, runs)) as known:
        for familiar in known:
            count += familiar == (task.familiarity == "familiar")
            if count == rows:
                return


def split(recipe: Recipe, task: Factoid, runs: Path) -> dict[str, Any]:
    """Ask all rows: `{task, model, facts, familiar, unfamiliar, exemplars, path}`."""
    exemplars, pairs = _questions(recipe, task)
    familiar = sum(verdict is True for verdict in verdicts(recipe, task, exemplars, pairs, runs))
    return {
        "task": task.task,
        "model": base_of(recipe, runs)[0],
        "facts": len(pairs),
        "familiar": familiar,
        "unfamiliar": len(pairs) - familiar,
        "exemplars": len(exemplars),
        "path": str(lineage.split_folder(recipe, task, runs) / "verdicts.jsonl"),
    }


def _questions(recipe: Recipe, task: Factoid) -> tuple[list[Pair], list[Pair]]:
    return few_shot.draw_exemplars(task, tasks.read_task(task, recipe.data_seed).pairs, recipe.few_shot)
