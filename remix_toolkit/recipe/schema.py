"""The keys of a recipe as pydantic models: their types, defaults and descriptions."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe.ranges import Adapter, Count, Ratio, RowCount, RowNumber, Seed, StageName
from remix_toolkit.recipe.remedies import EWC, KL, L2, SAM, Average, Finch, Freeze, LeaveOut
from remix_toolkit.recipe.setup import OUTSIDE_KEY, Setup
from remix_toolkit.recipe.sft_fields import Train
from remix_toolkit.recipe.strict import Strict, exactly_one
from remix_toolkit.recipe.tiny_size import tiny_size
from remix_toolkit.recipe.training import Curve, Match, Probe, Stop


class Rows(Strict):
    """Which rows of a task: `size` of them (or all) from row `start` on, of those that qualify, in upstream order.

    The paper's in-domain (ID) data is D_A's task from the row after D_A's last: `start: 2000`, or simply `task: id`.
    """

    task: str = Field(description="the name of the task")
    size: RowCount | None = Field(None, description="how many rows; all of them if it is not set")
    start: RowNumber = Field(0, description="the first row; ID rows begin where D_A ends")


class Factoid(Rows):
    """Facts: a short answer to a prompt, measured by recall."""

    familiarity: Literal["familiar", "unfamiliar"] | None = Field(
        None, description="keep the facts that the base model answers (or does not) under a few-shot prompt"
    )
    prompt: Literal["plain", "few_shot"] = Field("plain", description="few_shot: after other facts of the task")


class Instruction(Rows):
    """Instructions and long responses: no recall; the loss on held-out rows is reported instead."""

    held_out: RowNumber = Field(100, description="rows after the last one, not trained on")


class Source(Strict):
    """Upstream's file or folder at `path`, or else its dataset on the hub."""

    path: str | None = Field(None, description="upstream's file or folder; without it, the hub is read")
    hub: str | None = Field(None, description="a dataset on the hub")
    config: str | None = Field(None, description="the dataset's configuration, where it has several")
    split: str = Field("train", description="the part of the dataset that is read")
    revision: str | None = Field(None, description="a commit of the hub's dataset; if not set, the newest")


class KVR(Factoid):
    """Key-value recall: random 8-character keys and values (section 2.2)."""

    task: Literal["kvr"]
    size: RowCount = 2000


class InventedFacts(Factoid):
    """Facts about invented entities in LAMA's form: no model has seen them, no file is needed."""

    task: Literal["invented_facts"]
    size: RowCount = 2000


class Capitals(Factoid):
    """The capitals of 188 countries, a list of the toolkit's: to see what a pretrained base knew before."""

    task: Literal["capitals"]


class PopQA(Factoid, Source):
    task: Literal["popqa"]
    hub: str | None = "akariasai/PopQA"
    split: str = "test"


class TriviaQA(Factoid, Source):
    task: Literal["triviaqa"]
    hub: str | None = "mandarjoshi/trivia_qa"
    config: str | None = "rc.nocontext"


class LAMA(Factoid):
    task: Literal["lama"]
    path: str = Field(description="the unpacked directory: relations.jsonl and TREx/; the hub has none")


class EntityQuestions(Factoid):
    task: Literal["entityquestions"]
    path: str = Field(description="the unpacked directory (train/, dev/, test/); the hub has none")
    split: str = "train"


class WebQA(Factoid, Source):
    task: Literal["webqa"]
    hub: str | None = "stanfordnlp/web_questions"


class Pairs(Factoid, Source):
    """Your own facts: CSV, TSV, JSONL or JSON, a folder saved by `datasets`, or a hub id."""

    task: Literal["pairs"]
    prompt_column: str = Field("prompt", description="the column of the prompts")
    response_column: str = Field("response", description="the column of the responses")

    _check = exactly_one("set either `path` (a file or folder) or `hub` (a dataset's id)", "path", "hub")


class GSM8K(Instruction, Source):
    task: Literal["gsm8k"]
    hub: str | None = "openai/gsm8k"
    config: str | None = "main"


class MATH(Instruction, Source):
    task: Literal["math"]
    hub: str | None = "DigitalLearningGmbH/MATH-lighteval"


class EvolCode(Instruction, Source):
    task: Literal["evolcode"]
    hub: str | None = "nickrosh/Evol-Instruct-Code-80k-v1"


class APPS(Instruction, Source):
    task: Literal["apps"]
    hub: str | None = "codeparrot/apps"
    revision: str | None = "refs/convert/parquet"  # the dataset itself is a script, which datasets no longer runs
    data_dir: str | None = Field("all", description="the folder of that revision: all, introductory, interview, ...")


class UltraChat(Instruction, Source):
    """Dialogues; every assistant turn is trained on."""

    task: Literal["ultrachat"]
    hub: str | None = "stingning/ultrachat"
    first: RowCount = Field(20_000, description="only upstream's first dialogues")


