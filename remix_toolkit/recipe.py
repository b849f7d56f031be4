"""What can be asked: the recipe's words as pydantic models. `resolve.py` merges and checks a recipe file into them."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from remix_toolkit.errors import BadInput, nearest

Count = Annotated[int, Field(gt=0)]
Ratio = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Strict(BaseModel):
    """Unknown keys and values of another type are mistakes, not hints."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Rows(Strict):
    """Which rows of a task: `size` of them (all, if not given) from row `start` on, in upstream order.

    The paper's in-domain (ID) data is D_A's own task from the row after D_A's last: `start: 2000`.
    """

    size: Count | None = Field(None, description="how many facts; all rows where it is not given")
    start: Annotated[int, Field(ge=0)] = Field(0, description="the first row taken; ID rows begin where D_A ends")


class KVR(Rows):
    """Key-value recall: random 8-character keys and values (section 2.2)."""

    task: Literal["kvr"]
    size: Count = 2000


class InventedFacts(Rows):
    """Facts about invented entities in LAMA's form: no model has seen them, no file is needed."""

    task: Literal["invented_facts"]
    size: Count = 2000


class PopQA(Rows):
    """PopQA: upstream's tsv from `path`, or the hub."""

    task: Literal["popqa"]
    path: str | None = Field(None, description="upstream's popQA.tsv; without it, the hub id is loaded")
    hub: str = "akariasai/PopQA"
    split: str = "test"
    revision: str | None = None


class LAMA(Rows):
    """LAMA T-REx: a directory that holds relations.jsonl (or LAMA_relations.jsonl) and a folder of P*.jsonl files."""

    task: Literal["lama"]
    path: str = Field(description="the unpacked LAMA directory")


class Pairs(Rows):
    """Your own facts: CSV, TSV, JSONL or JSON, a folder saved by `datasets`, or a hub id."""

    task: Literal["pairs"]
    path: str | None = Field(None, description="a .csv, .tsv, .jsonl or .json file, or a folder saved by datasets")
    hub: str | None = Field(None, description="a dataset on the hub, where there is no path")
    split: str = "train"
    revision: str | None = None
    prompt: str = Field("prompt", description="the column with the prompt")
    response: str = Field("response", description="the column with the response")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.path) == bool(self.hub):
            raise ValueError("say `path` (a file or folder) or `hub` (a dataset's id)")
        return self


Task = Annotated[KVR | InventedFacts | PopQA | LAMA | Pairs, Field(discriminator="task")]
TASKS: dict[str, type[Rows]] = {
    get_args(model.model_fields["task"].annotation)[0]: model for model in get_args(get_args(Task)[0])
}


class RandomWords(Strict):
    """Random word sequences: `words` uniform draws in the prompt, as many in the response (section 4.1)."""

    ratio: Ratio = Field(description="pairs added per pair of the stage's own data: 2 is the paper's 1:2")
    words: Count = 50
    text: str = Field("nltk", description="whose vocabulary: nltk (the words corpus), pydoc, or a text file")


class Passages(Strict):
    """Generic text: the first `words` words of a passage are the prompt, the next `words` the response."""

    ratio: Ratio = Field(description="pairs added per pair of the stage's own data: 2 is the paper's 1:2")
    words: Count = 50
    text: str | None = Field(None, description="pydoc, a text file or a folder of .txt files")
    hub: str | None = Field(None, description="a dataset on the hub, streamed")
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    column: str = "text"
    documents: Count = Field(20_000, description="of a hub's stream: only its first documents")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.text) == bool(self.hub):
            raise ValueError("say `text` (pydoc, a file, a folder) or `hub` (a dataset's id)")
        return self


class Replay(Strict):
    """Facts of an earlier stage, drawn at random and trained on again (section 3.2)."""

    stage: str = Field(description="the earlier stage")
    ratio: Ratio = Field(description="share of that stage's facts: 0.1 is the paper's 10%")


class Mix(Strict):
    """Mixing data by source; several at once if wanted, none by default."""

    random_words: RandomWords | None = None
    passages: Passages | None = None
    replay: Replay | None = None


class Stop(Strict):
    """End the stage early: once the loss of an optimizer step was under `loss_below` at `times` steps."""

    loss_below: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    times: Count = 10


class Stage(Strict):
    data: Task
    mix: Mix = Mix()
    train: dict[str, Any] = Field({}, description="any SFTConfig field by its own name")
    stop: Stop | None = None
    recall: list[Task] = Field([], description="facts to measure after this stage besides those trained so far")


class Profile(Strict):
    """A base model at some scale: what a recipe leaves open."""

    base: str
    revision: str | None = None
    precision: Literal["fp32", "bf16-mixed", "bf16"] = "fp32"
    adapter: dict[str, Any] | None = None
    global_batch_size: Count = 32
    accelerate_config: str | None = None
    train: dict[str, Any] = {}
    mix: dict[Literal["random_words", "passages", "replay"], dict[str, Any]] = Field(
        {}, description="a source's defaults"
    )


class Recipe(Strict):
    """A resolved recipe: everything that determines the weights, and where it came from."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]  # it is part of a folder's name
    source: str = Field("", description="the recipe file")
    profile: str = "tiny"
    base: str = Field(description="`tiny`, a hub id, or a local model directory")
    revision: str | None = None
    precision: Literal["fp32", "bf16-mixed", "bf16"] = "fp32"
    adapter: dict[str, Any] | None = Field(None, description="fields of peft.LoraConfig; merged after each stage")
    global_batch_size: Count = 32
    data_seed: int = 0
    seed: int = 0
    accelerate_config: str | None = Field(None, description="launch stages under this accelerate config file")
    train: dict[str, Any] = Field({}, description="SFTConfig fields for every stage")
    stages: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]*$")], Stage] = Field(min_length=1)

    def position(self, stage: str) -> int:
        """The stage's place in the sequence, from 0. Raises BadInput for an unknown stage."""
        if stage not in self.stages:
            raise BadInput(f"{self.name}: no stage {stage!r}; {nearest(stage, self.stages)}")
        return list(self.stages).index(stage)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, for editors: the resolved recipe's, with what a profile supplies optional."""
    schema = Recipe.model_json_schema()
    schema["required"] = ["stages"]
    schema["properties"]["profiles"] = {
        "description": "settings for one profile: dotted keys, as on the command line",
        "type": "object",
        "additionalProperties": {"type": "object"},
    }
    for ours in ("profile", "source"):
        schema["properties"].pop(ours)
    return schema
