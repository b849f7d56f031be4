"""Angles between the gradients of several data sets, and how far training moved the weights along them.

Each data set is shuffled and cut into parts of equal size; a part's gradient is that of its mean loss, in eval mode.
Only inner products of gradients are used: one matrix of them for the whole model, for each layer and for each kind of
weight. The gradients of all parts at once would be many times the model, 385 GB of one with 8 billion weights in bf16:
each pass over the data computes those of a share of the weights, as large as the machine's memory allows.

A part's gradient is the data set's gradient plus noise of its own, which adds to every length and would pull every
cosine towards 0. Lengths are therefore computed from inner products of different parts only, as their noise is
independent.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from remix_toolkit.console import info
from remix_toolkit.data.encoding import Example
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate import budget
from remix_toolkit.evaluate.forward import example_losses, mean_loss, reduce_logits, token_losses
from remix_toolkit.evaluate.interference import MIN_PARTS, PARTS, Angle, Displacement, GradientNorm, InterferenceResult

DRAWS = 2000  # of each bootstrap
LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")

Share = dict[str, slice]  # of the weights: parameters, and which of their elements
ByParameter = dict[str, torch.Tensor]  # a gradient, or whatever else there is for each weight of a share
Matrix = NDArray[np.float64]


def interference(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Mapping[str, Sequence[Example]],
    after: PreTrainedModel | None = None,
    parts: int = PARTS,
    sources: Mapping[str, str] | None = None,
) -> InterferenceResult:
    """Angles between the gradients of the data sets at the model; `data` has `a`, `b` and perhaps `m`.

    Intervals are bootstrapped over parts. With the model `after` later training, the result also has how far that moved
    the weights, the loss on D_A before and after, and its change predicted to first order, (theta_after - theta) .
    grad L_A. `sources` names the data sets in the result.

    Memory: on the CPU, gradients of a share of the weights for each part of each data set, 32 GB or half of what is
    available; on the device, activations of 2,048 tokens. It is the device of `after`, which is moved off it, or else
    the model's. The model's own gradients are not touched.
    Raises BadInput for fewer than 4 parts, a data set of fewer examples than parts, or an `after` with other weights.
    """
    cut = {name: _cut(name, examples, parts) for name, examples in data.items()}
    moved: dict[str, Any] = {}  # what the result has of the movement
    if after is not None:
        _check_same_parameters(model, after)
        device = after.device
        loss_after = float(np.mean([mean_loss(example_losses(after, tokenizer, part)) for part in cut["a"]]))
        after.to("cpu")  # type: ignore[arg-type]
        model.to(device)  # type: ignore[arg-type]
    losses, products = _products(model, tokenizer, [part for rows in cut.values() for part in rows], after)
    rows = {name: slice(n * parts, (n + 1) * parts) for n, name in enumerate(data)}
    if after is not None:
        along = products["whole"][rows["a"], -2]  # each part's gradient along the displacement
        low, high = _interval(_draws(parts, 0) @ along)
        moved = {
            "displacement": {group: _displacement(*np.diag(matrix)[-2:]) for group, matrix in products.items()},
            "loss_before": float(np.mean(losses[rows["a"]])),
            "loss_after": loss_after,
            "predicted": float(along.mean()),
            "predicted_low": low,
            "predicted_high": high,
        }
    return InterferenceResult(
        sources=dict(sources or {}),
        parts=parts,
        examples={name: sum(map(len, examples)) for name, examples in cut.items()},
        norms={name: _norm(products["whole"][part, part]) for name, part in rows.items()},
        groups={group: _angles(matrix, rows) for group, matrix in products.items()},
        **moved,
    )


def _displacement(moved: float, before: float) -> Displacement:
    """The displacement of some weights, from its squared length and from that of the weights before."""
    return Displacement(norm=float(moved**0.5), relative=float((moved / before) ** 0.5) if before else 0.0)


def _cut(name: str, examples: Sequence[Example], parts: int) -> list[list[Example]]:
    """Parts of equal size, shuffled, since a data set is ordered by source; a remainder is dropped. Raises BadInput."""
    if parts < MIN_PARTS:
        raise BadInput(
            f"interference: {parts} parts requested, but at least {MIN_PARTS} are needed to measure the noise"
        )
    if len(examples) < parts:
        raise BadInput(f"interference: {name} has {len(examples)} examples, fewer than {parts} parts")
    shuffled = random.Random(0).sample(examples, len(examples))
    size = len(examples) // parts
    return [shuffled[start : start + size] for start in range(0, parts * size, size)]


def groups_of(name: str) -> Iterator[str]:
    """The groups that a parameter belongs to: `whole`, `layer 3`, and its kind, as in `q_proj` or `embed_tokens`."""
    yield "whole"
    if layer := LAYER.search(name):
        yield f"layer {int(layer[1]) + 1}"
    kind = name.rsplit(".", 2)[-2]
    yield "norms" if "norm" in kind or kind.startswith("ln") else kind


def _products(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    parts: Sequence[Sequence[Example]],
    after: PreTrainedModel | None,
) -> tuple[list[float], dict[str, Matrix]]:
    """The loss of each part, and by group the inner products of the parts' gradients.

    With a model `after`, the displacement and the weights before it come behind the gradients.
    """
    available = min(budget.GRADIENTS, psutil.virtual_memory().available // 2)
    passes = budget.gradient_passes(model.num_parameters(), len(parts), model.dtype.itemsize, available)
    if passes > 1:
        info(f"gradients of {len(parts)} parts of the data: {passes} passes, {available / 1e9:.1f} GB of them at once")
    losses: list[float] = []
    products: dict[str, Matrix] = {}
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    for share in _shares(model, passes):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in share)
        of_share = [_gradient(model, tokenizer, part, share) for part in parts]
        vectors = [gradient for _, gradient in of_share]
        if after is not None:
            old, new = _weights(model, share), _weights(after, share)
            vectors += [{name: new[name].float() - old[name].float() for name in share}, old]
        for group, matrix in gram(vectors).items():
            products[group] = products[group] + matrix if group in products else matrix
        losses = losses or [loss for loss, _ in of_share]
    for parameter, was in zip(model.parameters(), trainable, strict=True):
        parameter.requires_grad_(was)
    return losses, products


def _shares(model: PreTrainedModel, passes: int) -> Iterator[Share]:
    """The weights in so many shares of about the same size; a large parameter is in several of them."""
    most = room = -(-sum(p.numel() for p in model.parameters()) // passes)
    share: Share = {}
    for name, parameter in model.named_parameters():
        start = 0
        while start < parameter.numel():
            stop = min(parameter.numel(), start + room)
            share[name] = slice(start, stop)
            room, start = room - (stop - start), stop
            if not room:
                yield share
                share, room = {}, most
    if share:
        yield share


def gram(vectors: Sequence[ByParameter]) -> dict[str, Matrix]:
    """Inner products of all vectors, by group, over the parameters of the first one."""
    sums: dict[str, Matrix] = {}
    size = budget.LARGEST // len(vectors)
    for name in vectors[0]:
        for blocks in zip(*(vector[name].flatten().split(size) for vector in vectors), strict=True):
            stacked = torch.stack([block.float() for block in blocks])
            products = (stacked @ stacked.T).double().numpy()
            for group in groups_of(name):
                sums[group] = sums[group] + products if group in sums else products
    return sums


def _draws(parts: int, seed: int) -> Matrix:
    """Bootstrap weights of the parts, (draws, parts), each row summing to 1."""
    drawn: Matrix = np.random.default_rng(seed).multinomial(parts, np.full(parts, 1 / parts), size=DRAWS) / parts
    return drawn


def _interval(draws: Matrix) -> tuple[float, float]:
    """The ends of the 95% interval; draws that are NaN are left out."""
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _shared(matrix: Matrix, weights: Matrix) -> Matrix:
    """For each row of weights, the squared length of what parts share: the weighted mean product of different parts.

    NaN where a row has all its weight on one part.
    """
    different = matrix - np.diag(np.diag(matrix))
    pairs = 1 - (weights**2).sum(axis=1)
    sums = np.einsum("di,ij,dj->d", weights, different, weights)
    squares: Matrix = np.divide(sums, pairs, out=np.full(len(weights), np.nan), where=pairs > 1e-9)
    return squares


def _norm(matrix: Matrix) -> GradientNorm:
    """The mean gradient's norm, and that of what its parts share."""
    parts = len(matrix)
    (signal,) = _shared(matrix, np.full((1, parts), 1 / parts))
    return GradientNorm(
        norm=float(np.sqrt(matrix.mean())),
        signal=float(np.sqrt(max(signal, 0.0))),
        noise=_interval(_shared(matrix, _draws(parts, 0)))[0] <= 0,
    )


