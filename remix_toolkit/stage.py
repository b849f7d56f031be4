"""One stage, top to bottom: its parent, its data, training, publication, recall.

`remix run` calls this for every stage of a recipe. On several devices, it is what accelerate launches:

    accelerate launch --config_file accelerate_configs/fsdp_4gpu.yaml -m remix_toolkit.stage \\
        recipes/kvr.yaml --profile llama3-8b --stage stage1
"""

import csv
import io
import json
import os
import platform
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from accelerate import PartialState
from accelerate.utils import gather_object
from filelock import FileLock, Timeout

from remix_toolkit import held_out, store, train
from remix_toolkit.build import MAX_LENGTH, StageData, build_all
from remix_toolkit.console import duration, quieten, say
from remix_toolkit.data.tulu import encode_all, load_tokenizer
from remix_toolkit.errors import BadInput, exit_codes
from remix_toolkit.lineage import Node, lineage, run_record
from remix_toolkit.progress import Progress
from remix_toolkit.recall import percent, recall, row
from remix_toolkit.recipe import Recipe
from remix_toolkit.resolve import load_recipe
from remix_toolkit.tiny import base_model

LIBRARIES = ("torch", "transformers", "trl", "accelerate", "peft", "datasets", "tokenizers", "nltk", "remix-toolkit")


def prepare(recipe: Recipe, nodes: list[Node], runs: Path) -> dict[str, StageData]:
    """The data of some stages, by name, after every check that can be made before training. Raises BadInput."""
    quieten()
    tokenizer = load_tokenizer(*base_model(recipe, runs), trust_remote_code=bool(recipe.train.get("trust_remote_code")))
    data = build_all(recipe, [node.stage for node in nodes], tokenizer, runs)
    train.lora_config(recipe.adapter)
    for node in nodes:  # on the CPU: under a launcher, the devices are its processes', not this one's
        train.sft_config(recipe, recipe.stages[node.stage], store.work_dir(runs, node.key), 1, use_cpu=True)
    return data


def run_stage(recipe: Recipe, node: Node, data: StageData, runs: Path) -> Path:
    """Train, publish and measure one stage; a published one is only measured where a measurement is missing.

    Returns the published directory. Raises BadInput or RunFailed; nothing half-done is left under stages/.
    """
    state = PartialState()
    lock = FileLock(runs / "work" / f"{node.key}.lock")
    if state.is_main_process:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"{node.stage}: another run is at this stage; waiting for it to be published")
            lock.acquire()
    try:
        state.wait_for_everyone()
        folder = store.find(runs, node.key)
        if folder is None:
            return _train_and_publish(recipe, node, data, runs)
        check_fingerprints(recipe, node, data, runs)
        _tell(state, f"{node.stage}: already published, reused: {folder}")
        measure(recipe, node, data, folder)
        return folder
    finally:
        if state.is_main_process:
            lock.release()


