"""Interference, measured: do gradients of D_A, D_B and D_M oppose one another, did the weights move against D_A?

The paper argues by the angles between these gradients (sections 4.1 and A.1 to A.3) and measures none. Each data set is
cut into parts of equal size; a part's gradient is that of its mean loss, in eval mode. All that is asked of gradients
here are inner products, so one matrix of them is kept for the whole model, for each layer and for each kind of weight.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from remix_toolkit.data.tulu import Example
from remix_toolkit.errors import BadInput
from remix_toolkit.recall import padded

PARTS = 8  # gradients of each data set; all of them are in the machine's memory at once
DRAWS = 2000
LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")
BATCH = 16

Gradients = list[dict[str, torch.Tensor]]
Matrix = NDArray[np.float64]


def interference(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Mapping[str, Sequence[Example]],
    after: PreTrainedModel | None = None,
    parts: int = PARTS,
) -> dict[str, Any]:
    """How gradients of the data sets stand to one another at the model; `data` maps `a`, `b` and perhaps `m` to them.

    `groups`: for `whole`, each layer and each kind of weight, and each pair such as `a.b`: the `cosine` of the mean
    gradients with its 95% interval `low`, `high` (bootstrap over parts), and the inner product `inner`. `norms`: per
    data set, of the whole model: the `norm` of the mean gradient; `signal`, the norm that is left once what the parts
    do not share is taken off; and `noise`: True where that cannot be told from zero. Angles with it then mean nothing.

    With the model `after` later training: `displacement` per group (`norm`, and `relative` to the weights'), the loss
    on D_A before and after, and the change `predicted` to first order, (theta_after - theta) . grad L_A, with interval.

    Memory: a gradient of the whole model for each part of each data set, on the CPU. Raises BadInput where a data set
    has fewer examples than parts, or `after` has other weights.
    """
    for name, examples in data.items():
        if len(examples) < parts:
            raise BadInput(f"interference: {name} has {len(examples)} examples, fewer than {parts} parts")
    moved = displacement(model, after) if after is not None else None
    gradients: Gradients = []
    losses: dict[str, list[float]] = {}
    for name, examples in data.items():
        size = len(examples) // parts  # what is left over is left out
        for at in range(0, parts * size, size):
            loss, gradient = _gradient(model, tokenizer, examples[at : at + size])
            losses.setdefault(name, []).append(loss)
            gradients.append(gradient)
    products = gram(gradients, moved)
    of = {name: slice(n * parts, (n + 1) * parts) for n, name in enumerate(data)}
    draws = np.random.default_rng(0).multinomial(parts, np.full(parts, 1 / parts), size=DRAWS) / parts
    result: dict[str, Any] = {
        "parts": parts,
        "examples": {name: len(examples) // parts * parts for name, examples in data.items()},
        "norms": {name: _norm(products["whole"][rows, rows], draws) for name, rows in of.items()},
        "groups": {group: _angles(matrix, of, parts) for group, matrix in products.items()},
    }
    if moved is not None and after is not None:
        result |= _moved(model, tokenizer, data["a"], moved, after, parts)
        along = products["whole"][of["a"], -1]  # each part's gradient along the displacement
        low, high = np.percentile(draws @ along, [2.5, 97.5])
        result |= {"loss_before": float(np.mean(losses["a"])), "predicted": float(along.mean())}
        result |= {"predicted_low": float(low), "predicted_high": float(high)}
    return result


def groups_of(name: str) -> Iterator[str]:
    """The groups that a parameter belongs to: `whole`, `layer 3`, and its kind, as in `q_proj` or `embed_tokens`."""
    yield "whole"
    if layer := LAYER.search(name):
        yield f"layer {int(layer[1]) + 1}"
    kind = name.rsplit(".", 2)[-2]
    yield "norms" if "norm" in kind or kind.startswith("ln") else kind


def gram(gradients: Gradients, moved: dict[str, torch.Tensor] | None) -> dict[str, Matrix]:
    """For each group, the inner products of all gradients; the last row and column are the displacement's, if any."""
    rows = gradients + ([moved] if moved is not None else [])
    sums: dict[str, Matrix] = {}
    for name in gradients[0]:
        stacked = torch.stack([row[name].flatten().float() for row in rows])
        products = (stacked @ stacked.T).double().numpy()
        for group in groups_of(name):
            sums[group] = sums[group] + products if group in sums else products
    return sums


def _angles(matrix: Matrix, of: Mapping[str, slice], parts: int) -> dict[str, dict[str, float]]:
    """`a.b`, `a.m`, `b.m`: cosines with intervals, and inner products, of the mean gradients of one group."""
    rng = np.random.default_rng(0)
    flat, found = np.full((1, parts), 1 / parts), {}
    for x, y in combinations(of, 2):
        blocks = matrix[of[x], of[x]], matrix[of[x], of[y]], matrix[of[y], of[y]]
        u, v = (rng.multinomial(parts, flat[0], size=DRAWS) / parts for _ in range(2))
        low, high = np.percentile(_cosines(blocks, u, v), [2.5, 97.5])
        found[f"{x}.{y}"] = {
            "cosine": float(_cosines(blocks, flat, flat)[0]),
            "low": float(low),
            "high": float(high),
            "inner": float(blocks[1].mean()),
        }
    return found


def _cosines(blocks: tuple[Matrix, Matrix, Matrix], u: Matrix, v: Matrix) -> Matrix:
    """Of gradients weighted by each row of `u` with those weighted by that of `v`: 0 where one of them vanishes."""
    xx, xy, yy = blocks
    inner: Matrix = np.einsum("di,ij,dj->d", u, xy, v)
    lengths = np.einsum("di,ij,dj->d", u, xx, u) * np.einsum("di,ij,dj->d", v, yy, v)
    product = np.sqrt(np.maximum(lengths, 0.0))
    found: Matrix = np.divide(inner, product, out=np.zeros_like(inner), where=product > 0)
    return found


def _norm(matrix: Matrix, draws: Matrix) -> dict[str, Any]:
    """The mean gradient's norm; what of it the parts share: the mean inner product of two different parts."""
    apart = matrix - np.diag(np.diag(matrix))
    pairs = 1 - (draws**2).sum(axis=1)  # the weight of pairs of different parts in each draw
    shared = np.einsum("di,ij,dj->d", draws, apart, draws)[pairs > 0] / pairs[pairs > 0]
    signal = apart.sum() / (len(matrix) * (len(matrix) - 1))
    return {
        "norm": float(np.sqrt(matrix.mean())),
        "signal": float(np.sqrt(max(signal, 0.0))),
        "noise": bool(np.percentile(shared, 2.5) <= 0),
    }


def _moved(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    moved: dict[str, torch.Tensor],
    after: PreTrainedModel,
    parts: int,
) -> dict[str, Any]:
    """How far each group of weights went, and the loss on D_A where they are now."""
    squares: dict[str, list[float]] = {}
    weights = dict(model.named_parameters())
    for name, step in moved.items():
        for group in groups_of(name):
            sums = squares.setdefault(group, [0.0, 0.0])
            sums[0] += float(step.double().square().sum())
            sums[1] += float(weights[name].detach().double().square().sum())
    size = len(examples) // parts
    with torch.no_grad():
        losses = [float(_loss(after, tokenizer, examples[at : at + size])) for at in range(0, parts * size, size)]
    return {
        "displacement": {
            group: {"norm": step**0.5, "relative": (step / of) ** 0.5 if of else 0.0}
            for group, (step, of) in squares.items()
        },
        "loss_after": float(np.mean(losses)),
    }


def displacement(before: PreTrainedModel, after: PreTrainedModel) -> dict[str, torch.Tensor]:
    """theta_after - theta_before, by parameter, on the CPU. Raises BadInput where the two have other weights."""
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    if {name: p.shape for name, p in old.items()} != {name: p.shape for name, p in new.items()}:
        raise BadInput("interference: the two models do not have the same weights, so none was moved to the other")
    return {name: (new[name].detach().cpu().float() - p.detach().cpu().float()) for name, p in old.items()}


def _gradient(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss over the examples' trained tokens, and its gradient by parameter, on the CPU."""
    model.zero_grad()
    trained = sum(len(e.labels) - e.labels.count(-100) for e in examples)
    total = 0.0
    for at in range(0, len(examples), BATCH):
        loss = _loss(model, tokenizer, examples[at : at + BATCH], trained)
        loss.backward()
        total += float(loss.detach())
    gradient = {n: p.grad.detach().cpu().clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return total, gradient


def _loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], of: int | None = None
) -> torch.Tensor:
    """Summed loss of the trained tokens, divided by `of` (by default their number)."""
    model.eval()
    ids = padded([e.input_ids for e in examples], tokenizer.pad_token_id, model)
    mask = padded([[1] * len(e.input_ids) for e in examples], 0, model)
    targets = padded([[*e.labels[1:], -100] for e in examples], -100, model)
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    total = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    return total / (of or int((targets != -100).sum()))
