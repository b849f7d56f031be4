"""One stage, as in section 2 of the paper: start from the stage before, train on D and D_M, publish, measure.

`remix run` calls this for every stage of a recipe. On several devices, it is what accelerate launches:

    accelerate launch --config_file accelerate_configs/fsdp_4gpu.yaml -m remix_toolkit.stage \\
        recipes/kvr.yaml --profile llama3-8b --stage stage1
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from filelock import FileLock, Timeout
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerState
from trl.trainer.sft_config import SFTConfig

from remix_toolkit import store
from remix_toolkit.console import format_duration, info, silence_libraries
from remix_toolkit.data.encoding import load_tokenizer
from remix_toolkit.data.identity import facts_id
from remix_toolkit.data.tiny import base_model
from remix_toolkit.errors import BadInput, Busy, MeasurementFailed, RunFailed
from remix_toolkit.evaluate.measurements import is_measured
from remix_toolkit.evaluate.records import RecallRecord
from remix_toolkit.graph import memory
from remix_toolkit.graph.lineage import Node, fact_lists
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import StageRecord
from remix_toolkit.stage import adapter, private_api, train
from remix_toolkit.stage.callbacks import Progress
from remix_toolkit.stage.curve import RetentionCurve
from remix_toolkit.stage.data import StageData, build_all, describe, save
from remix_toolkit.stage.measure import check_measurable, measure
from remix_toolkit.stage.save import save_model
from remix_toolkit.stage.stage_files import Conditions, loss_history, stage_record, write_files
from remix_toolkit.stage.start import starting_model
from remix_toolkit.stage.trackers import Trackers

CURVE = "retention.jsonl"
Part = Literal["train", "measure"]


def prepare(recipe: Recipe, nodes: list[Node], runs: Path, ask: bool = True) -> dict[str, StageData]:
    """The data of some stages, by name, after every check that can be made before training. Raises BadInput.

    Without `ask`, facts count as qualified where it is not known yet whether the base model knows them.
    """
    silence_libraries()
    tokenizer = load_tokenizer(*base_model(recipe, runs), trust_remote_code=bool(recipe.train.get("trust_remote_code")))
    last = max(nodes, key=lambda node: node.position)
    keys = dict(zip(recipe.stages, [*last.ancestors, last.key], strict=False))
    data = build_all(recipe, [node.stage for node in nodes], tokenizer, runs, ask, keys)
    for node in nodes:
        check_measurable(recipe, node, data[node.stage])
    adapter.lora_config(recipe.adapter)
    adapter.quantization(recipe)
    if "LOCAL_RANK" not in os.environ:  # else this process is one of a launcher's, which was checked before
        for node in nodes:  # on the CPU: the devices may be for a launcher's processes
            train.sft_config(recipe, recipe.stages[node.stage], store.work_dir(runs, node.key), 1, use_cpu=True)
        private_api.forget_devices()  # SFTConfig chose the CPU for the whole process
    return data


def run_stage(
    recipe: Recipe,
    node: Node,
    data: StageData,
    runs: Path,
    weights: bool = True,
    sweep: str | None = None,
    wait: bool = True,
    only: Part | None = None,
) -> Path:
    """Train, publish and measure one stage, or do `only` one of these; what is done already is not done again.

    Where a published stage's weights were deleted, it is trained again if `weights` are needed or a measurement is
    missing. `sweep` is recorded as the one that trained it. Returns the published directory.

    Raises BadInput or RunFailed, after which nothing half-done is left under stages/; Busy where another run is at this
    stage and this one is not to `wait`; MeasurementFailed where the stage is published, but not measured in full.
    """
    with _lock(node, runs, wait):
        folder = store.find_stage(runs, node.key)
        pruned = folder is not None and store.is_pruned(folder)
        if only == "measure" and (folder is None or pruned):
            raise BadInput(f"{node.stage}: has no published weights to be measured: train it first")
        if folder is None or (pruned and (weights or not is_measured(recipe, node.stage, folder))):
            return _train_and_publish(recipe, node, data, runs, sweep, only)
        info(f"{node.stage}: already published, reused: {folder}")
        if recipe.stages[node.stage].curve and not (folder / CURVE).exists():
            info(f"{node.stage}: it was trained without a retention curve, so there is none")
        if only != "train":
            measure(recipe, node, data, folder, runs)
        return folder


@contextmanager
def _lock(node: Node, runs: Path, wait: bool) -> Iterator[None]:
    """Hold the stage's lock, in the main process for all; the system frees it when its owner dies."""
    state = PartialState()
    launched = int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1
    if state.num_processes != launched:  # each would take itself for the only one
        raise RunFailed(
            f"{node.stage}: {launched} processes were launched, and accelerate sees {state.num_processes}: "
            "is there a GPU for each?"
        )
    lock = FileLock(runs / "work" / f"{node.key}.lock")
    if state.is_main_process:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise Busy(f"{node.stage}: another run is at this stage") from None
            info(f"{node.stage}: another run is at this stage; waiting for it to be published")
            lock.acquire()
    try:
        state.wait_for_everyone()
        yield
    finally:
        if state.is_main_process:
            lock.release()


