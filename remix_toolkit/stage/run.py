"""One stage, top to bottom: its parent, its data, training, publication, measurements.

`remix run` calls this for every stage of a recipe. On several devices, it is what accelerate launches:

    accelerate launch --config_file accelerate_configs/fsdp_4gpu.yaml -m remix_toolkit.stage \\
        recipes/kvr.yaml --profile llama3-8b --stage stage1
"""

import csv
import io
import os
import platform
import shutil
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
import yaml
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils.memory import clear_device_cache
from filelock import FileLock, Timeout
from transformers import TrainerCallback

from remix_toolkit import store
from remix_toolkit.console import format_duration, info, silence_libraries
from remix_toolkit.data.identity import facts_id
from remix_toolkit.data.tiny import base_model
from remix_toolkit.data.tulu import load_tokenizer
from remix_toolkit.errors import BadInput, Busy, MeasurementFailed, RunFailed
from remix_toolkit.evaluate.measurements import is_measured
from remix_toolkit.evaluate.records import RecallRecord
from remix_toolkit.graph import memory
from remix_toolkit.graph.ancestry import weights
from remix_toolkit.graph.lineage import Node, fact_lists
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import Fingerprints, StageCounts, StageRecord, write_text
from remix_toolkit.stage import adapter, train
from remix_toolkit.stage.callbacks import Progress
from remix_toolkit.stage.curve import RetentionCurve
from remix_toolkit.stage.data import StageData, build_all
from remix_toolkit.stage.live import Live
from remix_toolkit.stage.measure import check_measurable, measure
from remix_toolkit.stage.save import save_model

CURVE = "retention.jsonl"
LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "nltk", "remix-toolkit")


def prepare(recipe: Recipe, nodes: list[Node], runs: Path, ask: bool = True) -> dict[str, StageData]:
    """The data of some stages, by name, after every check that can be made before training. Raises BadInput.

    Without `ask`, facts of which it is not known yet whether the base model knows them count as qualified.
    """
    silence_libraries()
    tokenizer = load_tokenizer(*base_model(recipe, runs), trust_remote_code=bool(recipe.train.get("trust_remote_code")))
    data = build_all(recipe, [node.stage for node in nodes], tokenizer, runs, ask)
    for node in nodes:
        check_measurable(recipe, node, data[node.stage])
    adapter.lora_config(recipe.adapter)
    adapter.quantization(recipe)
    if "LOCAL_RANK" not in os.environ:  # else this process is one of a launcher's, which was checked before
        for node in nodes:  # on the CPU: the devices may be for a launcher's processes
            train.sft_config(recipe, recipe.stages[node.stage], store.work_dir(runs, node.key), 1, use_cpu=True)
        AcceleratorState._reset_state(reset_partial_state=True)  # SFTConfig made the CPU everybody's device
    return data


def run_stage(
    recipe: Recipe,
    node: Node,
    data: StageData,
    runs: Path,
    weights: bool = True,
    sweep: str | None = None,
    wait: bool = True,
    only: Literal["train", "measure"] | None = None,
) -> Path:
    """Train, publish and measure one stage, or do `only` one of these; what is done already is not done again.

    Where a published stage's weights were deleted, it is trained again if `weights` are wanted or a measurement is
    missing. `sweep` is noted as the one that trained it. Returns the published directory. Raises BadInput or RunFailed,
    and Busy where another run is at this stage and this one is not to `wait`; nothing half-done is left under stages/.
    Raises MeasurementFailed where the stage is published and something could not be measured.
    """
    state = PartialState()
    launched = int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1
    if state.num_processes != launched:  # each would take itself for the only one
        raise RunFailed(
            f"{node.stage}: {launched} processes were launched, and accelerate sees {state.num_processes}: "
            "is there a GPU for each?"
        )
    lock = FileLock(runs / "work" / f"{node.key}.lock")  # the system frees it when its owner dies
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
        folder = store.find(runs, node.key)
        pruned = folder is not None and store.is_pruned(folder)
        if only == "measure" and (folder is None or pruned):
            raise BadInput(f"{node.stage}: has no published weights to be measured: train it first")
        if folder is None or (pruned and (weights or not is_measured(recipe, node.stage, folder))):
            return _train_and_publish(recipe, node, data, runs, sweep, only)
        check_fingerprints(recipe, node, data, runs)
        info(f"{node.stage}: already published, reused: {folder}")
        if recipe.stages[node.stage].curve and not (folder / CURVE).exists():
            info(f"{node.stage}: it was trained without a retention curve, so there is none")
        if only != "train":
            measure(recipe, node, data, folder, runs)
        return folder
    finally:
        if state.is_main_process:
            lock.release()


