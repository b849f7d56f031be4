"""One stage of continual memorization, as in section 2 of the paper.

    1. It starts from the model of the stage before, or from the base model.
    2. It trains that model on D, and on D_M with REMIX, until the loss is near zero or the epochs are over.
    3. It publishes the model that comes out, whole, as a plain directory.
    4. It measures that model on the facts of every stage so far: what was learned, and what was retained.

`remix run` calls this for every stage of a recipe. On several devices, it is what accelerate launches:

    accelerate launch --config_file accelerate_configs/fsdp_4gpu.yaml -m remix_toolkit.stage \\
        recipes/kvr.yaml --profile llama3-8b --stage stage1
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache
from filelock import BaseFileLock, Timeout

from remix_toolkit import store
from remix_toolkit.console import format_duration, info, warn
from remix_toolkit.data.encoding import load_tokenizer
from remix_toolkit.disk import file_lock
from remix_toolkit.errors import BadInput, Busy, MeasurementFailed, RunFailed
from remix_toolkit.evaluate.measurements import is_measured
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.graph import fitting, memory
from remix_toolkit.graph.prune import delete_work
from remix_toolkit.recipe.sft_fields import trusts_code
from remix_toolkit.seals import PRUNED
from remix_toolkit.stage import adapter, private_api, remedies, train
from remix_toolkit.stage.after import write_changed
from remix_toolkit.stage.callbacks import Progress, Trackers
from remix_toolkit.stage.curve import CURVE, RetentionCurve
from remix_toolkit.stage.measure import measure
from remix_toolkit.stage.prepare import PreparedStage, starting_model
from remix_toolkit.stage.publish import save_model, stage_record, write_files
from remix_toolkit.stage.ranks import main_process_first

Part = Literal["train", "measure"]


def run_stage(
    prepared: PreparedStage, weights: bool = True, sweep: str | None = None, wait: bool = True, only: Part | None = None
) -> Path:
    """Train, publish and measure one stage, or do `only` one of these; what is done already is not done again.

    Where a published stage's weights were deleted, it is trained again if `weights` are needed or a measurement is
    missing. `sweep` is recorded as the one that trained it. Returns the published directory.

    Raises BadInput or RunFailed, after which nothing half-done is left under stages/; Busy where another run is at this
    stage and this one is not to `wait`; MeasurementFailed where the stage is published, but not measured in full.
    """
    recipe, name, key = prepared.recipe, prepared.node.stage, prepared.node.key
    with _lock(prepared, wait):
        folder = store.find_stage(prepared.runs, key)
        pruned = folder is not None and store.is_pruned(folder)
        if only == "measure" and (folder is None or pruned):
            raise BadInput(f"{name}: has no published weights to be measured: train it first")
        if folder is None or (pruned and (weights or not is_measured(recipe, name, folder))):
            if prepared.trained:  # the weights of the stage as it is trained, changed without training
                run_stage(prepared.trained, True, sweep, wait, "train")
                write_changed(prepared, prepared.trained, sweep)
                folder = _publish(prepared)
                if only is None:
                    measure(prepared, folder)
                return folder
            trackers = _train(prepared, sweep)
            clear_device_cache(garbage_collection=True)  # what is measured is loaded from the published files
            folder = _publish(prepared)
            _measure_trained(prepared, folder, trackers, only)
            return folder
        with main_process_first() as first:
            if first:
                store.verify(folder)
        info(f"{name}: already published, reused: {folder}")
        if PartialState().is_main_process and not pruned:
            delete_work(prepared.runs, prepared.work)  # a run that was killed may not have come to it
            for partial in folder.glob("*.partial"):  # nor have renamed what it measured
                if not partial.name.startswith(PRUNED):  # which whoever needs its room writes, without the lock
                    partial.unlink()
        if prepared.stage.curve and not (folder / CURVE).exists():
            info(f"{name}: it was trained without a retention curve, so there is none")
        if only != "train":
            measure(prepared, folder)
        return folder


@contextmanager
def _lock(prepared: PreparedStage, wait: bool) -> Iterator[None]:
    """Hold the stage's lock, in the main process for all; the system frees it when its owner dies."""
    state, name = PartialState(), prepared.node.stage
    launched = int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1
    if state.num_processes != launched:  # each would take itself for the only one
        raise RunFailed(
            f"{name}: {launched} processes were launched, and accelerate sees {state.num_processes}: "
            "is there a GPU for each?"
        )
    lock = file_lock(store.lock_file(prepared.runs, prepared.node.key))
    try:
        with main_process_first() as first:
            if first:
                _acquire(lock, name, wait)
        yield
    finally:
        if state.is_main_process:
            lock.release()


def _acquire(lock: BaseFileLock, name: str, wait: bool) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise Busy(f"{name}: another run is at this stage") from None
        info(f"{name}: another run is at this stage; waiting for it to be published")
        lock.acquire()


