"""The logit lens: at which layers the right token appears (the paper's section 5 and figure 4).

A layer's hidden state at an answer's position is projected through the model's own final norm and output head, as if
the layers after it did not exist (nostalgebraist, 2020). The right token is that of the gold answer, given the gold
answer's tokens before it; EOS is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from remix_toolkit.console import info
from remix_toolkit.data.encoding import Example, encode
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.evaluate import budget
from remix_toolkit.evaluate.base import Measurement, Models, Subject
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.recipe.schema import Recipe
from remix_toolkit.records import NonNegative, Part, Percent, Positive, Share

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 64
TOP = 10
FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "final_norm")
# Relative tolerance within which the last layer, projected, must give the model's own logits.
TOLERANCE = {"torch.float32": 1e-5, "torch.bfloat16": 5e-2, "torch.float16": 5e-3}


class LensResult(Part):
    """The logit lens on one list of facts; lists have a value for each layer."""

    facts: Positive
    tokens: Positive = Field(description="answer tokens of all facts, EOS excluded")
    layers: Positive
    top10: list[Percent] = Field(description="tokens that are among the ten most likely ones")
    median_rank: list[NonNegative] = Field(description="1 is the most likely token")
    probability: list[Share] = Field(description="mean")
    occurrence: list[Share] = Field(description="the layer's share of all appearances in the top ten (figure 4)")
    first_layer: NonNegative | None = Field(description="mean layer of first appearance, from 1; none if none appears")
    never: Percent = Field(description="tokens that appear at no layer")
    layers_per_token: NonNegative
    spread: NonNegative = Field(description="exponential of the entropy of `occurrence`, in layers")


class Lens(Measurement[LensResult]):
    """The logit lens on each list of facts whose recall is measured, where `probe` names it."""

    name, result = "lens", LensResult

    def requested(self, recipe: Recipe, stage: str) -> list[str]:
        return Recall().requested(recipe, stage) if "lens" in recipe.stages[stage].probe else []

    def measure(self, item: str, subject: Subject, models: Models) -> tuple[LensResult, tuple[()]]:
        result = lens(models.model, models.tokenizer, subject.facts[item])
        where = "in no layer" if result.first_layer is None else f"from layer {result.first_layer:.1f} on"
        info(f"{subject.stage}: lens on {subject.lists[item].label}: {where}, of {result.layers}")
        return result, ()


def lens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Pair], batch_size: int = BATCH
) -> LensResult:
    """Ranks and probabilities of the gold answers' tokens at each layer.

    Raises BadInput where the architecture has no known final norm, RunFailed where the projected last layer differs
    from the model's own output.
    """
    examples = sorted((encode(tokenizer, fact) for fact in facts), key=lambda e: len(e.input_ids))
    return summarize(len(facts), *answer_tokens(model, tokenizer, examples, batch_size))


def answer_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], batch_size: int = BATCH
) -> tuple[Tensor, Tensor]:
    """Each answer token's rank and probability at each layer, both (tokens, layers)."""
    import torch

    model.eval()
    rows = budget.batches(examples, lambda e: len(e.input_ids), most=batch_size)
    with torch.no_grad():
        project = _projection(model, tokenizer, examples[0])
        ranks, probabilities = zip(*(_read_layers(model, tokenizer, project, batch) for batch in rows), strict=True)
    return torch.cat(ranks), torch.cat(probabilities)


