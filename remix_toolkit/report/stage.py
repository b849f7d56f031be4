"""The files of a published stage, as a report reads them."""

import json
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from pydantic import ValidationError

from remix_toolkit import store
from remix_toolkit.data.identity import trained_list
from remix_toolkit.disk import Damaged
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.base import Measurement
from remix_toolkit.evaluate.held_out import HeldOutLoss, held_out_loss
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.graph.cost import training_flops
from remix_toolkit.graph.lineage import base_results
from remix_toolkit.graph.retrained import Weights, lineage_weights
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import FileSeal, RetentionPoint, StageRecord, parse_rows, sealed_content
from remix_toolkit.report.answers import right_answers, share_of
from remix_toolkit.seals import sealed_files

if TYPE_CHECKING:
    import pyarrow as pa

VERIFIED_LATER = {"recipe.yaml", "loss.csv", "retention.jsonl"}  # each once it is read: it costs its own part only
VERDICT = ["prompt", "gold", "correct", "prediction", "prediction_complete"]


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

    @property
    def is_pretrained(self) -> bool:
        """Did its base know anything? Of random weights, perplexity says nothing."""
        return "tiny" not in self.record.declaration["base"]

    @property
    def flops(self) -> float | None:
        """Of training, as a plan estimates them, on the tokens that it saw.

        None, too, where the recipe has a key that this version of the toolkit does not know.
        """
        try:
            recipe = Recipe.model_validate(self.recipe)
        except ValidationError:
            return None
        steps, counts = self.record.steps, self.record.counts
        tokens = steps / counts.steps_per_epoch * counts.tokens_per_epoch.without_padding
        return training_flops(recipe, self.record.stage, steps, tokens)

    def verify(self) -> None:
        """Raise Damaged where what was published is not there any more; VERIFIED_LATER is, once it is read."""
        store.verify(self.folder, checksums=False, but=VERIFIED_LATER)

    @cached_property
    def _seals(self) -> dict[str, FileSeal]:
        return sealed_files(self.folder)

    def _content(self, name: str) -> bytes:
        """What is in a sealed file."""
        if name not in self._seals:
            raise Damaged(self.folder / name, "is not in the manifest")
        return sealed_content(self.folder / name, self._seals[name])

    @cached_property
    def recipe_text(self) -> str:
        """recipe.yaml: the resolved recipe under which it was trained."""
        return self._content("recipe.yaml").decode("utf-8", errors="replace")

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

    def base_results(self, measurement: Measurement[Any]) -> dict[str, Any]:
        """Those of the base model that it descends from, where they are in the same store."""
        if not measurement.of_base or self.folder.parent.name != "stages":
            return {}
        return measurement.read(base_results(self.folder.parent.parent, self.record.declaration))

    @cached_property
    def base_file(self) -> dict[str, Any] | None:
        """What the GGUF file said of itself that the model goes back to; None if it goes back to none."""
        if "config.json" not in self._seals:
            return None
        base: dict[str, Any] | None = json.loads(self._content("config.json")).get("gguf")
        return base

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
        from pyarrow import BufferReader, csv, float64, int64

        columns = {"step": int64(), "loss": float64()}
        options = csv.ConvertOptions(column_types=columns, include_columns=list(columns))
        try:
            return csv.read_csv(BufferReader(self._content("loss.csv")), convert_options=options).to_pandas()
        except (ValueError, KeyError) as error:
            file = self.folder / "loss.csv"
            raise BadInput(f"{file}: cannot be read ({type(error).__name__}: {error})") from None

    @cached_property
    def curves(self) -> pd.DataFrame:
        """retention.jsonl: `list`, `step`, `epoch`, `recall` while the stage trained; no rows where there is none."""
        name = "retention.jsonl"
        text = self._content(name).decode("utf-8", errors="replace") if name in self._seals else ""
        rows = parse_rows(self.folder / name, text, RetentionPoint) if text else []
        columns = ["list", "step", "epoch", "recall"]
        return pd.DataFrame([row.model_dump(include=set(columns)) for row in rows], columns=columns)

    def verdicts(self, list_id: str) -> "pa.Table":
        """The facts of a list, in order, and the stage's answers to them: the columns VERDICT.

        Where scoring settled a wrong answer, `prediction` ends at the first wrong token and is not complete.
        """
        if list_id not in self._verdicts:
            raise BadInput(f"{self.folder / 'recall.jsonl'}: has no answers to the facts {list_id}")
        return self._verdicts[list_id]

    @cached_property
    def _verdicts(self) -> "dict[str, pa.Table]":
        import pyarrow.compute as pc

        rows = self._rows()
        lists = pc.run_end_encode(rows["list"].combine_chunks())  # each was asked in one go
        ends, verdicts = [0, *lists.run_ends.to_pylist()], rows.select(VERDICT)
        slices = zip(lists.values.to_pylist(), pairwise(ends), strict=True)
        return {list_id: verdicts.slice(start, end - start) for list_id, (start, end) in slices}

    def answers_of_own(self, list_id: str) -> tuple[float, float] | None:
        """How many of the wrong answers to a list of facts are right ones of the stage's own: `share_of`.

        None where that is its own list, or it has none, and where no answer is wrong.
        """
        own = trained_list(declared["data"] for declared in self.record.declaration["stages"])
        if list_id == own or own not in self._verdicts:
            return None
        answers = self.verdicts(list_id).to_pandas()
        wrong = answers[~answers["correct"]]
        if wrong.empty:
            return None
        texts = right_answers([self.verdicts(own)["gold"]])
        return share_of(texts, wrong["prediction"].tolist(), wrong["prediction_complete"].tolist())

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
