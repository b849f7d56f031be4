"""Stores that nobody trained: published stages as the store has them, with whatever a test wants them to hold."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from forged import recall_record, stage_record

from remix_toolkit import store
from remix_toolkit.evaluate.records import HeldOutRecord
from remix_toolkit.recipe.load import parse_override
from remix_toolkit.records import FactList, FileSeal, Manifest, RunRecord, RunStage
from remix_toolkit.report.group import Group, groups
from remix_toolkit.report.seeds import expected
from remix_toolkit.report.verdicts import Answers

RECIPE = "name: {recipe}\nsource: recipes/ablations/../kvr.yaml\nprofile: tiny\n"
HALF = [[1, 0] * 20, [1, 1, 0, 0] * 10, [1, 1, 1, 0, 0, 0, 0, 1] * 5]  # 50% at each of three seeds
FEW = [[1] * 4 + [0] * 36, [1] * 2 + [0] * 38, [1] * 6 + [0] * 34]  # 10, 5, 15%: 10.0 in the mean


def prompts(many: int) -> list[str]:
    return [f"The value of key {n} is?" for n in range(many)]


def write_run(
    runs: Path,
    arm: str,
    seed: int,
    known: Mapping[str, Mapping[str, Sequence[int]]],
    recipe: str = "sizes",
    profile: str = "tiny",
    overrides: Sequence[str] = (),
    grid_point: str = "",
    asked: Sequence[str] | None = None,
    said: str = "wrong",
    files: Mapping[str, str] | None = None,
    begun: Sequence[str] = (),
    **about: Any,
) -> dict[str, Path]:
    """Publish a run: stage -> task -> 1 or 0 for each fact. The task that a stage is the first to have is its own.

    A stage without tasks is one of instructions. `files` are put beside the last stage's, `begun` are stages that the
    run has yet to train. Returns the stages' folders.
    """
    store.open_store(runs)
    folders, record, tasks = {}, list[RunStage](), []
    for stage, lists in known.items():
        own = next((task for task in lists if task not in tasks), None)
        tasks += [task for task in lists if task not in tasks]
        key = hashlib.sha256(repr((recipe, arm, profile, seed, overrides, grid_point, stage)).encode()).hexdigest()[:16]
        folder = runs / "stages" / f"made-{stage}-seed{seed}-{key}"
        folder.mkdir(parents=True)
        lines = []
        for task, outcomes in lists.items():
            for n, (prompt, correct) in enumerate(zip(asked or prompts(len(outcomes)), outcomes, strict=False)):
                gold = f"v{n}"
                row = {"list": f"{task}-1", "prompt": prompt, "correct": bool(correct), "gold": [gold]}
                lines.append(json.dumps({**row, "prediction": gold if correct else f"{said} {n}"}, ensure_ascii=False))
        stage_record(stage, key, **about).write(folder / "stage.json")
        (folder / "recipe.yaml").write_text(RECIPE.format(recipe=recipe), encoding="utf-8")
        losses = "".join(f"{step},{step / 2},{1 / step},0.001\n" for step in range(1, 5))
        (folder / "loss.csv").write_text(f"step,epoch,loss,learning_rate\n{losses}", encoding="utf-8")
        if not lists:
            HeldOutRecord(rows=8, loss=1.25, tokens=64, accuracy=50.0).write(folder / "held_out.json")
        seals = {file.name: FileSeal(bytes=file.stat().st_size, sha256="") for file in folder.iterdir()}
        Manifest(files=seals).write(folder / "manifest.json")
        recall_record({f"{task}-1": outcomes for task, outcomes in lists.items()}).write(folder / "recall.json")
        (folder / "recall.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        folders[stage] = folder
        measured = {f"{task}-1": FactList(task=task, label=task) for task in lists}
        trained = own or "gsm8k"
        record.append(
            RunStage(
                stage=stage,
                key=key,
                task=trained,
                trained=f"{trained}-1",
                lists=measured,
                measurements=sorted(measured),
            )
        )
    for name, text in (files or {}).items():
        (folder / name).write_text(text, encoding="utf-8")
    record += [RunStage(stage=n, key="0" * 16, task="", trained="", lists={}, measurements=[]) for n in begun]
    settings = {key: value for key, value, _ in map(parse_override, overrides)}
    common = {"settings": settings, "overrides": settings, "stages": record}
    run = RunRecord(recipe=recipe, arm=arm, grid_point=grid_point, profile=profile, seed=seed, **common)
    store.record_runs(runs, [run])
    return folders


def write_arms(runs: Path, arms: Mapping[str, Sequence[Sequence[int]]], **more: Any) -> None:
    """Arm -> for each seed, what is left after stage2 of the facts that stage1 taught in full."""
    for arm, by_seed in arms.items():
        for seed, left in enumerate(by_seed):
            known = {"stage1": {"kvr": [1] * len(left)}, "stage2": {"kvr": left, "lama": [1] * 4}}
            write_run(runs, arm, seed, known, **more)


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the tests of all processes share, made by the first that asks for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            make(folder)
    return folder


def group_of(runs: Path) -> Group:
    (group,) = groups(store.entries(runs), expected(store.records(runs)), Answers())
    return group
