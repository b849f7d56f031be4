"""A store as pandas frames: everything that is shown, compared, exported or drawn is made from these.

Frame.measured     a row for each list of facts, or held-out loss, of each stage of each run
Frame.answers()    a row for each fact of one list, as one stage answered it
results()          both in one: a row for each fact, list, stage, arm, seed and run
"""

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import yaml

from remix_toolkit import store
from remix_toolkit.console import warn as warn_on_screen
from remix_toolkit.disk import Damaged
from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.evaluate.base import Measurement
from remix_toolkit.evaluate.held_out import HeldOutLoss, held_out_loss
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.graph.retrained import Weights, lineage_weights
from remix_toolkit.recipe.difference import as_overrides
from remix_toolkit.recipe.key_fields import determining_settings
from remix_toolkit.records import FileSeal, RetentionPoint, RunRecord, StageRecord, parse_rows, sealed_content
from remix_toolkit.seals import sealed_files

if TYPE_CHECKING:
    import pyarrow as pa

Warn = Callable[[str], object]
Part = TypeVar("Part")

SWEEP = ["recipe", "profile", "grid_point"]  # arms are compared with one another where these agree
RUN = ["recipe", "arm", "grid_point", "profile", "seed", "run"]
MEASURED = [
    *[*RUN, "label", "source", "settings", "overrides", "stage", "key", "path", "task", "list", "own"],
    *["recall", "facts", "near_ties", "held_out_loss", "held_out_accuracy"],
    *["steps", "memory_estimated", "memory_peak"],
]
VERIFIED_LATER = {
    "recipe.yaml",
    "loss.csv",
    "retention.jsonl",
}  # where one is damaged, its part of the report is missing
FACTS = "all that looks at single facts"  # from which a stage is left out whose answers cannot be read
ANSWER = ["correct", "prediction", "prediction_complete"]
RESULTS = ["recipe", "arm", "profile", "seed", "run", "settings", "stage", "key", "task", "list"]
RESULTS += ["fact", "correct", "prediction", "gold"]


