"""Probes: the lens ends in the model's own output; gradients predict what a small step does; both in a recipe."""

import errno
import json
import os
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    Qwen3Config,
)

from remix_toolkit.data import encoding, tasks
from remix_toolkit.errors import BadInput, RunFailed
from remix_toolkit.evaluate.gradients import _angles, _cut, _norm, gram, groups_of, interference
from remix_toolkit.evaluate.interference import Interference
from remix_toolkit.evaluate.lens import Lens, lens, summarize
from remix_toolkit.evaluate.measurements import is_measured
from remix_toolkit.evaluate.perplexity import passages, perplexity
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.recipe.load import load_recipe, load_task
from remix_toolkit.stage.train import load_model

FACTS = tasks.load_rows(load_task("kvr", ["size=12"]), 0)
OTHERS = tasks.load_rows(load_task("invented_facts", ["size=12"]), 0)
SIZES = {"vocab_size": 1024, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
TOKENS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 1}


def small(config: type, **changes: object):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(**{**SIZES, **TOKENS, **changes})).eval()


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (LlamaConfig, {}),
        (Qwen3Config, {}),
        (Gemma2Config, {}),
        (GPT2Config, {"n_layer": 3, "n_embd": 32, "n_head": 4}),
        (CohereConfig, {"logit_scale": 0.25}),
        (OPTConfig, {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    ],
)
def test_the_lens_ends_in_what_the_model_says(config, changes, tokenizer) -> None:
    model = small(config, **changes)
    seen = lens(model, tokenizer, FACTS)
    assert seen.layers == 3
    examples = [encoding.encode(tokenizer, fact) for fact in FACTS]
    width = max(len(e.input_ids) for e in examples)
    ids = torch.tensor([e.input_ids + [1] * (width - len(e.input_ids)) for e in examples])
    targets = torch.tensor([e.labels[1:] + [-100] * (width + 1 - len(e.labels)) for e in examples])
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    answer = (targets != -100) & (targets != tokenizer.eos_token_id)
    right = logits.float().softmax(-1)[answer].gather(-1, targets[answer].unsqueeze(-1)).squeeze(-1)
    assert seen.tokens == int(answer.sum())
    assert seen.probability[-1] == pytest.approx(float(right.mean()), rel=1e-5)
    ranks = (logits[answer] > logits[answer].gather(-1, targets[answer].unsqueeze(-1))).sum(-1) + 1
    assert seen.top10[-1] == pytest.approx(100 * float((ranks <= 10).float().mean()), abs=1)


def test_the_lens_projects_each_layer_and_holds_the_states_of_no_other(tokenizer) -> None:
    model = small(LlamaConfig)
    states: list[weakref.ref] = []
    held: list[int] = []

    def note(layer: object, inputs: object, output: torch.Tensor) -> None:
        held.append(sum(state() is not None for state in states))
        states.append(weakref.ref(output))

    hooks = [layer.register_forward_hook(note) for layer in model.model.layers]
    seen = lens(model, tokenizer, FACTS, batch_size=4)
    for hook in hooks:
        hook.remove()
    assert max(held) == 1  # a layer's input is held while it runs
    right: list[torch.Tensor] = []
    for example in (encoding.encode(tokenizer, fact) for fact in FACTS):
        start = example.labels.count(-100)
        with torch.no_grad():
            out = model(input_ids=torch.tensor([example.input_ids]), output_hidden_states=True)
            *layers, last = (hidden[0, start - 1 : -2] for hidden in out.hidden_states[1:])
            logits = torch.stack([*(model.lm_head(model.model.norm(layer)) for layer in layers), model.lm_head(last)])
        gold = torch.tensor(example.input_ids[start:-1])
        right.append(logits.softmax(-1)[:, range(len(gold)), gold])
    assert seen.probability == pytest.approx(torch.cat(right, dim=1).mean(dim=1).tolist(), rel=1e-5)


def test_architectures_that_the_lens_cannot_read_are_refused(tokenizer, monkeypatch) -> None:
    with pytest.raises(BadInput, match="OPTForCausalLM: the lens finds no final norm"):
        lens(small(OPTConfig, ffn_dim=48, word_embed_proj_dim=32, _remove_final_layer_norm=True), tokenizer, FACTS)
    monkeypatch.setattr("remix_toolkit.evaluate.lens.final_norm", lambda model: model.model.layers[2].input_layernorm)
    with pytest.raises(RunFailed, match="differs from the model's own logits"):
        lens(small(LlamaConfig), tokenizer, FACTS)


def test_batches_do_not_change_what_the_lens_sees(tiny_base, tokenizer) -> None:
    model = load_model(str(tiny_base), None, "fp32", {})
    one, all_ = lens(model, tokenizer, FACTS, batch_size=1), lens(model, tokenizer, FACTS)
    for name in ("top10", "occurrence", "median_rank", "probability"):
        assert getattr(one, name) == pytest.approx(getattr(all_, name), abs=1e-4)


