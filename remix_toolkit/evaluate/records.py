"""The records of measurements: one class for each JSON file that a measurement leaves in a stage's folder."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from remix_toolkit.records import Count, Part, Record

Percent = Annotated[FiniteFloat, Field(ge=0, le=100)]
Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[FiniteFloat, Field(ge=0)]
Cosine = Annotated[FiniteFloat, Field(ge=-1, le=1)]
SettledBy = Literal["scoring", "generation", "generation, near tie"]
DataSet = Annotated[str, Field(pattern="^[abm]$")]  # D_A, D_B, D_M


class ListRecall(Part):
    """Recall of one list of facts."""

    task: str
    label: str = Field(description="what the recipe that had it measured calls the list")
    recall: Percent
    facts: Positive
    correct: Count
    settled_by: dict[SettledBy, Count]


class RecallRecord(Record):
    """recall.json"""

    version: Literal[1] = 1
    lists: dict[str, ListRecall] = Field(description="by the id of the list")


class VerdictRecord(Record):
    """A line of recall.jsonl: what the model answered to one fact."""

    version: Literal[1] = 1
    list: str = Field(description="id of the list of facts")
    fact: Count = Field(description="the fact's index in its list")
    prompt: str
    correct: bool
    prediction: str
    prediction_complete: bool = Field(description="False where it was cut off once it could not match any more")
    settled_by: SettledBy
    gold: tuple[str, ...]


class RetentionPoint(Record):
    """A line of retention.jsonl: recall of one list of facts at one step of a later stage."""

    version: Literal[1] = 1
    step: Count
    epoch: NonNegative
    list: str = Field(description="id of the list of facts")
    recall: Percent
    facts: Positive
    right: str = Field(pattern="^[01]+$", description="for each fact of the list, in order, 1 if it is known")


class HeldOutRecord(Record):
    """held_out.json: loss on rows of an instruction task that no stage trains on."""

    version: Literal[1] = 1
    rows: Positive
    loss: NonNegative = Field(description="mean over the rows' trained tokens, in nats")
    tokens: Count = Field(description="how many tokens that is the mean of")
    accuracy: Percent | None = Field(description="correct results, where the task has results (GSM8K)")


class HeldOutRow(Record):
    """A line of held_out.jsonl: the result of one row, where the task has results (GSM8K)."""

    version: Literal[1] = 1
    prompt: str
    gold: str | None
    prediction: str
    correct: bool


class PerplexityRecord(Record):
    """perplexity.json"""

    version: Literal[1] = 1
    perplexity: Annotated[float, Field(ge=1)]
    tokens: Positive
    text: str = Field(description="as `evaluate.text` has it")


class LensPosition(Part):
    """The logit lens at one position in the answer; lists have a value for each layer."""

    position: Positive
    tokens: Positive
    top10: list[Percent]
    median_rank: list[NonNegative]
    probability: list[Share]


class LensResult(Part):
    """The logit lens on one list of facts; lists have a value for each layer."""

    facts: Positive
    tokens: Positive = Field(description="answer tokens of all facts, EOS excluded")
    layers: Positive
    top10: list[Percent] = Field(description="tokens that are among the ten most likely ones")
    median_rank: list[NonNegative] = Field(description="1 is the most likely token")
    probability: list[Share] = Field(description="mean")
    occurrence: list[Share] = Field(description="the layer's share of all appearances in the top ten (figure 4)")
    first: list[Share] = Field(description="share of tokens that first appear in the top ten at this layer")
    first_layer: NonNegative | None = Field(description="mean layer of first appearance, from 1; none if none appears")
    never: Percent = Field(description="tokens that appear at no layer")
    layers_per_token: NonNegative
    spread: NonNegative = Field(description="exponential of the entropy of `occurrence`, in layers")
    positions: list[LensPosition]


class LensRecord(Record):
    """lens.json"""

    version: Literal[1] = 1
    lists: dict[str, LensResult] = Field(description="by the id of the list of facts")


class Angle(Part):
    """How the gradients of two data sets stand to one another in one group of weights."""

    cosine: Cosine | None = Field(description="none where a gradient is no more than noise")
    low: Cosine | None = Field(description="end of the 95% interval")
    high: Cosine | None
    inner: FiniteFloat = Field(description="inner product of the mean gradients")


class GradientNorm(Part):
    norm: NonNegative = Field(description="of the mean gradient")
    signal: NonNegative = Field(description="of what all parts of the data set share")
    noise: bool = Field(description="True where the signal is indistinguishable from zero")


class Displacement(Part):
    norm: NonNegative
    relative: NonNegative = Field(description="to the norm of the weights before")


class InterferenceRecord(Record):
    """interference.json: gradients of D_A, D_B and D_M at the model that a stage started from, and how it moved."""

    version: Literal[1] = 1
    sources: dict[DataSet, str] = Field({}, description="what a, b and m are: stages, or mixing")
    parts: Positive = Field(description="gradients of each data set")
    examples: dict[DataSet, Positive]
    norms: dict[DataSet, GradientNorm]
    groups: dict[str, dict[str, Angle]] = Field(description="whole, layers, kinds of weight -> a.b, a.m, b.m")
    displacement: dict[str, Displacement] | None = Field(None, description="by group; with a later model only")
    loss_before: NonNegative | None = Field(None, description="on D_A, in nats a token")
    loss_after: NonNegative | None = None
    predicted: FiniteFloat | None = Field(None, description="change of that loss to first order")
    predicted_low: FiniteFloat | None = Field(None, description="end of the 95% interval")
    predicted_high: FiniteFloat | None = None


class HarnessResult(Part):
    """One task of the lm-evaluation-harness."""

    version: str = Field(description="of the harness")
    limit: Positive | None = Field(description="rows that were asked; none: all")
    metrics: dict[str, float]


class HarnessRecord(Record):
    """lm_eval.json"""

    version: Literal[1] = 1
    tasks: dict[str, HarnessResult] = Field(description="by the harness's name, or the path of a YAML file")