class Stage:
    """The files of one published stage, each read when it is first asked for.

    Raises BadInput where a file that is asked for is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._results: dict[str, Any] = {}

    @cached_property
    def record(self) -> StageRecord:
        return StageRecord.read(self.folder / "stage.json")

    def verify(self) -> None:
        """Raise Damaged where what was published is not there any more; VERIFIED_LATER is, once it is read."""
        store.verify(self.folder, checksums=False, but=VERIFIED_LATER)

    @cached_property
    def _seals(self) -> dict[str, FileSeal]:
        return sealed_files(self.folder)

    def _text(self, name: str) -> str:
        """The text of a sealed file."""
        if name not in self._seals:
            raise Damaged(self.folder / name, "is not in the manifest")
        return sealed_content(self.folder / name, self._seals[name]).decode("utf-8", errors="replace")

    @cached_property
    def recipe_text(self) -> str:
        """recipe.yaml: the resolved recipe under which it was trained."""
        return self._text("recipe.yaml")

    @cached_property
    def recipe(self) -> dict[str, Any]:
        try:
            recipe = yaml.load(self.recipe_text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except yaml.YAMLError as error:
            raise BadInput(f"{self.folder / 'recipe.yaml'}: cannot be read ({' '.join(str(error).split())})") from None
        if not isinstance(recipe, dict):
            raise BadInput(f"{self.folder / 'recipe.yaml'}: cannot be read (it is no mapping)")
        return recipe

    def results(self, measurement: Measurement[Any]) -> dict[str, Any]:
        """The results of one kind of measurement, by what was asked."""
        if measurement.name not in self._results:
            self._results[measurement.name] = measurement.read(self.folder)
        return dict(self._results[measurement.name])

    @cached_property
    def held_out(self) -> HeldOutLoss | None:
        """The loss on the most rows that were measured, if any."""
        return held_out_loss(self.folder)

    @cached_property
    def lineage(self) -> dict[str, Weights]:
        """The weights of the stage and of those that it descends from."""
        return lineage_weights(self.folder)

    @cached_property
    def losses(self) -> pd.DataFrame:
        """loss.csv: `step`, `loss` of each step that was logged; a loss may be NaN."""
        file = self.folder / "loss.csv"
        try:
            text = io.StringIO(self._text("loss.csv"))
            return pd.read_csv(text, usecols=["step", "loss"], dtype={"step": "int64", "loss": "float64"})
        except ValueError as error:
            raise BadInput(f"{file}: cannot be read ({type(error).__name__}: {error})") from None

    @cached_property
    def curves(self) -> pd.DataFrame:
        """retention.jsonl: `list`, `step`, `epoch`, `recall` while the stage trained; no rows where there is none."""
        name = "retention.jsonl"
        text = self._text(name) if name in self._seals else ""
        rows = parse_rows(self.folder / name, text, RetentionPoint)
        columns = ["list", "step", "epoch", "recall"]
        return pd.DataFrame([row.model_dump(include=set(columns)) for row in rows], columns=columns)

    def verdicts(self, list_id: str) -> "pa.Table":
        """The stage's answers to a list of facts, in order: the columns `fact` and ANSWER.

        Where scoring settled a wrong answer, `prediction` ends at the first wrong token and is not complete.
        """
        return self._of_list(self._answers, list_id)

    def facts(self, list_id: str) -> "pa.Table":
        """The facts of a list that was asked, in order: `fact`, the index in it, `prompt` and `gold`, right answers."""
        return self._of_list(self._rows().select(["list", "fact", "prompt", "gold"]), list_id)

    @cached_property
    def _answers(self) -> "pa.Table":
        return self._rows().select(["list", "fact", *ANSWER])  # a report holds all of these: without what all share

    def _rows(self) -> "pa.Table":
        """The rows of recall.jsonl."""
        import pyarrow as pa
        from pyarrow import json as arrow_json

        file = self.folder / "recall.jsonl"
        text, flag = pa.string(), pa.bool_()
        columns = {"list": text, "fact": pa.int64(), "prompt": text, "gold": pa.list_(text), "correct": flag}
        columns |= {"prediction": text, "prediction_complete": flag, "settled_by": text}
        try:
            # Its seal has been checked: it is what VerdictRow wrote, and needs no validation row by row.
            content = Recall().rows_text(self.folder).encode()
            table = arrow_json.read_json(
                pa.BufferReader(content),
                arrow_json.ReadOptions(use_threads=False, block_size=len(content) + 1),
                arrow_json.ParseOptions(explicit_schema=pa.schema(columns), unexpected_field_behavior="error"),
            )
        except (OSError, UnicodeDecodeError, pa.ArrowInvalid) as error:
            raise BadInput(f"{file}: cannot be read ({type(error).__name__}: {error})") from None
        if any(column.null_count for column in table.columns):
            raise BadInput(f"{file}: cannot be read (a row lacks a field)")
        return table

    def _of_list(self, table: "pa.Table", list_id: str) -> "pa.Table":
        import pyarrow.compute as pc

        if not len(rows := table.filter(pc.equal(table["list"], list_id)).drop_columns("list")):
            raise BadInput(f"{self.folder / 'recall.jsonl'}: has no answers to the facts {list_id}")
        return rows


@dataclass
class Frame:
    """What the runs of a store measured. What is damaged is handed to `warn`, once, and left out."""

    measured: pd.DataFrame  # the columns MEASURED, runs in the order in which they ended
    begun: list[RunRecord]  # every run, measured yet or not
    stages: Mapping[str, Stage]  # by `path`
    warn: Warn
    whole: pd.DataFrame  # what `measured` is a part of
    strict: bool = False  # raise BadInput where anything is damaged
    _answers: dict[str, pd.DataFrame] = field(default_factory=dict)
    _facts: dict[str, pd.DataFrame] = field(default_factory=dict)

    def where(self, rows: "pd.Series[bool]") -> "Frame":
        """The frame with these rows of `measured` only. Answers are read once for all parts of a frame."""
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

    def answers(self, list_id: str) -> pd.DataFrame:
        """All stages' verdicts on a list of facts: `path` and the columns of `Stage.verdicts`."""
        import pyarrow as pa

        if list_id not in self._answers:
            tables = []
            for path in self._asked(list_id):
                if (rows := self.verdicts(path, list_id)) is not None:
                    about = pa.DictionaryArray.from_arrays(pa.array([0] * len(rows), pa.int32()), [path])
                    tables.append(rows.append_column("path", about))
            self._answers[list_id] = _to_pandas(tables, ["path", "fact", *ANSWER])
        return self._answers[list_id]

    def facts(self, list_id: str) -> pd.DataFrame:
        """The facts of a list, by their index in it: `prompt` and `gold`, the right answers."""
        if list_id not in self._facts:
            read = (self.read(path, lambda stage: stage.facts(list_id), FACTS) for path in self._asked(list_id))
            facts = _to_pandas(islice((rows for rows in read if rows is not None), 1), ["fact", "prompt", "gold"])
            facts = facts.assign(prompt=facts["prompt"].astype(str), gold=facts["gold"].to_list())
            self._facts[list_id] = facts.set_index("fact")
        return self._facts[list_id]

    def _asked(self, list_id: str) -> list[str]:
        return list(self.whole.loc[self.whole["list"] == list_id, "path"].unique())