def test_the_lens_is_summed_up_as_in_figure_4() -> None:
    # Three tokens, three layers: one seen in the last two, one in the last, one never.
    ranks = torch.tensor([[400, 10, 1], [50, 11, 2], [99, 98, 97]])
    seen = summarize(3, ranks, torch.full((3, 3), 0.5))
    assert seen.top10 == pytest.approx([0, 100 / 3, 200 / 3])
    assert seen.occurrence == pytest.approx([0, 1 / 3, 2 / 3])
    assert seen.median_rank == [99, 11, 2]
    assert seen.first_layer == 2.5
    assert seen.never == pytest.approx(100 / 3)
    assert seen.layers_per_token == 1
    assert seen.spread == pytest.approx(np.exp(-(1 / 3 * np.log(1 / 3) + 2 / 3 * np.log(2 / 3))))
    assert summarize(2, ranks[:2], torch.full((2, 3), 0.5)).median_rank == [225, 10.5, 1.5]
    nowhere = summarize(2, torch.full((2, 3), 11), torch.zeros((2, 3)))
    assert (nowhere.first_layer, nowhere.never, nowhere.spread) == (None, 100, 0)


def encoded(tokenizer, facts):
    return [encoding.encode(tokenizer, fact) for fact in facts]


def test_a_small_step_changes_the_loss_as_the_gradient_says(tokenizer) -> None:
    model, data = small(LlamaConfig), encoded(tokenizer, FACTS)
    found = interference(model, tokenizer, {"a": data, "b": data}, parts=4)
    assert found.groups["whole"]["a.b"].cosine == pytest.approx(1, abs=1e-6)
    assert {"whole", "layer 1", "layer 3", "q_proj", "embed_tokens", "lm_head", "norms"} <= found.groups.keys()

    after = small(LlamaConfig)
    for part in _cut("a", data, 4):  # one step of gradient descent on the mean over the parts
        tokens = sum(label != -100 for e in part for label in e.labels)
        for example in part:
            out = after(**{name: torch.tensor([getattr(example, name)]) for name in ("input_ids", "labels")})
            (out.loss * sum(label != -100 for label in example.labels) / tokens / 4).backward()
    with torch.no_grad():
        for parameter in after.parameters():
            parameter -= 1e-4 * parameter.grad
    found = interference(model, tokenizer, {"a": data, "b": encoded(tokenizer, OTHERS)}, after, parts=4)
    change = found.loss_after - found.loss_before
    assert change < 0
    assert found.predicted == pytest.approx(change, rel=0.02)
    assert found.predicted == pytest.approx(-1e-4 * found.norms["a"].norm ** 2, rel=1e-3)
    assert found.predicted_low <= found.predicted <= found.predicted_high
    assert found.displacement["whole"].norm == pytest.approx(1e-4 * found.norms["a"].norm, rel=1e-3)


def test_inner_products_by_group_add_up() -> None:
    torch.manual_seed(0)
    shapes = {"model.embed_tokens.weight": (5, 3), "model.layers.0.self_attn.q_proj.weight": (3, 3)}
    shapes |= {"model.layers.0.input_layernorm.weight": (3,), "lm_head.weight": (5, 3)}
    rows = [{name: torch.randn(shape) for name, shape in shapes.items()} for _ in range(4)]
    products = gram(rows)
    flat = torch.stack([torch.cat([row[name].flatten() for name in shapes]) for row in rows]).double()
    np.testing.assert_allclose(products["whole"], (flat @ flat.T).numpy(), rtol=1e-5)
    layer = products["q_proj"] + products["norms"]
    np.testing.assert_allclose(products["layer 1"], layer, rtol=1e-9)
    assert list(groups_of("model.layers.11.mlp.up_proj.weight")) == ["whole", "layer 12", "up_proj"]


def test_noise_is_called_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(8, 1000))
    assert _norm(noise @ noise.T).noise
    shared = noise + rng.normal(size=1000)
    found = _norm(shared @ shared.T)
    assert not found.noise
    assert found.signal < found.norm
    both = np.vstack([noise, shared])
    angle = _angles(both @ both.T, {"a": slice(0, 8), "b": slice(8, 16)})["a.b"]
    assert (angle.cosine, angle.low, angle.high) == (None, None, None)