def _train_and_publish(recipe: Recipe, node: Node, data: StageData, runs: Path) -> Path:
    state = PartialState()
    stage = recipe.stages[node.stage]
    work = store.work_dir(runs, node.key)

    # 1. Where it starts: the base model or the parent's published model, and the data it was promised.
    if recipe.adapter and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        raise BadInput(
            "adapter: LoRA is not merged under FSDP yet; say accelerate_config=accelerate_configs/one_gpu.yaml"
        )
    source, revision = starting_model(recipe, node, runs)
    check_fingerprints(recipe, node, data, runs)
    _tell(state, f"{node.stage}: {describe(data)}; {data.counts['steps_per_epoch']} steps an epoch; from {source}")

    # 2. Train, from the last complete checkpoint if there is one.
    args = train.sft_config(recipe, stage, work / "checkpoints", state.num_processes)
    init = {"trust_remote_code": args.trust_remote_code, **(stage.train.get("model_init_kwargs") or {})}
    args.model_init_kwargs = None
    tokenizer = load_tokenizer(source, revision, args.trust_remote_code)
    torch.manual_seed(recipe.seed)
    model = train.load_model(source, revision, recipe.precision, init)
    progress = Progress(node.stage)
    trainer = train.build_trainer(recipe, stage, model, tokenizer, data.examples, args, [progress])
    checkpoint = train.last_checkpoint(work / "checkpoints")
    if checkpoint:
        _tell(state, f"{node.stage}: resumes from {checkpoint}")
    if state.is_main_process:
        work.mkdir(exist_ok=True)
        store.write_json(work / "fingerprints.json", data.fingerprints)
    started = time.monotonic()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        progress.close()
    seconds = time.monotonic() - started

    # 3. Write the model and how it came about, as a draft beside the checkpoints.
    draft = work / "draft"
    train.save_model(recipe, trainer, tokenizer, draft)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    result = {
        "stage": node.stage,
        "key": node.key,
        "ancestors": node.ancestors,
        "started_from": source,
        "started_from_commit": getattr(model.config, "_commit_hash", None),  # of a hub model
        "counts": data.counts,
        "fingerprints": data.fingerprints,
        "steps": trainer.state.global_step,
        "steps_planned": trainer.state.max_steps,
        "epochs": trainer.state.epoch,
        "stop_fired": bool(stage.stop) and trainer.state.global_step < trainer.state.max_steps,
        "last_loss": history[-1]["loss"],
        "seconds": round(seconds, 1),
        "resumed_from": checkpoint.name if checkpoint else None,
        "processes": state.num_processes,
        "device": str(state.device),
        "attention": model.config._attn_implementation,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "declaration": node.declaration,
    }
    del trainer, model
    if state.is_main_process:
        store.write_json(draft / "stage.json", result)
        declared = recipe.model_dump(mode="json", exclude_none=True)
        store.write_text(draft / "recipe.yaml", yaml.safe_dump(declared, sort_keys=False))
        store.write_text(draft / "loss.csv", loss_csv(history))
    stopped = ", the stop fired" if result["stop_fired"] else ""
    _tell(
        state, f"{node.stage}: {result['steps']} steps in {duration(seconds)}, loss {result['last_loss']:.2g}{stopped}"
    )

    # 4. Measure what was published, not what was in memory; then publish, whole.
    measure(recipe, node, data, draft)
    final = runs / "stages" / f"{recipe.name}-{node.stage}-seed{recipe.seed}-{node.key}"
    if state.is_main_process:
        store.publish(runs, draft, final.name)
    state.wait_for_everyone()
    _tell(state, f"{node.stage}: published {final}")
    return final


def starting_model(recipe: Recipe, node: Node, runs: Path) -> tuple[str, str | None]:
    """The parent's published directory, checked against its manifest, or the base model (and its revision)."""
    if not node.ancestors:
        return base_model(recipe, runs)
    parent = store.find(runs, node.ancestors[-1])
    if parent is None:
        raise BadInput(f"{recipe.name}: {node.stage} starts from a stage that is not published yet: run that first")
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
        if folder and store.read_json(folder / "stage.json")["fingerprints"]["facts"] != facts:
            raise BadInput(_changed(recipe, name, folder))
    published, begun = store.find(runs, node.key), store.work_dir(runs, node.key)
    recorded = None
    if published:
        recorded = store.read_json(published / "stage.json")["fingerprints"]
    elif (begun / "fingerprints.json").exists():
        recorded = store.read_json(begun / "fingerprints.json")
    if recorded is not None and recorded != data.fingerprints:
        raise BadInput(_changed(recipe, node.stage, published or begun))


def _changed(recipe: Recipe, stage: str, folder: Path) -> str:
    return (
        f"{recipe.name}: the data of {stage} is not what {folder} was trained on: its source has changed since. "
        "Delete that directory to train the stage on what the source holds now"
    )


def is_measured(data: StageData, folder: Path) -> bool:
    """Has everything that this recipe asks been measured in a published directory?"""
    held_out = store.read_json(folder / "held_out.json")["rows"] if (folder / "held_out.json").exists() else 0
    return data.measured.keys() <= store.measured(folder) and len(data.held_out) in (0, held_out)