def _angles(matrix: Matrix, rows: Mapping[str, slice]) -> dict[str, Angle]:
    """`a.b`, `a.m`, `b.m`: cosines with intervals, and inner products, of one group's gradients."""
    angles: dict[str, Angle] = {}
    noise = {name: _norm(matrix[part, part]).noise for name, part in rows.items()}
    for x, y in combinations(rows, 2):
        xx, xy, yy = matrix[rows[x], rows[x]], matrix[rows[x], rows[y]], matrix[rows[y], rows[y]]
        parts = len(xx)
        cosine = low = high = None
        if not (noise[x] or noise[y]):
            flat = np.full((1, parts), 1 / parts)
            cosine = float(_cosines(xx, xy, yy, flat, flat)[0])
            low, high = _interval(_cosines(xx, xy, yy, _draws(parts, 1), _draws(parts, 2)))
        angles[f"{x}.{y}"] = Angle(cosine=cosine, low=low, high=high, inner=float(xy.mean()))
    return angles


def _cosines(xx: Matrix, xy: Matrix, yy: Matrix, u: Matrix, v: Matrix) -> Matrix:
    """Cosines for each row of weights of the parts of x and y, in [-1, 1]; NaN where a length is not positive."""
    x_square, y_square = _shared(xx, u), _shared(yy, v)
    squares = np.where((x_square > 0) & (y_square > 0), x_square * y_square, np.nan)
    cosines: Matrix = np.clip(np.einsum("di,ij,dj->d", u, xy, v) / np.sqrt(squares), -1, 1)
    return cosines