@pytest.mark.parametrize(("signal", "cosine"), [(0.3, 0.8), (1.0, 0.8), (0.5, -0.9), (0.5, 0.0)])
def test_the_cosine_is_that_of_what_the_parts_share_and_lies_in_its_interval(signal: float, cosine: float) -> None:
    rng, rows = np.random.default_rng(0), {"a": slice(0, 8), "b": slice(8, 16)}
    covered, seen = 0, []
    for _ in range(20):
        a, b = np.linalg.qr(rng.normal(size=(1000, 2)))[0].T
        b = cosine * a + np.sqrt(1 - cosine**2) * b
        parts = np.vstack([signal * one + rng.normal(size=(8, 1000)) / 1000**0.5 for one in (a, b)])
        angle = _angles(parts @ parts.T, rows)["a.b"]
        assert angle.low <= angle.cosine <= angle.high
        covered += angle.low <= cosine <= angle.high
        seen.append(angle.cosine)
    assert np.mean(seen) == pytest.approx(cosine, abs=0.05)
    assert covered >= 16


def test_what_interference_cannot_compare(tokenizer) -> None:
    model, data = small(LlamaConfig), encoded(tokenizer, FACTS)
    with pytest.raises(BadInput, match="interference: b has 2 examples, fewer than 4 parts"):
        interference(model, tokenizer, {"a": data, "b": data[:2]}, parts=4)
    with pytest.raises(BadInput, match="3 parts requested"):
        interference(model, tokenizer, {"a": data, "b": data}, parts=3)
    with pytest.raises(BadInput, match="do not have the same parameters"):
        interference(model, tokenizer, {"a": data, "b": data}, small(LlamaConfig, num_hidden_layers=2), parts=4)


def test_perplexity_is_that_of_the_tokens(tokenizer, tmp_path) -> None:
    model = small(LlamaConfig)
    text = tmp_path / "text.txt"
    text.write_text("word " * 120)
    found = perplexity(model, tokenizer, str(text))
    ids = [tokenizer.bos_token_id, *tokenizer("word " * 49 + "word", add_special_tokens=False)["input_ids"]]
    loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
    assert found.tokens == 2 * (len(ids) - 1)
    assert found.perplexity == pytest.approx(float(loss.exp()), rel=1e-5)
    assert len(passages("docstrings")) == 16
    text.write_text("too little")
    passages.cache_clear()
    with pytest.raises(BadInput, match="2 words, and a passage has 50"):
        passages(str(text))


RECIPE = """
train: {num_train_epochs: 2}
global_batch_size: 8
stages:
  stage1: {data: {task: kvr, size: 16}}
  stage2:
    data: {task: invented_facts, size: 16}
    mix: {passages: {ratio: 1}}
"""


@pytest.fixture
def copy(trained, tmp_path: Path) -> Path:
    """A folder with a copy of the trained store, in which its recipe can be run."""
    return shutil.copytree(trained.folder, tmp_path / "copy")


@pytest.mark.slow
def test_a_stage_is_probed_later_and_weights_are_trained_again_where_they_are_needed(here, copy: Path) -> None:
    """And only there: the lens takes the stage's own, interference its parent's too."""
    first, second = sorted((copy / "runs" / "stages").iterdir())
    weights, lens = (second / "model.safetensors").stat().st_mtime_ns, Lens().read(second)
    assert lens.keys() == Recall().read(second).keys()
    here("store", "prune", folder=copy)  # leaves stay
    (second / "lens.json").unlink()
    again = here("run", "trained", "stages.stage2.probe=[lens]", folder=copy).stdout
    assert "stage1: already published, reused" in again
    assert Lens().read(second) == lens
    assert not (first / "model.safetensors").exists()
    (second / "interference.json").unlink()
    assert "gradients of stage1 and stage2: cosine" in here("run", "trained", folder=copy).stdout
    assert (second / "model.safetensors").stat().st_mtime_ns == weights
    assert (first / "model.safetensors").exists()
    (found,) = Interference().read(second).values()
    assert found.sources == {"a": "stage1", "b": "stage2", "m": "mixing"}
    assert found.groups["whole"].keys() == {"a.b", "a.m", "b.m"}
    here("store", "prune", "--keep", "none", folder=copy)
    (second / "lens.json").unlink()
    here("run", "trained", folder=copy)
    assert Lens().read(second) == lens


def test_any_model_is_probed_from_the_command_line(here, trained, tmp_path: Path) -> None:
    stage = trained.stages[1]
    lens = here("probe", "lens", stage, "--task", "kvr", "size=40", "--json", "--plot", tmp_path / "lens.svg").stdout
    assert (tmp_path / "lens.svg").read_text().startswith("<?xml")
    assert json.loads(lens)[0]["top10"] == pytest.approx(trained.result(Lens()).top10)
    shown = here("probe", "interference", stage, "--a", "kvr size=16", "--b", "invented_facts size=16", "--parts", 4)
    assert "loss_after" not in shown.stdout  # nothing was trained after it


