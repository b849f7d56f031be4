"""Scoring within a budget: logits are the model's own, however few at a time, and no tensor outgrows the budget."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    Llama4TextConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedModel,
)

from remix_toolkit.data import encoding
from remix_toolkit.data.pair import Pair
from remix_toolkit.evaluate import budget
from remix_toolkit.evaluate.forward import example_losses, reduce_logits
from remix_toolkit.evaluate.gradients import _gradient, _shares, interference
from remix_toolkit.evaluate.lens import lens
from remix_toolkit.evaluate.recall import recall
from remix_toolkit.stage.curve import right_by_scoring

RESPONSES = ["one two " * (n % 3 + 1) + str(n) for n in range(12)]
FACTS = [Pair(f"What is number {n}?", response, "pairs", (response,)) for n, response in enumerate(RESPONSES)]
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}


def small(config: type, vocabulary: int = 1024, **changes: object) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(**{"vocab_size": vocabulary, **SIZES, **changes})).eval()


ARCHITECTURES = [
    (LlamaConfig, {}),
    (Gemma2Config, {"final_logit_softcapping": 0.5}),
    (CohereConfig, {"logit_scale": 0.25}),
    (GraniteConfig, {"logits_scaling": 8.0}),
    (MixtralConfig, {}),
    (GPT2Config, {"n_layer": 2, "n_embd": 32, "n_head": 4}),
    (OPTConfig, {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    (Llama4TextConfig, {"intermediate_size_mlp": 48}),  # it does not go through get_decoder()
]


@pytest.mark.parametrize(("config", "changes"), ARCHITECTURES)
def test_logits_are_the_models_own_however_few_at_a_time(config, changes, tokenizer, monkeypatch) -> None:
    """Scales, soft caps and biases included; gradients too."""
    model = small(config, **changes)
    examples = [encoding.encode(tokenizer, fact) for fact in FACTS]
    width = max(len(e.input_ids) for e in examples)
    ids = torch.tensor([e.input_ids + [1] * (width - len(e.input_ids)) for e in examples])
    targets = torch.tensor([e.labels[1:] + [-100] * (width + 1 - len(e.labels)) for e in examples])
    mask = torch.tensor([[1] * len(e.input_ids) + [0] * (width - len(e.input_ids)) for e in examples])
    logits = model(input_ids=ids, attention_mask=mask).logits
    trained = targets != -100
    monkeypatch.setattr(budget, "LARGEST", 2 * 1024 * len(FACTS))  # two columns
    seen: list[torch.Size] = []

    def keep(part: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        seen.append(part.shape)
        return part

    with torch.no_grad():
        ours, aims = reduce_logits(model, tokenizer, examples, keep)
    assert len(seen) > 2
    assert {shape[1] for shape in seen} <= {1, 2}
    torch.testing.assert_close(ours[aims != -100], logits[trained].detach(), rtol=1e-4, atol=1e-5)
    loss = torch.nn.functional.cross_entropy(logits[trained], targets[trained])
    loss.backward()
    expected = {name: p.grad.flatten() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    (share,) = _shares(model, 1)
    value, gradient = _gradient(model, tokenizer, examples, share)
    assert value == pytest.approx(loss.item(), rel=1e-5)
    for name, part in gradient.items():
        torch.testing.assert_close(part, expected.get(name, torch.zeros_like(part)), rtol=1e-3, atol=1e-6)


class Largest(TorchDispatchMode):
    """Notes how many elements the largest tensor has that is made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.numel = max(self.numel, *made, 0)
        return out


PASSES: dict[str, Callable[[Any, Any, list[Any]], object]] = {
    "recall": lambda model, tokenizer, examples: recall(model, tokenizer, FACTS),
    "familiarity": lambda model, tokenizer, examples: recall(model, tokenizer, FACTS, whole=True),
    "held-out loss, perplexity": lambda model, tokenizer, examples: example_losses(model, tokenizer, examples),
    "retention curve": lambda model, tokenizer, examples: right_by_scoring(model, tokenizer, examples),
    "lens": lambda model, tokenizer, examples: lens(model, tokenizer, FACTS),
    "interference": lambda model, tokenizer, examples: interference(
        model, tokenizer, {"a": examples, "b": examples[:4]}, parts=4
    ),
}


@pytest.mark.parametrize("name", PASSES)
def test_no_tensor_outgrows_the_budget_with_the_vocabulary_of_llama_3(name: str, tokenizer, monkeypatch) -> None:
    model = small(LlamaConfig, 128_256, hidden_size=8, head_dim=2, num_hidden_layers=1)
    examples = [encoding.encode(tokenizer, fact) for fact in FACTS]
    whole = sum(len(e.labels) - e.labels.count(-100) for e in examples) * 128_256
    weights = max(parameter.numel() for parameter in model.parameters())
    monkeypatch.setattr(budget, "LARGEST", 2**21)  # 16 tokens
    with Largest() as largest:
        PASSES[name](model, tokenizer, examples)
    assert weights <= largest.numel <= 2**21 < whole / 5


def test_batches_have_so_many_tokens_when_padded() -> None:
    lengths = [3, 1, 4, 4, 9, 30, 2]
    assert list(budget.batches(lengths, int, tokens=12)) == [[3, 1, 4], [4], [9], [30], [2]]
    assert list(budget.batches(lengths, int, tokens=1000, most=3)) == [[3, 1, 4], [4, 9, 30], [2]]
    assert list(budget.batches([], int)) == []


def test_gradients_in_shares_of_the_weights_have_the_same_angles(tokenizer, monkeypatch) -> None:
    """One share is a part of a parameter, a parameter or several; the angles agree to 1e-5."""
    model, after = small(LlamaConfig), small(LlamaConfig)
    with torch.no_grad():
        for parameter in after.parameters():
            parameter += 1e-3 * torch.randn_like(parameter)
    examples = [encoding.encode(tokenizer, fact) for fact in FACTS]
    data = {"a": examples[:8], "b": examples[4:]}
    at_once = interference(model, tokenizer, data, after, parts=4).model_dump()
    monkeypatch.setattr(budget, "GRADIENTS", model.num_parameters() * (8 * 4 + 8) / 5)
    shares = list(_shares(model, 5))
    for name, parameter in model.named_parameters():
        parts = [share[name] for share in shares if name in share]
        assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
        assert parts[-1].stop == parameter.numel()
    in_shares = interference(model, tokenizer, data, after, parts=4).model_dump()
    assert flat(in_shares) == pytest.approx(flat(at_once), rel=1e-5)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def flat(value: Any, name: str = "") -> dict[str, float]:
    """The numbers of a record, by their path."""
    if isinstance(value, dict):
        return {path: number for key, one in value.items() for path, number in flat(one, f"{name}/{key}").items()}
    return {name: float(value)} if isinstance(value, int | float) else {}