def _train_and_publish(
    recipe: Recipe, node: Node, data: StageData, runs: Path, sweep: str | None, only: Part | None
) -> Path:
    stage, work = recipe.stages[node.stage], store.work_dir(runs, node.key)
    name = f"{recipe.name}-{node.stage}-seed{recipe.seed}-{node.key}"

    # 1. Where it starts: the stage before, or the base model.
    source, revision = starting_model(recipe, node, runs)
    info(f"{node.stage}: {describe(data)}; {data.counts['steps_per_epoch']} steps an epoch; from {source}")

    # 2. Train, from the last complete checkpoint if there is one.
    estimate, checkpointing = _plan_memory(recipe, node, data)
    checkpoint = train.last_checkpoint(work / "checkpoints")
    conditions = Conditions(source, estimate, checkpointing, checkpoint, sweep)
    args = _training_arguments(recipe, node, data, runs, checkpointing, name)
    init = {"trust_remote_code": args.trust_remote_code, **(stage.train.get("model_init_kwargs") or {})}
    tokenizer = load_tokenizer(source, revision, args.trust_remote_code)
    torch.manual_seed(recipe.seed)
    model = train.load_model(source, revision, recipe.precision, {**init, **adapter.quantization(recipe)})
    progress, curve = Progress(node.stage), _retention_curve(recipe, node, data, tokenizer, work / CURVE)
    callbacks: list[TrainerCallback] = [progress, curve] if curve else [progress]
    trainer = train.build_trainer(recipe, stage, model, tokenizer, data.examples, args, callbacks)
    trackers = Trackers(trainer, runs / "logs" / name)
    if curve:
        curve.trackers = trackers
    seconds = _train(trainer, node, conditions, progress)

    # 3. Write the model and how it came about, as a draft beside the checkpoints.
    draft = work / "draft"
    save_model(recipe, trainer, tokenizer, draft, partial(train.load_model, source, revision, recipe.precision, init))
    record, history = stage_record(recipe, node, data, trainer, conditions, seconds), loss_history(trainer)
    ended = trainer.state
    del trainer, model
    clear_device_cache(garbage_collection=True)  # they hold each other; the published model needs the room

    # 4. Publish it, whole; then measure what was published, not what was in memory.
    folder = _publish(recipe, node, data, record, history, draft, runs, name)
    _measure_and_report(recipe, node, data, folder, runs, trackers, ended, only)
    return folder


def _plan_memory(recipe: Recipe, node: Node, data: StageData) -> tuple[memory.Memory | None, bool]:
    """The estimate of a device's memory, and whether activations are checkpointed: as the recipe says, or as needed."""
    launched = (private_api.fsdp_asked(), PartialState().num_processes)
    estimate = memory.estimate(recipe, node.stage, data.counts["longest"], launched)
    checkpointing = recipe.stages[node.stage].train.get("activation_checkpointing")
    if checkpointing is None:
        checkpointing = torch.cuda.is_available() and memory.needs_checkpointing(estimate, _device_bytes())
    return estimate, checkpointing


