"""Which facts the base model already answers: asked once per base model and task, kept, and reused by every recipe.

    runs/familiar/<task>-<key>/verdicts.jsonl    a line per row of the task: prompt, gold, what the model said, familiar
                               split.json        what the key stands for

Rows are asked in upstream order, and no further than a recipe needs; `remix familiar TASK` asks them all. What was
asked stays after a crash, and the next call goes on behind it.
"""

import json
import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from filelock import FileLock

from remix_toolkit import store
from remix_toolkit.console import format_duration, info, silence_libraries
from remix_toolkit.data import few_shot, tasks, tulu
from remix_toolkit.data.files import read_whole_lines
from remix_toolkit.data.pair import Pair
from remix_toolkit.data.tiny import base_model
from remix_toolkit.errors import BadInput
from remix_toolkit.graph import lineage
from remix_toolkit.graph.lineage import split_declaration, split_folder
from remix_toolkit.recipe.schema import Factoid, Recipe

Verdicts = Generator[bool, None, None]

CHUNK = 256  # rows asked between two writes


def verdicts(
    recipe: Recipe, task: Factoid, shots: Sequence[Pair], pairs: Sequence[Pair], runs: Path, ask: bool = True
) -> Verdicts:
    """Is each fact familiar to the base model? In order; the model is asked only as far as this is read, if at all.

    Raises BadInput where the rows are not those that were asked before, or the base_stage is not published yet.
    """
    folder = split_folder(recipe, task, runs)
    known = _read(folder, pairs)
    yield from known
    if len(known) == len(pairs) or not ask:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # another process may have asked in the meantime
        more = _read(folder, pairs)
        yield from more[len(known) :]
        yield from _ask(recipe, task, shots, pairs, len(more), folder, runs)


def _read(folder: Path, pairs: Sequence[Pair]) -> list[bool]:
    file = folder / "verdicts.jsonl"
    rows = [json.loads(line) for line in read_whole_lines(file).decode().split("\n")[:-1]]
    for number, (row, pair) in enumerate(zip(rows, pairs, strict=False), start=1):
        if (row["prompt"], row["gold"]) != (pair.prompt, list(pair.answers)):
            raise BadInput(
                f"{file}: row {number} asks {row['prompt']!r}, the data has {pair.prompt!r} there: its source has "
                f"changed since. Delete {folder} to ask again"
            )
    return [row["familiar"] for row in rows]


def _ask(
    recipe: Recipe, task: Factoid, shots: Sequence[Pair], pairs: Sequence[Pair], begin: int, folder: Path, runs: Path
) -> Iterator[bool]:
    import torch
    from accelerate import PartialState

    from remix_toolkit.evaluate.recall import recall
    from remix_toolkit.stage.train import load_model

    silence_libraries()
    name, state = tasks.task_name(task), PartialState()
    if state.num_processes > 1:
        raise BadInput(
            f"{name}: what is familiar to the base model is not known yet; ask it first, in one process: "
            f"remix familiar {name} --profile {recipe.profile} ..., or `remix run`, which does so by itself"
        )
    source, revision = model_of(recipe, runs)
    tokenizer = tulu.load_tokenizer(source, revision, bool(recipe.train.get("trust_remote_code")))
    init = {"trust_remote_code": bool(recipe.train.get("trust_remote_code"))}
    precision = "fp32" if recipe.precision == "fp32" else "pure_bf16"
    info(f"{name}: asking {source} which facts it knows, {len(pairs):,} in all, {len(shots)} exemplars before each")
    model = load_model(source, revision, precision, init).to(state.device)
    store.write_json(folder / "split.json", {**split_declaration(recipe, task), "model": source, "rows": len(pairs)})
    file = folder / "verdicts.jsonl"
    if file.exists():
        os.truncate(file, len(read_whole_lines(file)))
    started = time.monotonic()
    try:
        for at in range(begin, len(pairs), CHUNK):
            chunk = pairs[at : at + CHUNK]
            said = recall(model, tokenizer, [few_shot.with_exemplars(shots, pair) for pair in chunk], whole=True)
            lines = [
                {"prompt": pair.prompt, "gold": pair.answers, "answer": v.prediction, "familiar": v.correct}
                for pair, v in zip(chunk, said, strict=True)
            ]
            with file.open("a", encoding="utf-8") as out:
                out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            done = at + len(chunk)
            left = (time.monotonic() - started) / (done - begin) * (len(pairs) - done)
            known = sum(v.correct for v in said)
            more = format_duration(left)
            info(f"{name}: {done:,} facts asked, {known} of the last {len(said)} familiar; all: {more} more")
            yield from (v.correct for v in said)
    finally:
        del model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def model_of(recipe: Recipe, runs: Path) -> tuple[str, str | None]:
    """The model that counts as the base: the base_stage's, or the recipe's base, and its revision. Raises BadInput."""
    if recipe.base_stage is None:
        return base_model(recipe, runs)
    folder = store.find(runs, lineage.lineage(recipe, until=recipe.base_stage)[-1].key)
    if folder is None:
        raise BadInput(
            f"{recipe.name}: what is familiar is known only once {recipe.base_stage}, the base_stage, is trained; "
            f"run it first: --stage {recipe.base_stage}"
        )
    return str(folder), None


def ask(recipe: Recipe, task: Factoid, rows: int | None, runs: Path) -> None:
    """Ask until `rows` facts are as familiar as the task wants them, or all."""
    shots, pairs = few_shot.draw_exemplars(task, tasks.read_task(task, recipe.data_seed).pairs, recipe.few_shot)
    found = 0
    with closing(verdicts(recipe, task, shots, pairs, runs)) as known:
        for familiar in known:
            found += familiar == (task.familiarity == "familiar")
            if found == rows:
                return


def split(recipe: Recipe, task: Factoid, runs: Path) -> dict[str, Any]:
    """Ask all rows: `{task, model, facts, familiar, unfamiliar, exemplars, path}`."""
    shots, pairs = few_shot.draw_exemplars(task, tasks.read_task(task, recipe.data_seed).pairs, recipe.few_shot)
    familiar = sum(verdicts(recipe, task, shots, pairs, runs))
    return {
        "task": tasks.task_name(task),
        "model": model_of(recipe, runs)[0],
        "facts": len(pairs),
        "familiar": familiar,
        "unfamiliar": len(pairs) - familiar,
        "exemplars": len(shots),
        "path": str(split_folder(recipe, task, runs) / "verdicts.jsonl"),
    }
