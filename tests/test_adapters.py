"""LoRA on a quantized base, 8-bit AdamW: a plain model is published, made of the base that was not quantized."""

import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL
from safetensors.torch import load_file

from remix_toolkit import store
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.stage import adapter

RANK = 4
QLORA = [
    f"adapter={{r: {RANK}}}",
    "quantization={load_in_4bit: true, bnb_4bit_quant_type: nf4}",
    "train.optim=adamw_8bit",
    "train.learning_rate=1e-2",
    "train.save_strategy=no",
]


def published(runs: Path, stage: str) -> tuple[Path, dict[str, torch.Tensor]]:
    (folder,) = (runs / "stages").glob(f"*-{stage}-*")
    return folder, load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_qlora_is_merged_onto_the_base_that_was_not_quantized(here, runs: Path, tiny_base: Path) -> None:
    here("run", "kvr", "--runs", runs, *SMALL, *QLORA)
    base = load_file(tiny_base / "model.safetensors")
    folder, first = published(runs, "stage1")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert first.keys() == base.keys()
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}
    changed = {name for name in base if not torch.equal(first[name], base[name])}
    assert changed == {name for name in base if "_proj" in name}
    for name in changed:  # what was added is B A: no trace of the base's 4 bits
        assert 1 <= torch.linalg.matrix_rank(first[name] - base[name], rtol=1e-3) <= RANK
    losses = [float(line.split(",")[2]) for line in (folder / "loss.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0]
    _, second = published(runs, "stage2")  # which starts from it
    for name in changed:
        assert 1 <= torch.linalg.matrix_rank(second[name] - first[name], rtol=1e-3) <= RANK
    store.verify(folder)


def test_eight_bit_adamw_trains_all_weights(here, runs: Path, tiny_base: Path) -> None:
    settings = ["train.optim=adamw_8bit", "train.save_strategy=no", "precision=pure_bf16"]
    here("run", "kvr", "--runs", runs, "--stage", "stage1", *SMALL, *settings)
    base = load_file(tiny_base / "model.safetensors")
    _, first = published(runs, "stage1")
    assert {tensor.dtype for tensor in first.values()} == {torch.bfloat16}
    assert all(not torch.equal(first[name], base[name].bfloat16()) for name in base if "_proj" in name)


@pytest.mark.parametrize(
    ("quantization", "says"),
    [
        ("{load_in_4bits: true}", "has no field 'load_in_4bits'; did you mean 'load_in_4bit'"),
        ("{bnb_4bit_quant_type: nf4}", "neither load_in_4bit nor load_in_8bit"),
        ("{load_in_4bit: 3}", "BitsAndBytesConfig refuses"),
    ],
)
def test_mistakes_in_a_quantization(quantization: str, says: str) -> None:
    recipe = load_recipe(
        str(ROOT / "recipes" / "kvr.yaml"), overrides=["adapter={r: 4}", f"quantization={quantization}"]
    )
    with pytest.raises(BadInput, match=says):
        adapter.quantization(recipe)