FactoidTask = KVR | InventedFacts | Capitals | PopQA | TriviaQA | LAMA | EntityQuestions | WebQA | Pairs
InstructionTask = GSM8K | MATH | EvolCode | APPS | UltraChat
Facts = Annotated[FactoidTask, Field(discriminator="task")]
Task = Annotated[FactoidTask | InstructionTask, Field(discriminator="task")]
TASKS: dict[str, type[Rows]] = {
    get_args(model.model_fields["task"].annotation)[0]: model
    for model in (*get_args(FactoidTask), *get_args(InstructionTask))
}


class RandomWords(Strict):
    """Random word sequences: `words` uniform draws in the prompt, as many in the response (section 4.1)."""

    ratio: Ratio = Field(description="pairs added per pair of the stage's own data: 2 is the paper's 1:2")
    words: Annotated[int, Field(gt=0, le=100_000)] = Field(50, description="in the prompt, and as many in the response")
    text: str = Field("nltk", description="whose vocabulary: nltk (the words corpus), pydoc, or a text file")


class Corpus(Source):
    """Generic text: the first `words` words of a document are the prompt, the next `words` the response."""

    ratio: Ratio = Field(description="pairs added per pair of the stage's own data: 2 is the paper's 1:2")
    words: Annotated[int, Field(gt=0, le=2000)] = Field(50, description="in the prompt, and as many in the response")
    path: str | None = Field(None, description="a local copy: a .jsonl, .json or .parquet file, or a folder of them")
    column: str = Field("text", description="the column of the text")
    documents: RowCount = Field(20_000, description="only the first documents")


class Passages(Corpus):
    """Generic text of your own, or from any dataset on the hub."""

    text: str | None = Field(None, description="pydoc, a text file or a folder of .txt files")

    _check = exactly_one(
        "set one of `text` (pydoc, a file, a folder), `path` (rows) and `hub` (a dataset's id)", "text", "path", "hub"
    )


class KnowledgePile(Corpus):
    hub: str | None = "Query-of-CC/Knowledge_Pile"
    column: str = "content"


class ArxivPile(Corpus):
    hub: str | None = "haritzpuerto/the_pile_arxiv_50k_sample"


class FineWeb(Corpus):
    hub: str | None = "HuggingFaceFW/fineweb"
    config: str | None = "sample-10BT"


class Replay(Strict):
    """Facts of an earlier stage, drawn at random and trained on again (section 3.2)."""

    stage: str = Field(description="the earlier stage")
    ratio: Ratio = Field(description="share of that stage's facts: 0.1 is the paper's 10%")
    redraw: bool = Field(False, description="draw as many anew for each epoch; the paper's are the same in all")


class FormatAnchor(Strict):
    """Pairs of an earlier stage's form that are none of its facts: other keys, other rows of its task."""

    stage: str = Field(description="the earlier stage")
    ratio: Ratio = Field(description="pairs added per pair of the stage's own data")


class Paraphrases(Strict):
    """The stage's own facts asked in other words, as another column of your file has them: one pair for each fact."""

    column: str = Field(description="the column of the other prompts")


class Mix(Strict):
    """Mixing data by source: any number of sources, none by default."""

    random_words: RandomWords | None = None
    passages: Passages | None = None
    knowledge_pile: KnowledgePile | None = None
    arxiv_pile: ArxivPile | None = None
    fineweb: FineWeb | None = None
    paraphrases: Paraphrases | None = None
    format_anchor: FormatAnchor | None = None
    replay: Replay | None = None

    def corpora(self) -> dict[str, Corpus]:
        """Its sources of generic text, by name."""
        return {name: spec for name, spec in self if isinstance(spec, Corpus)}


CORPORA: dict[str, type[Corpus]] = {
    name: model
    for name, field in Mix.model_fields.items()
    if issubclass(model := get_args(field.annotation)[0], Corpus)
}


class Evaluate(Strict):
    """What is measured of every published stage besides recall: what the rest of the model lost."""

    text: str = Field(default="docstrings", description="for perplexity: docstrings (of Python), or a text file")
    lm_eval: list[str] = Field(default=[], description="tasks of lm-evaluation-harness, or YAML files of your own")
    limit: Count | None = Field(default=None, description="at most this many rows of each of these tasks")
    known: Facts | Literal[False] | None = Field(
        default=None,
        description="facts (`size` of them are asked) of which those that the base model knew are asked again; if not "
        "set, `capitals`, unless the base is tiny or there is a base_stage; false: none",
    )