def _train_and_publish(
    recipe: Recipe,
    node: Node,
    data: StageData,
    runs: Path,
    sweep: str | None,
    only: Literal["train", "measure"] | None,
) -> Path:
    state = PartialState()
    stage = recipe.stages[node.stage]
    work = store.work_dir(runs, node.key)

    # 1. Where it starts: the base model or the parent's published model, and the data it was promised.
    source, revision = starting_model(recipe, node, runs)
    check_fingerprints(recipe, node, data, runs)
    info(f"{node.stage}: {describe(data)}; {data.counts['steps_per_epoch']} steps an epoch; from {source}")

    # 2. Train, from the last complete checkpoint if there is one.
    launched = (train.fsdp_asked(), state.num_processes)
    needed = memory.estimate(recipe, node.stage, data.counts["longest"], launched)
    checkpointing = stage.train.get("activation_checkpointing")
    if checkpointing is None:  # not said: where it must be
        checkpointing = memory.needs_checkpointing(needed, device_bytes()) if torch.cuda.is_available() else False
    args = train.sft_config(recipe, stage, work / "checkpoints", state.num_processes, checkpointing=checkpointing)
    init = {"trust_remote_code": args.trust_remote_code, **(stage.train.get("model_init_kwargs") or {})}
    args.model_init_kwargs = None
    if stage.match:
        args.max_steps = train.matched_steps(recipe, stage.match, data.examples, runs)
    name = f"{recipe.name}-{node.stage}-seed{recipe.seed}-{node.key}"
    args.run_name = args.run_name or name
    tokenizer = load_tokenizer(source, revision, args.trust_remote_code)
    torch.manual_seed(recipe.seed)
    quantized = adapter.quantization(recipe)
    model = train.load_model(source, revision, recipe.precision, {**init, **quantized})
    progress = Progress(node.stage)
    callbacks: list[TrainerCallback] = [progress]
    curve: RetentionCurve | None = None
    names = {id_: listed.label for id_, listed in fact_lists(recipe, node.position).items()}
    if stage.curve:
        every = stage.curve.steps or int(stage.curve.epochs or 0) * data.counts["steps_per_epoch"]
        own = facts_id(recipe, node.stage)
        lists = {id_: data.measured[id_] for id_ in names if id_ != own}
        curve = RetentionCurve(lists, names, tokenizer, every, work / CURVE)
        callbacks.append(curve)
    trainer = train.build_trainer(recipe, stage, model, tokenizer, data.examples, args, callbacks)
    live = Live(trainer, runs / "logs" / name)
    if curve:
        curve.live = live
    checkpoint = train.last_checkpoint(work / "checkpoints")
    if checkpoint:
        info(f"{node.stage}: resumes from {checkpoint}")
    if state.is_main_process:
        work.mkdir(exist_ok=True)
        Fingerprints.model_validate(data.fingerprints).write(work / "fingerprints.json")
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except torch.OutOfMemoryError:
        per_device = args.per_device_train_batch_size
        raise RunFailed(f"{node.stage}: {memory.advice(needed, checkpointing, per_device)}") from None
    finally:
        progress.close()
    seconds = time.monotonic() - started

    # 3. Write the model and how it came about, as a draft beside the checkpoints.
    draft = work / "draft"
    unmerged = partial(train.load_model, source, revision, recipe.precision, init)
    save_model(recipe, trainer, tokenizer, draft, unmerged)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    record = StageRecord(
        stage=node.stage,
        key=node.key,
        ancestors=list(node.ancestors),
        started_from=source,
        parent_weights=weights(Path(source)) if node.ancestors else None,
        started_from_commit=getattr(model.config, "_commit_hash", None),  # of a hub model
        counts=StageCounts.model_validate(data.counts),
        fingerprints=Fingerprints.model_validate(data.fingerprints),
        steps=trainer.state.global_step,
        steps_planned=trainer.state.max_steps,
        trained_tokens=train.trained_tokens(recipe, data.examples, trainer.state.global_step),
        epochs=trainer.state.epoch,
        sweep=sweep,
        stop_fired=bool(stage.stop) and trainer.state.global_step < trainer.state.max_steps,
        last_loss=history[-1]["loss"],
        seconds=round(seconds, 1),
        resumed_from=checkpoint.name if checkpoint else None,
        processes=state.num_processes,
        device=str(state.device),
        precision=recipe.precision,
        activation_checkpointing=checkpointing,
        memory_estimated=round(needed.total(checkpointing)) if needed else None,
        memory_peak=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        distributed=how_distributed(state, trainer.is_fsdp_enabled),
        attention=model.config._attn_implementation,
        python=platform.python_version(),
        libraries={name: version(name) for name in LIBRARIES},
        declaration=node.declaration,
    )
    ended = trainer.state
    del trainer, model
    clear_device_cache(garbage_collection=True)  # they hold each other; the published model needs the room
    if state.is_main_process:
        record.write(draft / "stage.json")
        declared = recipe.model_dump(mode="json", exclude_none=True)
        write_text(draft / "recipe.yaml", yaml.safe_dump(declared, sort_keys=False))
        write_text(draft / "loss.csv", loss_csv(history))
        if stage.curve:
            shutil.copy(work / CURVE, draft / CURVE)  # a run that is killed from here on goes on with its own
    stopped = ", the stop fired" if record.stop_fired else ""
    info(f"{node.stage}: {record.steps} steps in {format_duration(seconds)}, loss {record.last_loss:.2g}{stopped}")

    # 4. Publish it, whole; then measure what was published, not what was in memory.
    if state.is_main_process:
        store.publish(runs, draft, name)
    state.wait_for_everyone()
    folder = store.published(runs)[node.key]
    info(f"{node.stage}: published {folder}")
    try:
        if only is None or live.reporters:  # a tracker gets the recall of a stage in the run that trained it
            measure(recipe, node, data, folder, runs)
    except MeasurementFailed:
        if only is None:
            raise  # else the job that measures the stage tries again, and nothing waits for that
    finally:
        recall = RecallRecord.read_if_exists(folder / "recall.json") if state.is_main_process else None
        if recall:
            live.log(ended, {f"recall_{one.label}": one.recall for one in recall.lists.values()})
        live.close()
    return folder


