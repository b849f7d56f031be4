"""The keys that a profile sets and a recipe may set over it: a base model, its scale and how it is trained."""

from typing import Annotated, Any, Literal

from pydantic import Field

from remix_toolkit.recipe.ranges import Adapter, Count, Minutes, Size
from remix_toolkit.recipe.sft_fields import Train
from remix_toolkit.recipe.strict import Strict

OUTSIDE_KEY = "outside key"  # marks a field that says where, how fast or what is measured: it is in no stage's key
Precision = Literal["fp32", "bf16", "pure_bf16"]
Dtype = Literal["fp32", "bf16"]


class Shape(Strict):
    """The base model's sizes, as its config.json has them: for `remix plan`'s estimate of memory."""

    layers: Count = Field(description="how many")
    hidden: Count = Field(description="size of the hidden state")
    intermediate: Count = Field(description="of the MLP")
    key_value: Count = Field(description="key-value heads x the size of a head")
    vocabulary: Count = Field(description="how many tokens")


class Setup(Strict):
    """A base model, its scale and how it is trained: what a profile sets, and a recipe may set over it."""

    base: str = Field(description="`tiny`, `tiny-128x2` and so on, `smollm2`, a hub id, a directory, or a .gguf file")
    gguf_file: str | None = Field(None, description="of the base's repository or directory, this GGUF file")
    revision: str | None = Field(None, description="the commit of a base from the hub; if not set, the newest")
    parameters: Annotated[Size | None, OUTSIDE_KEY] = Field(None, description="the base's weights: for `remix plan`")
    shape: Annotated[Shape | None, OUTSIDE_KEY] = Field(None, description="the base's sizes: for `remix plan`")
    device_gb: Annotated[Size | None, OUTSIDE_KEY] = Field(None, description="a device's memory: for `remix plan`")
    precision: Precision = Field(
        "fp32",
        description="bf16: fp32 weights and optimizer state, products in bf16; pure_bf16: all of it in bf16; in both, "
        "the weights that an adapter leaves frozen are in bf16, and it and its optimizer state in fp32",
    )
    adapter: Adapter | None = Field(
        None,
        description="fields of peft.LoraConfig, merged after each stage; `peft_type: OSF`: of OSFConfig, which trains "
        "matrices but for their `effective_rank` largest singular directions (arXiv 2504.07097), all held in fp32",
    )
    quantization: dict[str, Any] | None = Field(
        None, description="fields of transformers.BitsAndBytesConfig, for the weights that an adapter is trained on"
    )
    global_batch_size: Count = Field(32, description="examples of an optimizer step, on all devices together")
    accelerate_config: Annotated[str | None, OUTSIDE_KEY] = Field(None, description="launch stages under this file")
    checkpoint_minutes: Annotated[Minutes, OUTSIDE_KEY] = Field(
        10, description="between two checkpoints; `train.save_steps` or `save_strategy`, where set, say when instead"
    )
    train: Train = Field({}, description="SFTConfig fields for every stage")

    @property
    def is_osf(self) -> bool:
        """Is the adapter orthogonal subspace fine-tuning, for which matrices are decomposed?"""
        return self.adapter is not None and self.adapter.get("peft_type") == "OSF"

    @property
    def trained_in(self) -> Dtype:
        """The dtype of the weights that are trained, of their gradients and of the optimizer's state."""
        return "bf16" if self.precision == "pure_bf16" and not self.adapter else "fp32"

    @property
    def loaded_in(self) -> Dtype:
        """The dtype of the base model's weights while a stage trains; an adapter leaves them frozen."""
        return self.published_in if self.adapter and not self.is_osf else self.trained_in

    @property
    def published_in(self) -> Dtype:
        """The dtype of published weights, and of matrix products."""
        return "fp32" if self.precision == "fp32" else "bf16"


class Profile(Setup):
    mix: dict[
        Literal[
            "random_words",
            "passages",
            "knowledge_pile",
            "arxiv_pile",
            "fineweb",
            "paraphrases",
            "format_anchor",
            "replay",
        ],
        dict[str, Any],
    ] = Field({}, description="the defaults of a mixing source")