class Stage(Strict):
    data: Task = Field(description="the task that this stage trains on")
    mix: Mix = Field(Mix(), description="what is added to it")
    train: Train = Field({}, description="any SFTConfig field by its own name")
    stop: Stop | None = Field(None, description="when to end the stage early")
    match: Match | None = Field(None, description="as many steps or trained tokens as another arm's stage")
    adapter: Adapter | None = Field(None, description="as the recipe's own, in this stage alone; merged after it")
    freeze: Freeze | None = Field(None, description="leave some of the weights as they are")
    finch: Finch | None = Field(None, description="a rate that falls with the loss, in place of train.learning_rate")
    sam: SAM | None = Field(None, description="sharpness-aware minimization")
    l2: L2 | None = Field(None, description="a pull to the weights that it starts from")
    ewc: EWC | None = Field(None, description="the same, stronger for weights that the earlier facts need")
    kl: KL | None = Field(None, description="outputs held to those of the model that it starts from")
    leave_out: LeaveOut | None = Field(None, description="take back the largest changes, once it has trained")
    average: Average | None = Field(None, description="average with the weights that it started from, after that")
    curve: Annotated[Curve | None, OUTSIDE_KEY] = Field(None, description="recall of earlier facts during training")
    recall: Annotated[list[Facts], OUTSIDE_KEY] = Field([], description="more facts to measure, besides those trained")
    probe: Annotated[list[Probe], OUTSIDE_KEY] = Field([], description="further measurements of the published stage")

    @property
    def as_trained(self) -> "Stage | None":
        """The same stage without what is done to its weights once it has trained; None where nothing is."""
        if self.leave_out is None and self.average is None:
            return None
        return self.model_copy(update={"leave_out": None, "average": None})


PromptFormat = Literal["tulu", "qa"]
PROMPT_FORMATS: tuple[PromptFormat, ...] = get_args(PromptFormat)


class FewShot(Strict):
    """The few-shot prompt: other facts of the task precede the question. Those are not asked themselves."""

    exemplars: Annotated[int, Field(gt=0, le=100)] = Field(default=5, description="how many facts precede a question")
    seed: Seed = Field(default=0, description="which facts those are")
    format: Annotated[
        PromptFormat | None,
        Field(description="tulu or qa (Q: ... A: ...); not set: tulu, but a fact is unfamiliar if neither finds it"),
    ] = None

    def formats(self, either: bool) -> tuple[PromptFormat, ...]:
        """In which formats a fact is asked; `either`: it is enough that one of them finds it, unless one is set."""
        return (self.format,) if self.format else PROMPT_FORMATS if either else ("tulu",)


class Recipe(Setup):
    """A resolved recipe: everything that determines the weights, and where it came from."""

    name: Annotated[str, OUTSIDE_KEY, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=80)]
    source: Annotated[str, OUTSIDE_KEY] = Field("", description="the recipe file")
    profile: Annotated[str, OUTSIDE_KEY] = "tiny"
    data_seed: Seed = Field(0, description="which facts are generated; the same under every `seed`")
    seed: Seed = Field(0, description="order, initialization, dropout, and which mixing data is drawn")
    few_shot: FewShot = Field(FewShot(), description="how the base model is asked what it knows")
    evaluate: Annotated[Evaluate, OUTSIDE_KEY] = Field(Evaluate(), description="what is measured besides recall")
    base_stage: str | None = Field(None, description="the stage whose model counts as the base, for `familiarity`")
    paths: Annotated[dict[str, str], OUTSIDE_KEY] = Field({}, description="task -> its local file or folder")
    stages: dict[StageName, Stage] = Field(min_length=1, max_length=500, description="name -> stage, in their order")

    @model_validator(mode="after")
    def _fill_train(self) -> "Recipe":
        """`train` is for every stage; what a stage sets itself goes before it."""
        for name, stage in self.stages.items():
            self.stages[name] = stage.model_copy(update={"train": {**self.train, **stage.train}})
        return self

    @property
    def known(self) -> Factoid | None:
        """The facts of which those that the base model knew are measured: `evaluate.known`, or the default."""
        if self.evaluate.known is None:
            is_off = tiny_size(self.base) or self.base_stage
            return None if is_off else Capitals.model_validate({"task": "capitals"})
        return self.evaluate.known or None

    def too_few(self, examples: int) -> str | None:
        """What is wrong where a stage has fewer examples than one batch; None if it has enough."""
        if examples >= self.global_batch_size:
            return None
        return (
            f"{examples} examples are fewer than one batch of {self.global_batch_size}, so no step would be taken; set "
            f"global_batch_size to at most {examples}"
        )

    def of_stage(self, stage: str) -> "Recipe":
        """The recipe with the adapter that one stage is trained with."""
        adapter = self.stages[stage].adapter
        return self if adapter is None else self.model_copy(update={"adapter": adapter})

    def as_trained(self, stage: str) -> "Recipe":
        """The recipe without what is done to one stage's weights once it has trained."""
        trained = self.stages[stage].as_trained or self.stages[stage]
        return self.model_copy(update={"stages": {**self.stages, stage: trained}})

    def position(self, stage: str) -> int:
        """The stage's place in the sequence, from 0. Raises BadInput for an unknown stage."""
        if stage not in self.stages:
            raise BadInput(f"{self.name}: no stage {stage!r}; {nearest(stage, self.stages)}")
        return list(self.stages).index(stage)
