"""One store for the tests of all processes: two short stages with every measurement, trained once.

A test that needs another store gets copies of these stages, changed through the records that wrote them.
"""

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from conftest import ROOT, run_here
from filelock import FileLock

from remix_toolkit import store
from remix_toolkit.evaluate.base import Measurement, Results
from remix_toolkit.evaluate.held_out import HeldOut
from remix_toolkit.evaluate.perplexity import Perplexity
from remix_toolkit.evaluate.recall import ListRecall, Recall, VerdictRow
from remix_toolkit.graph.jobs import Job
from remix_toolkit.graph.lineage import fact_lists, lineage, run_record
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.recipe.schema import Factoid, Recipe
from remix_toolkit.records import FactList, Manifest, Part, StageRecord, read_rows, write_rows
from remix_toolkit.report.frame import load
from remix_toolkit.report.summary import Sweep, sweeps

KVR = ROOT / "recipes" / "kvr.yaml"
TWENTY = ["stages.stage1.data.size=20", "stages.stage2.data.size=20"]
RECIPE = """\
global_batch_size: 8
train: {num_train_epochs: 1, save_steps: 2}
evaluate: {text: text.txt}
stages:
  stage1: {data: {task: kvr, size: 40}, probe: [lens]}
  stage2:
    data: {task: gsm8k, path: gsm8k.jsonl, size: 16, held_out: 8}
    mix: {passages: {ratio: 1}}
    recall: [{task: invented_facts, size: 4}]
    curve: {steps: 2}
    probe: [lens, interference]
"""
QUESTIONS = [{"question": f"What is {n} plus {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(24)]

R = TypeVar("R", bound=Part)


def once(base: Path, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the tests of all processes share, made by the first that asks for it; `base`: a process's own."""
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            try:
                make(folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)  # or the next test would take it for a whole one
                raise
    return folder


def train(folder: Path, base: Path) -> None:
    """Train the store into `folder`/runs: stage1, then both; what the command prints goes to stage1.txt, stage2.txt."""
    shutil.copytree(base, folder / "runs" / "bases" / base.name)
    (folder / "trained.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "text.txt").write_text("word " * 50, encoding="utf-8")
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    for stage in ("stage1", "stage2"):
        done = run_here("run", "trained", "--stage", stage, folder=folder)
        (folder / f"{stage}.txt").write_text(done.stdout, encoding="utf-8")


HALF = [[1, 0] * 20, [1, 1, 0, 0] * 10, [1, 1, 1, 0, 0, 0, 0, 1] * 5]  # 50% at each of three seeds
FEW = [[1] * 4 + [0] * 36, [1] * 2 + [0] * 38, [1] * 6 + [0] * 34]  # 10, 5, 15%: 10.0 in the mean


def sweep_of(runs: Path, warnings: list[str] | None = None) -> Sweep:
    """The only sweep of a store; what is wrong in it is added to `warnings`."""
    (sweep,) = sweeps(load(runs, warn=[].append if warnings is None else warnings.append))
    return sweep


def file_name(text: str) -> str:
    return re.sub(r"[^\w-]", "_", text)


def prompts(many: int) -> list[str]:
    return [f"The value of key {n} is?" for n in range(many)]


@dataclass(frozen=True)
class TrainedStore:
    """The store, and what makes others of its stages."""

    folder: Path  # trained.yaml, runs/, and what was printed

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def stages(self) -> tuple[Path, Path]:
        first, second = (next((self.runs / "stages").glob(f"trained-{stage}-*")) for stage in ("stage1", "stage2"))
        return first, second

    def result(self, measurement: Measurement[R], **changes: Any) -> R:
        """The first result of a measurement of stage2, which has all of them, with other values in it."""
        result = next(iter(measurement.read(self.stages[1]).values()))
        return result.model_validate({**dict(result), **changes})

    def text(self, name: str) -> str:
        """A file of stage2 as it is."""
        return (self.stages[1] / name).read_text(encoding="utf-8")

    def recall(
        self, known: Mapping[str, Sequence[bool | int]], lists: Mapping[str, FactList] | None = None
    ) -> Results[ListRecall]:
        """Of lists of facts, by id, whether each is known."""
        (trained,) = Recall().read(self.stages[0]).values()
        found = {}
        for id_, right in known.items():
            number = {"facts": len(right), "correct": sum(map(bool, right)), "settled_by": {"scoring": len(right)}}
            listed = (lists or {}).get(id_) or FactList(task=id_.rpartition("-")[0], label=id_.rpartition("-")[0])
            update = {**number, **listed.model_dump(), "recall": 100 * number["correct"] / len(right)}
            found[id_] = trained.model_copy(update=update)
        return Recall().record(found)

    def write_verdicts(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """recall.jsonl; of each row, what differs from a right answer to some fact."""
        verdict, *_ = read_rows(self.stages[0] / "recall.jsonl", VerdictRow)
        verdict = verdict.model_copy(update={"correct": True, "prediction_complete": True, "settled_by": "scoring"})
        write_rows(folder / "recall.jsonl", [verdict.model_copy(update=row) for row in rows])

    def publish(self, runs: Path, stage: str, key: str, name: str, files: Mapping[str, str], **changes: Any) -> Path:
        """Publish stage1 under another key and name, with a few bytes for weights, not measured; its folder.

        `changes` are of stage.json; `files` are put beside it, also in place of one of its own.
        """
        draft = store.work_dir(store.open_store(runs), key) / "draft"
        draft.mkdir(parents=True)
        trained = StageRecord.read(self.stages[0] / "stage.json")
        counts = trained.counts.model_copy(update=changes.pop("counts", {}))
        about = {"stage": stage, "key": key, "counts": counts, **changes}
        trained.model_copy(update=about).write(draft / "stage.json")
        own = {file: (self.stages[0] / file).read_text(encoding="utf-8") for file in ("recipe.yaml", "loss.csv")}
        for file, text in {"model.safetensors": "weights", **own, **files}.items():
            (draft / file).write_text(text, encoding="utf-8")
        return store.publish(runs, draft, f"{file_name(name)}-{key}")

    def publish_job(
        self, runs: Path, job: Job, pruned: bool = False, measured: set[str] | None = None, sweep: str | None = None
    ) -> Path:
        """Publish the stage of a train or measure job as training does, with as much in it as is looked at.

        If it is there, it is measured anew: by default, all that a measure job asks for, and nothing for a train job.
        """
        assert job.node
        ids = job.requested if measured is None else measured
        folder = store.published_stages(runs).get(job.node.key)
        folder = folder or self.publish(runs, job.name, job.node.key, f"mine-{job.name}-seed0", {}, sweep=sweep)
        lists = [id_.removeprefix("recall ") for id_ in ids if id_.startswith("recall ")]
        self.recall({list_id: [1] for list_id in lists}).write(folder / "recall.json")
        if "perplexity docstrings" in ids:
            Perplexity().record({"docstrings": self.result(Perplexity())}).write(folder / "perplexity.json")
        if pruned and not store.is_pruned(folder):
            store.delete_weights(folder)
        return folder

    def write_run(
        self,
        runs: Path,
        arm: str,
        seed: int,
        known: Mapping[str, Mapping[str, Sequence[int]]],
        recipe: str = "sizes",
        profile: str = "tiny",
        begun: Sequence[str] = (),
        asked: Sequence[str] | None = None,
        **more: Any,
    ) -> dict[str, Path]:
        """Publish a run: stage -> task -> 1 or 0 for each fact. The task that a stage is the first to have is its own.

        A stage without one is one of instructions; `begun` are stages that the run has yet to train. Arms differ in
        their weight decay. Returns the stages' folders.
        """
        tasks: list[str] = []
        stages = {}
        for stage, lists in known.items():
            new = [task for task in lists if task not in tasks]
            tasks += new
            stages[stage] = {"task": new[0], "size": len(lists[new[0]])} if new else {"task": "gsm8k", "size": 8}
        declared = {stage: {"data": data} for stage, data in stages.items()}
        declared |= {stage: {"data": {"task": "invented_facts", "size": 8}} for stage in begun}
        file = self.folder / f"written-{os.getpid()}.yaml"
        file.write_text(json.dumps({"stages": declared}), encoding="utf-8")
        resolved = load_recipe(file, profile, [f"train.weight_decay={zlib.crc32(arm.encode()) / 2**32}"], seed)
        said = {"prompt": "The value of key {row} is?", "gold": "v{row}", "wrong": "wrong {row}"}
        resolved = resolved.model_copy(update={"name": recipe})
        answers = lambda stage, task: known[stage].get(task, ())  # noqa: E731
        more = {"overrides": {}, **said, **more}  # as of a sweep: the arm's setting is none of the command line's
        return self.publish_recipe(runs, resolved, arm, answers, list(known), asked=asked, **more)

    def write_arms(self, runs: Path, arms: Mapping[str, Sequence[Sequence[int]]], **more: Any) -> None:
        """Arm -> for each seed, what is left after stage2 of the facts that stage1 taught in full."""
        for arm, by_seed in arms.items():
            for seed, left in enumerate(by_seed):
                known = {"stage1": {"kvr": [1] * len(left)}, "stage2": {"kvr": left, "invented_facts": [1] * 4}}
                self.write_run(runs, arm, seed, known, **more)

    def run(
        self,
        runs: Path,
        *overrides: str,
        arm: str = "kvr",
        seed: int = 0,
        knows: Callable[[str, str, int], bool] = lambda stage, task, row: True,
        profile: str = "tiny",
        recipe: Path = KVR,
        **more: Any,
    ) -> list[Path]:
        """Publish a run of recipes/kvr.yaml, or of another file, with twenty facts a stage; the stages' folders."""
        settings = [*TWENTY, *overrides] if recipe == KVR else overrides
        resolved = load_recipe(recipe, profile, settings, seed)
        answers = lambda stage, task: [knows(stage, task, row) for row in range(20)]  # noqa: E731
        return list(self.publish_recipe(runs, resolved, arm, answers, list(resolved.stages), **more).values())

    def publish_recipe(
        self,
        runs: Path,
        recipe: Recipe,
        arm: str,
        answers: Callable[[str, str], Sequence[bool | int]],
        stages: Sequence[str],
        grid_point: str = "",
        overrides: dict[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        asked: Sequence[str] | None = None,
        prompt: str = "Which is number {row} of {task}?",
        gold: str = "answer {row}",
        wrong: str = "other",
        losses: Sequence[float] = (4.0, 2.0, 1.0),
        files: Mapping[str, str] | None = None,
        **about: Any,
    ) -> dict[str, Path]:
        """Publish the first stages of a recipe, measured, and record the run.

        `answers` are those to a list of facts after a stage, by its label; `asked`, `prompt`, `gold` and `wrong` what
        is said there. `files` are put beside the last stage's. `settings`: the record's, as no recipe might have them.
        """
        folders: dict[str, Path] = {}
        nodes = lineage(recipe)
        for node in nodes[: len(stages)]:
            lists = fact_lists(recipe, node.position)
            known = {id_: right for id_, listed in lists.items() if (right := answers(node.stage, listed.label))}
            if node.key in (published := store.published_stages(runs)):
                folders[node.stage] = published[node.key]
                continue
            rows = "".join(f"{step},{step / 2},{loss},0.001\n" for step, loss in enumerate(losses, start=1))
            texts = {"recipe.yaml": yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True))}
            texts |= {"loss.csv": f"step,epoch,loss,learning_rate\n{rows}"}
            texts |= (files or {}) if node.stage == stages[-1] else {}
            stage = recipe.stages[node.stage]
            if not isinstance(stage.data, Factoid):
                held_out = HeldOut().record({"8 rows": self.result(HeldOut(), loss=1.25, accuracy=50.0)})
                texts = {"held_out.json": held_out.model_dump_json(), **texts}
            mixing = {source: 40 for source, spec in stage.mix if spec is not None}
            changes = {"counts": {"facts": 20, "mixing": mixing}, "ancestors": list(node.ancestors), **about}
            if node.ancestors:
                seals = Manifest.read(folders[stages[node.position - 1]] / "manifest.json").files
                changes |= {"parent_weights": {"model.safetensors": seals["model.safetensors"].sha256}}
            changes |= {"declaration": node.declaration, "steps": len(losses), "last_loss": losses[-1]}
            name = f"{recipe.name}-{node.stage}-seed{recipe.seed}"
            folder = folders[node.stage] = self.publish(runs, node.stage, node.key, name, texts, **changes)
            self.recall(known, lists).write(folder / "recall.json")
            verdicts = []
            for id_, right in known.items():
                for row, (question, correct) in enumerate(zip(asked or [prompt] * len(right), right, strict=False)):
                    answer = gold.format(row=row)
                    said = {"gold": (answer,), "prediction": answer if correct else wrong.format(row=row)}
                    said |= {"correct": bool(correct), "prediction_complete": bool(correct)}
                    question = question if asked else question.format(row=row, task=lists[id_].label)
                    verdicts.append({"list": id_, "fact": row, "prompt": question, **said})
            self.write_verdicts(folder, verdicts)
        run = run_record(recipe, nodes, arm, grid_point, overrides)
        if settings is not None:
            run = run.model_copy(update={"settings": dict(settings), "overrides": dict(settings)})
        store.record_runs(runs, [run])
        return folders