def _projection(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, example: Example
) -> Callable[[Tensor], Tensor]:
    """From a layer's states (rows, columns, size) to logits; tried out on the last layer of one example."""
    from remix_toolkit.evaluate.forward import logits_of, model_inputs

    norm, ends = final_norm(model), list[Any]()  # the last layer's states, and the decoder's outputs
    hooks = [
        norm.register_forward_pre_hook(lambda _, inputs: ends.append(inputs[0])),
        model.get_decoder().register_forward_hook(lambda _, __, outputs: ends.append(outputs)),
    ]
    try:
        out = model(**model_inputs(model, tokenizer, [example.input_ids]), use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    last, outputs = ends

    def project(states: Tensor) -> Tensor:
        return logits_of(model, outputs, norm.forward(states)).float()  # not a call, which hooks would see

    _check_last(model, project(last[:, -1:]), out.logits)
    return project


def _read_layers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    project: Callable[[Tensor], Tensor],
    examples: Sequence[Example],
) -> tuple[Tensor, Tensor]:
    """Each answer token's rank and probability at each layer, both (tokens, layers), read as the layers run."""
    import torch

    from remix_toolkit.evaluate.forward import model_inputs, vocabulary

    inputs = model_inputs(model, tokenizer, [e.input_ids for e in examples])
    # A label is the token that the position before it predicts; the last one, EOS, is left out.
    answers = [[i for i, label in enumerate(e.labels) if label != -100][:-1] for e in examples]
    row = torch.tensor([n for n, columns in enumerate(answers) for _ in columns], device=model.device)
    column = torch.tensor([i for columns in answers for i in columns], device=model.device)
    gold = inputs["input_ids"][row, column].unsqueeze(-1)
    size = max(1, budget.LARGEST // vocabulary(model))  # tokens whose logits are computed at one time
    ranks: list[Tensor] = []
    probabilities: list[Tensor] = []

    def read(hidden: Tensor) -> None:
        for states, token in zip(hidden[row, column - 1].split(size), gold.split(size), strict=True):
            logits = project(states.unsqueeze(0)).squeeze(0)
            right = logits.gather(-1, token)
            ranks.append((logits > right).sum(dim=-1).add(1).cpu())
            probabilities.append((right.squeeze(-1) - logits.logsumexp(dim=-1)).exp().cpu())

    layers = decoder_layers(model)
    hooks = [
        layer.register_forward_hook(lambda _, __, out: read(out if isinstance(out, torch.Tensor) else out[0]))
        for layer in layers[:-1]
    ]
    # The last layer's states are those that the norm is given: a few architectures do something in between.
    hooks.append(final_norm(model).register_forward_pre_hook(lambda _, inputs: read(inputs[0])))
    try:
        model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    by_layer = (len(layers), len(gold))
    return torch.cat(ranks).view(by_layer).T, torch.cat(probabilities).view(by_layer).T


def decoder_layers(model: PreTrainedModel) -> Any:
    """The decoder's layers, in order. Raises BadInput where it has no list of so many as its config says."""
    from torch.nn import ModuleList

    number = model.config.get_text_config().num_hidden_layers
    for module in model.get_decoder().children():
        if isinstance(module, ModuleList) and len(module) == number:
            return module
    raise BadInput(f"{type(model).__name__}: the lens finds no list of {number} layers in its decoder")


def final_norm(model: PreTrainedModel) -> Any:
    """The norm between the last layer and the output head. Raises BadInput where none has a known name."""
    for name in FINAL_NORMS:
        if module := getattr(model.get_decoder(), name, None):
            return module
    raise BadInput(
        f"{type(model).__name__}: the lens finds no final norm in it, under any of the names {', '.join(FINAL_NORMS)}"
    )


def _check_last(model: PreTrainedModel, projected: Tensor, logits: Tensor) -> None:
    """The last layer through norm and head must give the model's own logits."""
    difference = (projected - logits.float()).abs().max()
    relative = float(difference / logits.float().abs().max().clamp_min(1e-30))
    if relative > TOLERANCE[str(logits.dtype)]:
        raise RunFailed(
            f"{type(model).__name__}: the last layer through norm and output head differs from the model's own logits "
            f"(by {relative:.1e} of the largest): the lens cannot read this architecture"
        )


def summarize(facts: int, ranks: Tensor, probabilities: Tensor) -> LensResult:
    """The result over all tokens, from each token's rank and probability at each layer, both (tokens, layers)."""
    tokens, layers = ranks.shape
    in_top = (ranks <= TOP).double()
    appears = in_top.any(dim=1)
    first = in_top.argmax(dim=1)[appears]  # from 0
    occurrence = (in_top.sum(dim=0) / in_top.sum().clamp_min(1)).tolist()
    entropy = -sum(share * math.log(share) for share in occurrence if share)
    return LensResult(
        facts=facts,
        tokens=tokens,
        layers=layers,
        top10=(100.0 * in_top.mean(dim=0)).tolist(),
        median_rank=[float(layer.double().quantile(0.5)) for layer in ranks.T],
        probability=probabilities.double().mean(dim=0).clip(0, 1).tolist(),
        occurrence=occurrence,
        first_layer=float(first.double().mean() + 1) if len(first) else None,
        never=100.0 * (1 - len(first) / tokens),
        layers_per_token=float(in_top.sum(dim=1).mean()),
        spread=math.exp(entropy) if len(first) else 0.0,
    )