def _train(prepared: PreparedStage, sweep: str | None) -> Trackers:
    """Train the stage and write a draft of what is published.

    Raises RunFailed where the loss is not finite, a device's memory runs out, or the model is not written as it is.
    """
    stage, data, name = prepared.stage, prepared.data, prepared.node.stage
    recipe = prepared.recipe.of_stage(name)
    prepared.work.mkdir(parents=True, exist_ok=True)

    # The model that it starts from.
    checkpoint = train.last_checkpoint(prepared.work / "checkpoints")
    with main_process_first() as first:
        source, revision = starting_model(prepared, verify=first)
    info(f"{name}: {data}; {data.counts.steps_per_epoch} steps an epoch; from {source}")
    init = {
        "trust_remote_code": trusts_code(stage.train),
        **(stage.train.get("model_init_kwargs") or {}),
    }
    tokenizer = load_tokenizer(source, revision, init["trust_remote_code"])
    load = partial(train.load_model, source, revision, recipe.loaded_in)

    # TRL's trainer of it, on the examples of D and D_M.
    estimate, checkpointing = _plan_memory(prepared)
    processes = PartialState().num_processes
    args = train.sft_config(recipe, stage, prepared.work / "checkpoints", processes, checkpointing=checkpointing)
    args.run_name = args.run_name or prepared.published_name
    if stage.match:
        args.max_steps = train.matched_steps(recipe, stage.match, data, prepared.runs)
    torch.manual_seed(recipe.seed)
    model = train.load_start(source, revision, recipe.loaded_in, init | adapter.quantization(recipe))
    trainer = train.build_trainer(recipe, stage, model, tokenizer, data.examples, args, data.redrawn)
    remedies.attach(
        trainer, prepared, tokenizer, partial(train.load_model, source, revision, recipe.published_in, init)
    )
    progress, trackers = Progress(name), Trackers(trainer, prepared.runs / "logs" / prepared.published_name)
    trainer.add_callback(progress)
    if stage.curve:
        trainer.add_callback(RetentionCurve(prepared, tokenizer, trackers))

    # Training, from the last checkpoint if there is one.
    if checkpoint:
        info(f"{name}: resumes from {checkpoint}")
    try:
        ended = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError:
        advice = memory.advice(estimate, checkpointing, args.per_device_train_batch_size, private_api.fsdp_requested())
        raise RunFailed(f"{name}: {advice}") from None
    finally:
        progress.close()
    seconds = ended.metrics["train_runtime"]

    # The model that comes out, and how it came about, beside the checkpoints.
    save_model(recipe, trainer, tokenizer, prepared.draft, unmerged=partial(load, init))
    record = stage_record(prepared, trainer, (source, revision), seconds, checkpoint, estimate, checkpointing, sweep)
    if PartialState().is_main_process:
        write_files(prepared, trainer, record)
    stopped = ", the stop fired" if record.stop_fired else ""
    info(f"{name}: {record.steps} steps in {format_duration(seconds)}, loss {record.last_loss:.2g}{stopped}")
    return trackers


def _plan_memory(prepared: PreparedStage) -> tuple[memory.Memory | None, bool]:
    """The estimate of a device's memory, and whether activations are checkpointed: as the recipe says, or as needed.

    Warns where the stage does not fit by that estimate, which may be wrong: it is tried all the same.
    """
    launched = (private_api.fsdp_requested(), PartialState().num_processes)
    stage = (prepared.recipe, prepared.node.stage, prepared.data.counts.longest)
    estimate = memory.estimate(*stage, launched)
    checkpointing = prepared.stage.train.get("activation_checkpointing")
    if torch.cuda.is_available():
        room = float(torch.cuda.get_device_properties().total_memory)
        if PartialState().is_main_process and (misfit := fitting.misfit(*stage, room, launched)):
            warn(f"{prepared.node.stage}: {misfit}")
        if checkpointing is None:
            checkpointing = memory.needs_checkpointing(estimate, room)
    return estimate, bool(checkpointing)


def _publish(prepared: PreparedStage) -> Path:
    """Publish the draft, whole; all processes get the published directory."""
    state = PartialState()
    if state.is_main_process:
        store.publish(prepared.runs, prepared.draft, prepared.published_name)
        delete_work(prepared.runs, prepared.work)
    state.wait_for_everyone()
    folder = store.published_stages(prepared.runs)[prepared.node.key]
    info(f"{prepared.node.stage}: published {folder}")
    return folder


def _measure_trained(prepared: PreparedStage, folder: Path, trackers: Trackers, only: Part | None) -> None:
    """Measure what was published, not what was in memory; its recall goes to the trackers, too.

    With `only` training, it is measured for the trackers alone, which get a stage's recall in the run that trained it.
    """
    try:
        if only is None or trackers.reporters:
            measure(prepared, folder)
    except MeasurementFailed:
        if only is None:
            raise  # else the job that measures the stage tries again, and nothing waits for that
    finally:
        if PartialState().is_main_process and (lists := Recall().read(folder)):
            trackers.log({f"recall_{listed.label}": listed.recall for listed in lists.values()})
        trackers.close()
