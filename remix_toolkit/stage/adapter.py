"""LoRA, QLoRA, OSF: PEFT's and bitsandbytes' own settings, and the merge onto the model that the stage started from."""

import inspect
from typing import Any, cast

import torch
from transformers import PreTrainedModel, TrainerCallback

from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.stage import private_api


def peft_config(adapter: dict[str, Any] | None) -> Any:
    """The recipe's `adapter` as PEFT's config; None for full fine-tuning. Raises BadInput for an unknown field."""
    if adapter is None:
        return None
    from peft import LoraConfig, OSFConfig

    kind = OSFConfig if adapter.get("peft_type") == "OSF" else LoraConfig
    try:
        return kind(**{"task_type": "CAUSAL_LM", "target_modules": "all-linear", **adapter})
    except (TypeError, ValueError) as error:
        raise BadInput(f"adapter: {kind.__name__} refuses: {error}") from error


class KeepDirections(TrainerCallback):
    """Orthogonal subspace fine-tuning (arXiv 2504.07097) changes nothing along the directions that it keeps.

    PEFT projects the gradients for that, but AdamW scales their elements, and its step leaves the subspace again
    (github.com/Red-Hat-AI-Innovation-Team/mini_trainer/issues/90): after each, the weights are projected as well.
    """

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        private_api.project_osf(model)


def quantization(recipe: Recipe) -> dict[str, Any]:
    """The recipe's `quantization` as load_model's setting; none without one. Raises BadInput for an unknown field."""
    if recipe.quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    known = inspect.signature(BitsAndBytesConfig).parameters.keys() - {"kwargs"}
    for name in recipe.quantization.keys() - known:
        raise BadInput(f"quantization: BitsAndBytesConfig has no field {name!r}; {nearest(name, known)}")
    compute = "float32" if recipe.precision == "fp32" else "bfloat16"
    try:
        config = BitsAndBytesConfig(**{"bnb_4bit_compute_dtype": compute, **recipe.quantization})
    except (TypeError, ValueError) as error:
        raise BadInput(f"quantization: BitsAndBytesConfig refuses: {error}") from error
    if not (config.load_in_4bit or config.load_in_8bit):
        raise BadInput("quantization: neither load_in_4bit nor load_in_8bit is true")
    return {"quantization_config": config}


def train_in_fp32(model: Any) -> None:
    """Hold in fp32 what is trained beside frozen weights; over a quantized base, TRL would have it in bf16."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def merged(model: PreTrainedModel, trained: Any, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """The model with a trained adapter merged into its weights: what is added is fp32, and each sum is rounded once."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    adapter_weights = get_peft_model_state_dict(trained, state_dict=weights, save_embedding_layers=False)
    with_adapter = get_peft_model(model, trained.peft_config["default"])
    set_peft_model_state_dict(with_adapter, adapter_weights)
    return cast(PreTrainedModel, with_adapter.merge_and_unload())