def _to_pandas(tables: "Iterable[pa.Table]", columns: list[str]) -> pd.DataFrame:
    """Some columns of Arrow's tables, texts still Arrow's: they take a fifth of the memory of Python's."""
    import pyarrow as pa

    if not (parts := [table.select(columns) for table in tables]):
        return pd.DataFrame(columns=columns)
    texts = {kind: pd.ArrowDtype(kind) for kind in (pa.string(), pa.list_(pa.string()))}
    return pa.concat_tables(parts).unify_dictionaries().to_pandas(types_mapper=texts.get)


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

    records = list(store.records(runs, warn_once) if records is None else records)
    if recipe is not None:
        if recipe not in (names := {record.recipe for record in records}):
            raise BadInput(f"--recipe {recipe}: no run of it is in {runs}; {nearest(recipe, names)}")
        records = [record for record in records if record.recipe == recipe]
    stages = {path_text(folder): Stage(folder) for folder in store.published_stages(runs).values()}
    measured = _measured(records, stages, warn_once)
    return Frame(measured, records, stages, warn_once, measured)


def path_text(path: Path) -> str:
    """A path as text; what is none in it, which Arrow would refuse, as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _measured(records: Sequence[RunRecord], stages: Mapping[str, Stage], warn: Warn) -> pd.DataFrame:
    by_key = {path.rpartition("-")[2]: stage for path, stage in stages.items()}

    @cache
    def measured(key: str) -> list[dict[str, Any]]:  # runs share stages
        if key not in by_key:
            return []
        try:
            by_key[key].verify()
            return measured_lists(by_key[key])
        except BadInput as error:
            warn(f"{error}: this stage is left out")
            return []

    rows: list[dict[str, Any]] = []
    for record in records:
        about = record.model_dump(include={"recipe", "arm", "grid_point", "profile", "seed", "source", "settings"})
        about |= {"overrides": tuple(as_overrides(determining_settings(record.overrides))), "run": record.keys[-1]}
        for stage in record.stages:
            names = {id_: listed.label for id_, listed in stage.lists.items()}
            for row in measured(stage.key):
                if row["list"] is None:
                    rows.append({**about, **row, "stage": stage.stage, "task": stage.task, "own": True})
                elif row["list"] in names:
                    own = {"task": names[row["list"]], "own": row["list"] == stage.trained}
                    rows.append({**about, **row, "stage": stage.stage, **own})
    frame = pd.DataFrame(rows, columns=MEASURED)
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
    it: the same list and index are the same fact in every row; correct (bool); `prediction`, the model's answer; and
    `gold`, the list of right answers.

    Recall in percent is `100 * frame.groupby(["arm", "seed", "stage", "task"]).correct.mean()`. Instruction tasks have
    no recall and so no rows. A stage that several runs share has its rows under each of them. A damaged stage is left
    out with a warning.
    """
    if not Path(runs).is_dir():
        return pd.DataFrame(columns=RESULTS)
    frame = load(Path(runs))
    parts = []
    for list_id, rows in frame.measured[frame.measured["recall"].notna()].groupby("list", sort=False):
        settings = [json.dumps(settings, sort_keys=True) for settings in rows["settings"]]
        answers = frame.answers(str(list_id)).join(frame.facts(str(list_id)), on="fact")
        parts.append(rows.assign(settings=settings).merge(answers, on="path"))
    return pd.concat(parts, ignore_index=True)[RESULTS] if parts else pd.DataFrame(columns=RESULTS)
