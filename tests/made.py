"""Published stages that nobody trained, with all that a real one has beside its weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT
from forged import recall_record, stage_record

from remix_toolkit import store
from remix_toolkit.graph.lineage import fact_lists, lineage, run_record
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.records import write_text

TWENTY = ["stages.stage1.data.size=20", "stages.stage2.data.size=20"]
Knows = Callable[[str, str, int], bool]  # (stage, task, row) -> is it answered right?


def run(
    runs: Path,
    *overrides: str,
    arm: str = "kvr",
    seed: int = 0,
    knows: Knows = lambda stage, task, row: True,
    prompt: str = "Which is number {row} of {task}?",
    gold: str = "answer {row}",
    losses: tuple[float, ...] = (4.0, 2.0, 1.0),
    beside: dict[str, str] | None = None,
    profile: str = "tiny",
    recipe: Path = ROOT / "recipes" / "kvr.yaml",
    draft: Callable[[Path], Any] = lambda folder: None,
) -> list[Path]:
    """Publish and record a run of recipes/kvr.yaml; `beside` are further files, `draft` may put more into a draft."""
    said = [*TWENTY, *overrides] if recipe.parent == ROOT / "recipes" else list(overrides)
    resolved = load_recipe(recipe, profile, said, seed)
    nodes = lineage(resolved)
    store.open_store(runs)
    for node in nodes:
        if node.key in store.published_stages(runs):
            continue
        folder = store.work_dir(runs, node.key) / "draft"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        stage = resolved.stages[node.stage]
        mixing = {source: 40 for source, spec in stage.mix if spec is not None}
        about = {"counts": {"facts": 20, "mixing": mixing}, "steps": len(losses), "last_loss": losses[-1]}
        about |= {"started_from": str(runs), "libraries": {"torch": "2.13.0", "trl": "1.16.0"}, "seconds": 1.5}
        about |= {"ancestors": list(node.ancestors), "declaration": node.declaration, "trained_tokens": 99}
        stage_record(node.stage, node.key, **about).write(folder / "stage.json")
        declared = resolved.model_dump(mode="json", exclude_none=True)
        write_text(folder / "recipe.yaml", yaml.safe_dump(declared, sort_keys=False))
        rows = [f"{step},{step / 2},{loss},0.001\n" for step, loss in enumerate(losses, start=1)]
        write_text(folder / "loss.csv", "step,epoch,loss,learning_rate\n" + "".join(rows))
        outcomes, lines = {}, []
        for id_, listed in fact_lists(resolved, node.position).items():
            task = listed.label
            right = [knows(node.stage, task, row) for row in range(20)]
            outcomes[id_] = right
            for row, correct in enumerate(right):
                answer = gold.format(row=row)
                line = {"list": id_, "prompt": prompt.format(row=row, task=task), "gold": [answer], "correct": correct}
                lines.append({**line, "prediction": answer if correct else "other", "prediction_complete": correct})
        recall_record(outcomes).write(folder / "recall.json")
        write_text(folder / "recall.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        for name, text in (beside or {}).items():
            write_text(folder / name, text)
        draft(folder)
        store.publish(runs, folder, f"{resolved.name}-{node.stage}-seed{seed}-{node.key}")
    store.record_runs(runs, [run_record(resolved, nodes, arm)])
    return [store.published_stages(runs)[node.key] for node in nodes]