def how_distributed(state: PartialState, sharded: bool) -> Literal["FSDP2", "DDP", "no"]:
    """`FSDP2` (train.Sharded sees to it that this is no FSDP1), `DDP`, or `no`."""
    return "FSDP2" if sharded else "DDP" if state.num_processes > 1 else "no"


def device_bytes() -> float:
    """The memory of this process's GPU."""
    return float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)


def starting_model(recipe: Recipe, node: Node, runs: Path) -> tuple[str, str | None]:
    """The parent's published directory, checked against its manifest, or the base model (and its revision)."""
    if not node.ancestors:
        return base_model(recipe, runs)
    parent = store.find(runs, node.ancestors[-1])
    if parent is None:
        raise BadInput(f"{recipe.name}: {node.stage} starts from a stage that is not published yet: run that first")
    if store.is_pruned(parent):
        raise BadInput(f"{recipe.name}: {node.stage} starts from {parent}, whose weights were deleted: run that again")
    store.verify(parent)
    return str(parent), None


def check_fingerprints(recipe: Recipe, node: Node, data: StageData, runs: Path) -> None:
    """The data built now must be the very pairs that this stage (begun or published) and its ancestors trained on.

    A key is over the declaration; a source that changed behind it (a hub's dataset, a corpus) is noticed here, not
    used. Raises BadInput.
    """
    names = list(recipe.stages)
    for name, key, facts in zip(names, node.ancestors, data.earlier, strict=False):
        folder = store.find(runs, key)
        if folder and StageRecord.read(folder / "stage.json").fingerprints.facts != facts:
            raise BadInput(_changed(recipe, name, folder))
    published, begun = store.find(runs, node.key), store.work_dir(runs, node.key)
    recorded = Fingerprints.read_if_exists(begun / "fingerprints.json")
    if published:
        recorded = StageRecord.read(published / "stage.json").fingerprints
    if recorded is not None and recorded != Fingerprints.model_validate(data.fingerprints):
        raise BadInput(_changed(recipe, node.stage, published or begun))


def _changed(recipe: Recipe, stage: str, folder: Path) -> str:
    return (
        f"{recipe.name}: the data of {stage} is not what {folder} was trained on: its source has changed since. "
        "Delete that directory to train the stage on what the source holds now"
    )


def loss_csv(history: list[dict[str, float]]) -> str:
    """The loss curve, a line per optimizer step."""
    out = io.StringIO()
    writer = csv.DictWriter(out, ["step", "epoch", "loss", "learning_rate"], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(history)
    return out.getvalue()


def describe(data: StageData) -> str:
    """`100 facts + 200 random_words`, and what was dropped."""
    what = "rows" if data.held_out else "facts"
    parts = [f"{data.counts['facts']} {what}", *(f"{n} {source}" for source, n in data.counts["mixing"].items())]
    return " + ".join(parts) + "".join(f", {n} dropped: {why}" for why, n in data.counts["dropped"].items())