def measure(recipe: Recipe, node: Node, data: StageData, folder: Path) -> None:
    """Recall of every list of facts that has none yet in this directory, and the loss on held-out rows.

    Each process takes its share of the rows.
    """
    state = PartialState()
    known = folder / "recall.json"
    summary: dict[str, Any] = store.read_json(known) if known.exists() else {}
    if known.exists() and is_measured(data, folder):
        return
    lists = {id_: facts for id_, facts in data.measured.items() if id_ not in summary}
    tokenizer = load_tokenizer(str(folder))
    init = {"trust_remote_code": bool(recipe.stages[node.stage].train.get("trust_remote_code"))}
    precision = "fp32" if recipe.precision == "fp32" else "bf16"
    model = train.load_model(str(folder), None, precision, init).to(state.device)
    details = _details(folder, summary)
    for id_, facts in lists.items():
        mine = list(range(state.process_index, len(facts), state.num_processes))
        shares = recall(model, tokenizer, [facts[i] for i in mine]) if mine else []
        verdicts = [v for _, v in sorted(gather_object(list(zip(mine, shares, strict=True))), key=lambda item: item[0])]
        summary[id_] = {
            "recall": percent(verdicts),
            "facts": len(facts),
            "correct": sum(v.correct for v in verdicts),
            "settled_by": dict(Counter(v.settled_by for v in verdicts)),
        }
        details += "".join(json.dumps({"list": id_, **row(v)}, ensure_ascii=False) + "\n" for v in verdicts)
        _tell(state, f"{node.stage}: recall on {id_}: {summary[id_]['recall']:.1f}% of {len(facts)} facts")
    if data.held_out:
        longest = recipe.stages[node.stage].train.get("max_length") or MAX_LENGTH
        _measure_held_out(node, data, folder, model, tokenizer, longest)
    if state.is_main_process:
        store.write_text(folder / "recall.jsonl", details)
        store.write_json(known, summary)
    state.wait_for_everyone()


def _measure_held_out(node: Node, data: StageData, folder: Path, model: Any, tokenizer: Any, max_length: int) -> None:
    """The loss on the rows that the stage held out and, where they have one (GSM8K), how many results are right."""
    state = PartialState()
    mine = data.held_out[state.process_index :: state.num_processes]
    examples = [e for e in encode_all(tokenizer, mine, max_length)[0] if e]
    losses = gather_object([held_out.loss_sum(model, tokenizer, examples)])
    total, tokens = sum(loss for loss, _ in losses), sum(n for _, n in losses)
    result = {"rows": len(data.held_out), "loss": total / max(tokens, 1), "tokens": tokens, "accuracy": None}
    said: list[dict[str, Any]] = []
    if data.held_out[0].source == "gsm8k":
        said = gather_object(held_out.results(model, tokenizer, mine))
        result["accuracy"] = 100.0 * sum(row["correct"] for row in said) / len(said)
    if state.is_main_process:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in said)
        store.write_text(folder / "held_out.jsonl", "".join(lines))
        store.write_json(folder / "held_out.json", result)
    right = "" if result["accuracy"] is None else f", {result['accuracy']:.1f}% of the results right"
    _tell(state, f"{node.stage}: loss {result['loss']:.3f} on {result['rows']} held-out rows{right}")


def _details(folder: Path, summary: dict[str, Any]) -> str:
    """The verdicts written so far, of the lists that the summary knows (a crash may have left others)."""
    if not (folder / "recall.jsonl").exists():
        return ""
    with (folder / "recall.jsonl").open(encoding="utf-8") as lines:  # not splitlines: an answer may hold U+2028
        return "".join(line for line in lines if json.loads(line)["list"] in summary)


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


def _tell(state: PartialState, text: str) -> None:
    if state.is_main_process:
        say(text)


def main(
    recipe: Annotated[str, typer.Argument(help="a recipe file, or the name of one in recipes/")],
    stage: Annotated[str, typer.Option(help="which stage; those before it must be published")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value ...")] = None,
    profile: Annotated[str, typer.Option(help="a profile's name, or its file")] = "tiny",
    seed: Annotated[int | None, typer.Option(help="seed of order and mixing data")] = None,
    runs: Annotated[Path, typer.Option(help="where stages are published")] = Path("runs"),
    record: Annotated[bool, typer.Option(help="note the run, so that `remix show` lists it")] = True,
) -> None:
    """One stage of a recipe, in this process, or in each process that accelerate starts."""
    resolved = load_recipe(recipe, profile, overrides, seed)
    nodes = lineage(resolved, until=stage)
    store.open_store(runs)
    for earlier in nodes[:-1]:
        if store.find(runs, earlier.key) is None:
            raise BadInput(
                f"{resolved.name}: {stage} starts from {earlier.stage}, which is not published in {runs} yet: "
                f"run it first, with the same settings and --stage {earlier.stage}"
            )
    run_stage(resolved, nodes[-1], prepare(resolved, nodes[-1:], runs)[stage], runs)
    if record and PartialState().is_main_process:
        store.record_run(runs, run_record(resolved, nodes, resolved.name, overrides or []))


if __name__ == "__main__":
    exit_codes(lambda: typer.run(main))
