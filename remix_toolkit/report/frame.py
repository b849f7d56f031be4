"""A store as pandas frames: everything that is shown, compared, exported or drawn is made from these.

Frame.measured     a row for each list of facts, or held-out loss, of each stage of each run
Frame.verdicts()   a row for each fact of one list, as one stage answered it
results()          both in one: a row for each fact, list, stage, arm, seed and run
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from remix_toolkit import store
from remix_toolkit.console import warn as warn_on_screen
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.base import Measurement
from remix_toolkit.evaluate.harness import Harness
from remix_toolkit.evaluate.perplexity import Perplexity
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.recipe.difference import as_overrides
from remix_toolkit.recipe.key_fields import determining_settings
from remix_toolkit.records import RunRecord
from remix_toolkit.report.results import Results, numbers
from remix_toolkit.report.stage import Stage

if TYPE_CHECKING:
    import pyarrow as pa

Warn = Callable[[str], object]
Part = TypeVar("Part")

BASE = "(base)"  # in place of a stage's name
SWEEP = ["recipe", "profile", "grid_point"]  # arms are compared with one another where these agree
RUN = ["recipe", "arm", "grid_point", "profile", "seed", "run"]
MEASURED: dict[str, type] = {  # texts as Python's: they are looked at one by one, of which Arrow's are slow
    **dict.fromkeys([*RUN, "label", "source", "settings", "overrides", "stage", "key", "path", "task", "list"], object),
    **{"seed": int, "own": bool, "recall": float, "facts": int, "near_ties": int},
    **{"held_out_loss": float, "held_out_accuracy": float},
    **{"steps": int, "memory_estimated": float, "memory_peak": float},
}
MEASURES = ["arm", "stage", "seed", "measure", "value"]
FACTS = "all that looks at single facts"  # from which a stage is left out whose answers cannot be read
RESULTS = ["recipe", "arm", "profile", "seed", "run", "settings", "stage", "key", "task", "list"]
RESULTS += ["fact", "correct", "prediction", "gold"]


@dataclass
class Frame:
    """What the runs of a store measured. What is damaged is handed to `warn`, once, and left out."""

    measured: pd.DataFrame  # the columns MEASURED, runs in the order in which they ended
    begun: list[RunRecord]  # every run, measured yet or not
    stages: Mapping[str, Stage]  # by `path`
    warn: Warn
    strict: bool = False  # raise BadInput where anything is damaged

    def where(self, rows: "pd.Series[bool]") -> "Frame":
        """The frame with these rows of `measured` only."""
        return replace(self, measured=self.measured[rows])

    def read(self, path: str, read: Callable[[Stage], Part], what: str) -> Part | None:
        """What `read` has of a stage; None, and a warning that `what` lacks it, where a file is damaged."""
        try:
            return read(self.stages[path])
        except BadInput as error:
            if self.strict:
                raise
            self.warn(f"{error}: left out of {what}")
            return None

    def verdicts(self, path: str, list_id: str) -> "pa.Table | None":
        """`Stage.verdicts`; None, and a warning, where they cannot be read."""
        return self.read(path, lambda stage: stage.verdicts(list_id), FACTS)

    def results(self, measurement: Measurement[Any]) -> list[dict[str, Any]]:
        """The fields of each result of one kind, beside `arm`, `stage`, `seed`, `path` and the `item` that was asked.

        Of each arm and seed, those of the base model come first, if there are any; their stage is BASE.
        """
        rows: list[dict[str, Any]] = []
        published = self.measured.drop_duplicates(["stage", "label", "seed"], keep="last")
        runs: dict[tuple[str, int], dict[str, str]] = {}
        for arm, seed, stage, path in published[["label", "seed", "stage", "path"]].to_numpy():
            runs.setdefault((arm, seed), {})[stage] = path
        for (arm, seed), paths in runs.items():
            read = {BASE: (next(iter(paths.values())), Stage.base_results)} if measurement.of_base else {}
            read |= {stage: (path, Stage.results) for stage, path in paths.items()}
            for stage, (path, results_of) in read.items():
                results = self.read(path, partial(results_of, measurement=measurement), "the probes") or {}
                about = {"arm": arm, "stage": stage, "seed": seed, "path": path}
                rows += [{**about, "item": item, **result.model_dump()} for item, result in results.items()]
        return rows

    def numbers(self) -> pd.DataFrame:
        """The harness's metrics and, of a pretrained base, perplexity: arm, stage, seed, measure, value."""
        rows = [
            {**{name: row[name] for name in MEASURES[:3]}, "measure": measure, "value": value}
            for one in (Perplexity(), Harness())
            for row in self.results(one)
            if one.name != "perplexity" or self.stages[row["path"]].is_pretrained
            for measure, value in numbers({one.name: {row["item"]: row}}).items()
        ]
        return pd.DataFrame(rows, columns=MEASURES)


def load(
    runs: Path, recipe: str | None = None, warn: Warn = warn_on_screen, records: Sequence[RunRecord] | None = None
) -> Frame:
    """The frame of a runs directory, of one recipe or sweep in it, or of some of its runs, by their `records`.

    Raises BadInput where `runs` is no directory, or holds no run of the recipe.
    """
    if not runs.is_dir():
        raise BadInput(f"{runs}: is no directory; name the one that `remix run --runs` wrote to")
    warnings: dict[str, None] = {}

    def warn_once(text: str) -> None:
        if text not in warnings:
            warnings[text] = None
            warn(text)

    records = list(store.records(runs, warn_once, recipe) if records is None else records)
    stages = {path_text(folder): Stage(folder) for folder in store.published_stages(runs).values()}
    by_key = {path.rpartition("-")[2]: stage for path, stage in stages.items()}

    @cache
    def lists(key: str) -> list[dict[str, Any]]:  # runs share stages
        if key not in by_key:
            return []
        try:
            by_key[key].verify()
            return measured_lists(by_key[key])
        except BadInput as error:
            warn_once(f"{error}: this stage is left out")
            return []

    return Frame(_measured(records, lists), records, stages, warn_once)