def test_a_measurement_that_fails_stops_no_stage_and_is_tried_again(here, runs, tmp_path, monkeypatch) -> None:
    recipe = tmp_path / "probed.yaml"
    recipe.write_text(RECIPE)
    line = ["run", recipe, "--runs", runs, "stages.stage1.probe=[lens]", "stages.stage2.probe=[interference]"]

    def broken(*_: object) -> None:
        raise RuntimeError("no such kernel")

    with monkeypatch.context() as patched:
        patched.setattr("remix_toolkit.evaluate.lens.lens", broken)
        patched.setattr("remix_toolkit.evaluate.recall.recall", broken)
        done = here(*line, check=False)
    assert done.returncode == 1
    for failed in ("stage1 is published", "recall (RuntimeError: no such kernel", "stage2 is published"):
        assert failed in done.stderr
    assert len(list((runs / "errors").iterdir())) == 3  # a traceback for each
    first, second = sorted((runs / "stages").iterdir())
    weights = (second / "model.safetensors").stat().st_mtime_ns
    assert {file.name for file in (*first.iterdir(), *second.iterdir())} >= {"perplexity.json", "interference.json"}
    assert not (first / "lens.json").exists()
    assert not (first / "recall.json").exists()
    out = here(*line).stdout
    assert out.count("already published, reused") == 2
    assert (second / "model.safetensors").stat().st_mtime_ns == weights
    for folder in (first, second):
        assert is_measured(load_recipe(recipe, "tiny", line[4:]), folder.name.split("-")[1], folder)


def test_a_measurement_that_fails_stops_nothing_in_a_sweep(here, copy: Path, monkeypatch) -> None:
    """The harness is one that fails, in the sweep's worker processes too."""
    package = copy / "path" / "lm_eval"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("def simple_evaluate(**_):\n    raise RuntimeError('no benchmark here')\n")
    (package / "models" / "huggingface.py").write_text("class HFLM:\n    def __init__(self, **_): pass\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(package.parent)
    (copy / "sweep.yaml").write_text("recipe: trained.yaml\n")
    done = here("sweep", "sweep.yaml", "evaluate.lm_eval=[arc]", check=False, folder=copy)
    assert done.returncode == 1
    for stage in ("stage1", "stage2"):
        assert f"{stage} is published, but not measured in full: lm_eval (RuntimeError: no benchmark" in done.stderr
    assert not list(copy.glob("runs/stages/*/lm_eval.json"))


def test_a_full_disk_ends_a_measurement_at_once(here, runs, tmp_path, monkeypatch) -> None:
    recipe = tmp_path / "probed.yaml"
    recipe.write_text(RECIPE)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "recall.json")

    monkeypatch.setattr("remix_toolkit.evaluate.recall.recall", full)
    done = here("run", recipe, "--runs", runs, "stages.stage1.train.num_train_epochs=1", check=False)
    assert (done.returncode, "No space left on device; make room" in done.stderr) == (1, True)
    assert len(list((runs / "stages").iterdir())) == 1


def test_data_that_cannot_be_measured_is_refused_before_training(here, runs, tmp_path) -> None:
    recipe = tmp_path / "probed.yaml"
    recipe.write_text(RECIPE)
    few = ["stages.stage1.data.size=3", "global_batch_size=3", "stages.stage2.probe=[interference]"]
    done = here("run", recipe, "--runs", runs, *few, check=False)
    assert done.returncode == 2
    assert "interference takes 4 facts or more, not 3" in done.stderr


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (["probe", "lens", "size=3"], "name at least one model"),
        (["probe", "lens", "nowhere", "--task", "kvrr"], "kvr"),
        (["probe", "interference", "x", "--a", "", "--b", "kvr"], "no task ''; valid: apps"),
        (["probe", "interference", "x", "--a", "kvr", "--b", "kvr", "--mix", "words"], "random_words"),
        (["run", "kvr", "stages.stage1.probe=[interference]"], "stages.stage1.probe"),
        (["run", "kvr", "stages.stage2.probe=[lense]"], "lens"),
        (["run", "kvr", "evaluate.text=nowhere.txt"], "nowhere.txt"),
    ],
)
def test_mistakes_in_probes_are_named(here, runs, line, what) -> None:
    done = here(*line, *(["--runs", str(runs)] if line[0] == "run" else []), check=False)
    assert done.returncode == 2
    assert what in done.stderr


def test_the_harness_is_an_extra(here, runs: Path, monkeypatch) -> None:
    monkeypatch.setattr("remix_toolkit.evaluate.harness.find_spec", lambda name: None)
    done = here("run", "kvr", "evaluate.lm_eval=[arc_easy]", "--runs", str(runs), check=False)
    assert done.returncode == 2
    assert "pip install lm-eval" in done.stderr
    assert not list((runs / "stages").glob("*"))