def _check_same_parameters(before: PreTrainedModel, after: PreTrainedModel) -> None:
    """Raise BadInput where the parameters of two models do not correspond."""
    old, new = ({name: p.shape for name, p in model.named_parameters()} for model in (before, after))
    if old != new:
        raise BadInput(
            "interference: the two models do not have the same parameters, so neither was trained from the other"
        )


def _weights(model: PreTrainedModel, share: Share) -> ByParameter:
    """A share of the weights, on the CPU."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().flatten()[part].cpu() for name, part in share.items()}


def _gradient(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], share: Share
) -> tuple[float, ByParameter]:
    """The mean loss over the examples' trained tokens, and a share of its gradient, on the CPU.

    It is summed over batches in fp32, and each parameter's is dropped as soon as that was done.
    """
    model.eval()
    trained = sum(example.trained_tokens for example in examples)
    parameters = dict(model.named_parameters())
    gradient = {name: torch.zeros(part.stop - part.start, device=model.device) for name, part in share.items()}

    def add(name: str, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        gradient[name] += parameter.grad.flatten()[share[name]]
        parameter.grad = None

    def backward(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = token_losses(logits, targets) / trained
        if losses.requires_grad:  # not where nothing of the share is used
            losses.sum().backward()
        return losses.detach()

    hooks = [parameters[name].register_post_accumulate_grad_hook(partial(add, name)) for name in share]
    total = 0.0
    try:
        by_length = sorted(examples, key=lambda e: len(e.input_ids))
        for rows in budget.batches(by_length, lambda e: len(e.input_ids), budget.GRADIENT_TOKENS):
            total += float(reduce_logits(model, tokenizer, rows, backward)[0].sum())
    finally:
        for hook in hooks:
            hook.remove()
    return total, {name: part.to(parameters[name].dtype).cpu() for name, part in gradient.items()}
