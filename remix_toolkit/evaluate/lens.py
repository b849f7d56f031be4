"""The logit lens: at which layers the right token appears (the paper's section 5 and figure 4).

A layer's hidden state at an answer's position is projected through the model's own final norm and output head, as if
the layers after it did not exist (nostalgebraist, 2020). The right token is that of the gold answer, given the gold
answer's tokens before it; EOS is not counted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from remix_toolkit.data.encoding import Example, encode
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.evaluate.recall import batches, padded
from remix_toolkit.evaluate.records import LensPosition, LensResult

BATCH = 64
TOP = 10
FINAL_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "final_norm")
# Relative tolerance within which the last layer, projected, must give the model's own logits.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2, torch.float16: 5e-3}


def lens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Pair], batch_size: int = BATCH
) -> LensResult:
    """Ranks and probabilities of the gold answers' tokens at each layer.

    Raises BadInput where the architecture has no known final norm, RunFailed where the projected last layer differs
    from the model's own output.
    """
    model.eval()
    ranks: list[torch.Tensor] = []
    probabilities: list[torch.Tensor] = []
    positions: list[int] = []
    by_length = sorted((encode(tokenizer, fact) for fact in facts), key=lambda e: len(e.input_ids))
    for rows in batches(by_length, batch_size):
        rank, probability, position = _project_layers(model, tokenizer, rows)
        ranks.append(rank)
        probabilities.append(probability)
        positions += position
    return summarize(len(facts), torch.cat(ranks).numpy(), torch.cat(probabilities).numpy(), positions)


@torch.no_grad()
def _project_layers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Each answer token's rank and probability at each layer, both (tokens, layers), and its position in the answer."""
    norm, head = final_norm(model), model.get_output_embeddings()
    before: list[torch.Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
    ids = padded([e.input_ids for e in examples], tokenizer.pad_token_id, model)
    mask = padded([[1] * len(e.input_ids) for e in examples], 0, model)
    # A label is the token that the position before it predicts; the last one, EOS, is left out.
    answers = [[i for i, label in enumerate(e.labels) if label != -100][:-1] for e in examples]
    row = torch.tensor([n for n, columns in enumerate(answers) for _ in columns], device=ids.device)
    column = torch.tensor([i - 1 for columns in answers for i in columns], device=ids.device)
    try:
        out = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False, logits_to_keep=1)
    finally:
        hook.remove()
    layers = [*out.hidden_states[1:-1], before[0]]  # the last of transformers' hidden states went through the norm
    gold = ids[row, column + 1].unsqueeze(-1)
    ranks, probabilities = [], []
    for layer, hidden in enumerate(layers, start=1):
        logits = _softcapped(model, head(norm(hidden[row, column])).float())
        if layer == len(layers):
            _check_last(model, hidden, norm, head, out.logits)
        right = logits.gather(-1, gold)
        ranks.append((logits > right).sum(dim=-1).add(1).cpu())
        probabilities.append((right.squeeze(-1) - logits.logsumexp(dim=-1)).exp().cpu())
    positions = [k for columns in answers for k in range(1, len(columns) + 1)]
    return torch.stack(ranks, dim=1), torch.stack(probabilities, dim=1), positions


def final_norm(model: PreTrainedModel) -> torch.nn.Module:
    """The norm between the last layer and the output head. Raises BadInput where none has a known name."""
    for name in FINAL_NORMS:
        if isinstance(module := getattr(model.base_model, name, None), torch.nn.Module):
            return module
    raise BadInput(
        f"{type(model).__name__}: the lens finds no final norm in it, under any of the names {', '.join(FINAL_NORMS)}"
    )


def _softcapped(model: PreTrainedModel, logits: torch.Tensor) -> torch.Tensor:
    """Apply Gemma's soft cap on logits, where the model has one: it changes probabilities, not ranks."""
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else torch.tanh(logits / cap) * cap


def _check_last(model: PreTrainedModel, hidden: torch.Tensor, norm: Any, head: Any, logits: torch.Tensor) -> None:
    """The last layer through norm and head must give the model's own logits at the last position."""
    projected = _softcapped(model, head(norm(hidden[:, -1:])).float())
    difference = float((projected - logits.float()).abs().max() / logits.float().abs().max().clamp_min(1e-30))
    if difference > TOLERANCE[logits.dtype]:
        raise RunFailed(
            f"{type(model).__name__}: the last layer through norm and output head differs from the model's own logits "
            f"(by {difference:.1e} of the largest): the lens cannot read this architecture"
        )


def summarize(facts: int, ranks: NDArray[Any], probabilities: NDArray[Any], positions: Sequence[int]) -> LensResult:
    """The result over all tokens, from each token's rank and probability at each layer, both (tokens, layers)."""
    in_top = ranks <= TOP
    ever = in_top.any(axis=1)
    first = in_top.argmax(axis=1)[ever]  # from 0
    layers = ranks.shape[1]
    occurrence = in_top.sum(axis=0) / max(int(in_top.sum()), 1)
    positive = occurrence[occurrence > 0]
    position = np.array(positions)
    return LensResult(
        facts=facts,
        tokens=len(ranks),
        layers=layers,
        **_by_layer(ranks, probabilities),
        occurrence=occurrence.tolist(),
        first=(np.bincount(first, minlength=layers) / len(ranks)).tolist(),
        first_layer=float(first.mean() + 1) if len(first) else None,
        never=100.0 * float((~ever).mean()),
        layers_per_token=float(in_top.sum(axis=1).mean()),
        spread=float(np.exp(-(positive * np.log(positive)).sum())) if len(positive) else 0.0,
        positions=[
            LensPosition(
                position=int(k),
                tokens=int((position == k).sum()),
                **_by_layer(ranks[position == k], probabilities[position == k]),
            )
            for k in np.unique(position)
        ],
    )


def _by_layer(ranks: NDArray[Any], probabilities: NDArray[Any]) -> dict[str, list[float]]:
    return {
        "top10": (100.0 * (ranks <= TOP).mean(axis=0)).tolist(),
        "median_rank": np.median(ranks, axis=0).tolist(),
        "probability": probabilities.mean(axis=0).clip(0, 1).tolist(),
    }