def _device_bytes() -> float:
    return float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def _training_arguments(
    recipe: Recipe, node: Node, data: StageData, runs: Path, checkpointing: bool, name: str
) -> SFTConfig:
    stage, folder = recipe.stages[node.stage], store.work_dir(runs, node.key) / "checkpoints"
    args = train.sft_config(recipe, stage, folder, PartialState().num_processes, checkpointing=checkpointing)
    args.model_init_kwargs = None  # the model is loaded here, not by TRL
    args.run_name = args.run_name or name
    if stage.match:
        args.max_steps = train.matched_steps(recipe, stage.match, data.examples, runs)
    return args


def _retention_curve(
    recipe: Recipe, node: Node, data: StageData, tokenizer: PreTrainedTokenizerBase, file: Path
) -> RetentionCurve | None:
    """The callback that measures the earlier facts while this stage trains, where its `curve` asks for it."""
    curve = recipe.stages[node.stage].curve
    if curve is None:
        return None
    names = {id_: listed.label for id_, listed in fact_lists(recipe, node.position).items()}
    trained = facts_id(recipe, node.stage)
    lists = {id_: data.measured[id_] for id_ in names if id_ != trained}
    every = curve.steps or int(curve.epochs or 0) * data.counts["steps_per_epoch"]
    return RetentionCurve(lists, names, tokenizer, every, file)


def _train(trainer: train.StageTrainer, node: Node, conditions: Conditions, progress: Progress) -> float:
    """Train to the end; returns the seconds that it took. Raises RunFailed where memory runs out."""
    if conditions.checkpoint:
        info(f"{node.stage}: resumes from {conditions.checkpoint}")
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(conditions.checkpoint) if conditions.checkpoint else None)
    except torch.OutOfMemoryError:
        per_device = trainer.args.per_device_train_batch_size
        advice = memory.advice(conditions.memory, conditions.checkpointing, per_device)
        raise RunFailed(f"{node.stage}: {advice}") from None
    finally:
        progress.close()
    return time.monotonic() - started


def _publish(
    recipe: Recipe,
    node: Node,
    data: StageData,
    record: StageRecord,
    history: list[dict[str, Any]],
    draft: Path,
    runs: Path,
    name: str,
) -> Path:
    """Complete the draft and publish it; all processes get the published directory."""
    stopped = ", the stop fired" if record.stop_fired else ""
    duration = format_duration(record.seconds)
    info(f"{node.stage}: {record.steps} steps in {duration}, loss {record.last_loss:.2g}{stopped}")
    state = PartialState()
    if state.is_main_process:
        write_files(draft, record, recipe, history)
        save(data, draft / "data", examples=False)
        if recipe.stages[node.stage].curve:
            shutil.copy(draft.parent / CURVE, draft / CURVE)  # a run that is killed from here on still has its own
        store.publish(runs, draft, name)
    state.wait_for_everyone()
    folder = store.published_stages(runs)[node.key]
    info(f"{node.stage}: published {folder}")
    return folder


def _measure_and_report(
    recipe: Recipe,
    node: Node,
    data: StageData,
    folder: Path,
    runs: Path,
    trackers: Trackers,
    ended: TrainerState,
    only: Part | None,
) -> None:
    """Measure what was published, unless `only` training was asked for, and report its recall to the trackers."""
    try:
        if only is None or trackers.reporters:  # a tracker gets the recall of a stage in the run that trained it
            measure(recipe, node, data, folder, runs)
    except MeasurementFailed:
        if only is None:
            raise  # else the job that measures the stage tries again, and nothing waits for that
    finally:
        recall = RecallRecord.read_if_exists(folder / "recall.json") if PartialState().is_main_process else None
        if recall:
            trackers.log(ended, {f"recall_{one.label}": one.recall for one in recall.lists.values()})
        trackers.close()