def of_results(results: Results) -> Frame:
    """The frame of a results.json: recall and losses alone. A stage's `path` is its key."""
    lists: dict[str, list[dict[str, Any]]] = {}
    for stage in results.stages:
        about = {"key": stage.key, "path": stage.key, "steps": stage.steps, "near_ties": 0}
        rows = [{"list": id_, "recall": one.recall, "facts": one.facts} for id_, one in stage.recall.items()]
        if one := stage.held_out:
            rows.append({"list": None, "held_out_loss": one.loss, "held_out_accuracy": one.accuracy, "facts": 0})
        lists[stage.key] = [about | row for row in rows]
    records = [RunRecord(**dict(run)) for run in results.runs]
    return Frame(_measured(records, lambda key: lists.get(key, [])), records, {}, warn_on_screen)


def path_text(path: Path) -> str:
    """A path as text; what is none in it, which Arrow would refuse, as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _measured(records: Sequence[RunRecord], lists: Callable[[str], list[dict[str, Any]]]) -> pd.DataFrame:
    """`Frame.measured` of some runs; `lists`: the key of a stage -> what `measured_lists` gives of it."""
    rows: list[dict[str, Any]] = []
    for record in records:
        about = record.model_dump(include={"recipe", "arm", "grid_point", "profile", "seed", "source", "settings"})
        about |= {"overrides": tuple(as_overrides(determining_settings(record.overrides))), "run": record.keys[-1]}
        for stage in record.stages:
            names = {id_: listed.label for id_, listed in stage.lists.items()}
            for row in lists(stage.key):
                if row["list"] is None:
                    rows.append({**about, **row, "stage": stage.stage, "task": stage.task, "own": True})
                elif row["list"] in names:
                    own = {"task": names[row["list"]], "own": row["list"] == stage.trained}
                    rows.append({**about, **row, "stage": stage.stage, **own})
    frame = pd.DataFrame(rows, columns=list(MEASURED), dtype=object).astype(MEASURED)
    of_arms = (arms for _, arms in frame.groupby([*SWEEP, "arm"], sort=False))
    labels = {row: label for arms in of_arms for row, label in zip(arms.index, _labels(arms), strict=True)}
    frame["label"] = pd.Series(labels, dtype=frame["arm"].dtype)
    return frame


def measured_lists(stage: Stage) -> list[dict[str, Any]]:
    """A row for each list of facts that was asked after a stage, and one for its loss on held-out rows, if any.

    Recall and accuracy in percent, the loss in nats a token, memory in bytes. Raises BadInput where a file is damaged.
    """
    about = {"key": stage.record.key, "path": path_text(stage.folder)}
    about |= stage.record.model_dump(include={"steps", "memory_estimated", "memory_peak"})
    rows = []
    for id_, result in stage.results(Recall()).items():
        near_ties = result.settled_by.get("generation, near tie", 0)  # rounding might have decided these
        rows.append({**about, "list": id_, "recall": result.recall, "facts": result.facts, "near_ties": near_ties})
    if stage.held_out:
        loss = {"held_out_loss": stage.held_out.loss, "held_out_accuracy": stage.held_out.accuracy}
        rows.append({**about, "list": None, "facts": 0, "near_ties": 0, **loss})
    return rows


def _labels(arms: pd.DataFrame) -> list[str]:
    """An arm's name in tables: where it was run with several overrides, with these from where they part."""
    variants = list(dict.fromkeys(arms["overrides"]))
    same = len(list(takewhile(lambda one: len(set(one)) == 1, zip(*variants, strict=False))))
    return [" ".join([arm, *overrides[same:]]) for arm, overrides in zip(arms["arm"], arms["overrides"], strict=True)]


def results(runs: str | Path = "runs") -> pd.DataFrame:
    """One row for each fact, list of facts, stage, arm, seed and run in a runs directory, with these columns:

    recipe, arm, profile, seed; `run`, the key of the run's last stage; `settings`, JSON of the dotted keys in which the
    run differs from its recipe file; stage, key, task; `list`, the id of the list of facts, and `fact`, the index in
    it: the same list and index are the same fact, unless a model chose them (`familiarity`); correct (bool);
    `prediction`, the model's answer; and `gold`, the list of right answers.

    Recall in percent is `100 * frame.groupby(["arm", "seed", "run", "stage", "task"]).correct.mean()`. Instruction
    tasks have no recall and so no rows. A stage that several runs share has its rows under each of them. A damaged
    stage is left out with a warning.
    """
    if not Path(runs).is_dir():
        return pd.DataFrame(columns=RESULTS)
    frame = load(Path(runs))
    parts = []
    for row in frame.measured[frame.measured["recall"].notna()].to_dict("records"):
        if (rows := frame.verdicts(row["path"], row["list"])) is not None:
            about = {name: row[name] for name in RESULTS if name in row}
            about |= {"settings": json.dumps(row["settings"], sort_keys=True), "fact": range(len(rows))}
            parts.append(rows.to_pandas().assign(**about))
    return pd.concat(parts, ignore_index=True)[RESULTS] if parts else pd.DataFrame(columns=RESULTS)
