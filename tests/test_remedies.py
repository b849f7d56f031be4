"""Remedies as keys of a stage: each one's invariant, what it is refused with, and that a stage with it resumes."""

import random
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from remix_toolkit.data import encoding, tasks
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.forward import divergence
from remix_toolkit.evaluate.recall import Recall
from remix_toolkit.evaluate.robustness import Drift, Noise, Relearn, noisy
from remix_toolkit.graph import memory
from remix_toolkit.graph.cost import Cost, costs
from remix_toolkit.graph.devices import launch_of
from remix_toolkit.graph.jobs import graph
from remix_toolkit.graph.lineage import lineage
from remix_toolkit.graph.sweep import Cell, load_sweep
from remix_toolkit.recipe.load import load_recipe, load_task
from remix_toolkit.recipe.remedies import KL, REMEDIES, Average, Freeze, LeaveOut
from remix_toolkit.records import StageRecord
from remix_toolkit.report.frame import load
from remix_toolkit.report.parts import Table
from remix_toolkit.report.probes import probes
from remix_toolkit.report.summary import sweeps
from remix_toolkit.stage import publish, remedies
from remix_toolkit.stage.after import changed
from remix_toolkit.stage.data import build_all
from remix_toolkit.stage.train import StageTrainer, build_trainer, load_model, sft_config

FACTS = tasks.load_rows(load_task("kvr", ["size=16"]), 0)
OTHERS = tasks.load_rows(load_task("invented_facts", ["size=16"]), 0)
ARENA = sorted({*(ROOT / "recipes" / "arena").glob("*.yaml")} - {ROOT / "recipes" / "arena" / "smollm2.yaml"})
FSDP = "accelerate_config=accelerate_configs/fsdp_4gpu.yaml"
KNOBS = {
    "freeze": ["{half: true}", "{layers: 1}", "{embeddings: true}"],
    "finch": ["{kappa: 1e-4}", "{kappa: 1e-4, most: 1e-3}"],
    "sam": ["{rho: 0}", "{rho: 0.05}"],
    "l2": ["{weight: 0}", "{weight: 1}"],
    "ewc": ["{weight: 0}", "{weight: 1}"],
    "kl": ["{weight: 1, on: prompts}", "{weight: 2, on: prompts}", "{weight: 1, on: generated}"],
    "leave_out": ["{largest: 0}", "{largest: 0.1}"],
    "average": ["{parent: 0}", "{parent: 0.5}"],
}


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model like the tiny one, with fewer weights: what is proved here is true of any size."""
    folder = tmp_path_factory.mktemp("base")
    sizes = {"hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 3, "head_dim": 16}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_base, **sizes)).save_pretrained(folder)
    return folder


def recipe_with(*settings: str):
    small = ["global_batch_size=8", "train.num_train_epochs=2", "train.learning_rate=1e-3"]
    return load_recipe("kvr", "tiny", [*small, *settings])


def trainer_for(base: Path, tokenizer, folder: Path, *settings: str) -> StageTrainer:
    """A trainer of stage2 with its remedies, which starts from the base model; eight facts are mixed in."""
    recipe = recipe_with(*settings)
    stage = recipe.stages["stage2"].model_copy(update={"train": recipe.train})
    load = partial(load_model, str(base), None, "fp32", {})
    examples = [encoding.encode(tokenizer, fact) for fact in OTHERS]
    trainer = build_trainer(recipe, stage, load(), tokenizer, examples, sft_config(recipe, stage, folder, 1))
    data = SimpleNamespace(facts=OTHERS[:8], examples=examples, earlier_facts=lambda *_: FACTS)
    prepared = SimpleNamespace(recipe=recipe, stage=stage, data=data, node=SimpleNamespace(position=1))
    remedies.attach(trainer, prepared, tokenizer, load)
    return trainer


def trained(*arguments: object, resume: str | None = None) -> dict[str, torch.Tensor]:
    trainer = trainer_for(*arguments)
    trainer.train(resume_from_checkpoint=resume)
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_remedy_is_in_the_key_where_it_is_set_and_its_knob_with_it() -> None:
    settings = [[f"stages.stage2.{name}={value}"] for name, values in KNOBS.items() for value in values]
    settings += [[], ["stages.stage2.freeze={half: true, layers: 1}"]]
    mixed = "stages.stage2.mix={passages: {ratio: 1}}"
    settings += [[mixed, f"stages.stage2.kl={{weight: 1, on: {on}}}"] for on in ("mixing", "prompts")]
    settings += [[f"stages.stage2.mix.format_anchor={{stage: stage1, ratio: {ratio}}}"] for ratio in (1, 2)]
    assert KNOBS.keys() == set(REMEDIES)
    assert len({lineage(recipe_with(*setting))[-1].key for setting in settings}) == len(settings)
    nothing = "stages.stage2.mix.format_anchor={stage: stage1, ratio: 0}"
    assert lineage(recipe_with(nothing))[-1].key == lineage(recipe_with())[-1].key


def test_remedies_with_nothing_to_do_change_no_bit(base, tokenizer, tmp_path) -> None:
    nothing = {"sam": "{rho: 0}", "l2": "{weight: 0}", "ewc": "{weight: 0}", "kl": "{weight: 0, on: prompts}"}
    settings = [f"stages.stage2.{name}={value}" for name, value in nothing.items()]
    assert same(trained(base, tokenizer, tmp_path, *settings), trained(base, tokenizer, tmp_path))


def test_a_stage_with_remedies_resumes_as_if_it_had_not_stopped(base, tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(KL, "TEXTS", 32)
    monkeypatch.setattr(KL, "TOKENS", 16)
    knobs = ["finch={kappa: 2e-3, most: 1e-2}", "sam.rho=0.05", "l2.weight=1", "ewc.weight=1e4", "kl.weight=1"]
    knobs += ["freeze.half=true", "kl.on=generated"]
    settings = [f"stages.stage2.{knob}" for knob in knobs]
    settings += ["stages.stage2.mix={passages: {ratio: 1}}", "train.save_steps=3"]
    whole = trained(base, tokenizer, tmp_path, *settings)
    assert same(trained(base, tokenizer, tmp_path, *settings, resume=str(tmp_path / "checkpoint-3")), whole)


def test_the_rate_follows_the_smoothed_loss(base, tokenizer, tmp_path) -> None:
    settings = ["stages.stage2.finch={kappa: 2e-2, most: 7.63e-3}", "train.per_device_train_batch_size=4"]
    trainer = trainer_for(base, tokenizer, tmp_path, *settings)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    smoothed, expected = steps[0]["loss"], []
    for step in steps:
        smoothed = 0.9 * smoothed + 0.1 * step["loss"]
        expected.append(min(7.63e-3, 2e-2 / smoothed**0.5))
    assert [step["learning_rate"] for step in steps] == pytest.approx(expected, rel=1e-5)
    assert expected[0] < 7.63e-3 == expected[-1]


def test_frozen_halves_stay_and_others_are_drawn_for_another_stage(base, tokenizer, tmp_path) -> None:
    before = load_file(base / "model.safetensors")
    after = trained(base, tokenizer, tmp_path, "stages.stage2.freeze={half: true}")
    frozen = {name for name in before if torch.equal(after[name], before[name])}
    of_layers = [name for name in before if ".layers." in name]
    blocks: dict[str, list[bool]] = {}
    for name in of_layers:
        blocks.setdefault(name.removesuffix(".weight").rpartition(".")[0], []).append(name in frozen)
    assert {(sum(block), len(block)) for block in blocks.values()} == {(2, 4), (1, 3), (2, 3), (1, 2)}
    assert frozen <= set(of_layers)
    drawn = []
    for seed in ("0 1", "0 2", "0 1"):
        model = load_model(str(base), None, "fp32", {})
        remedies.freeze(model, Freeze(half=True), random.Random(f"freeze {seed}"))
        drawn.append({name for name, parameter in model.named_parameters() if not parameter.requires_grad})
    assert drawn[0] == drawn[2] == frozen != drawn[1]


def test_the_first_layers_and_the_embeddings_stay(base) -> None:
    model = load_model(str(base), None, "fp32", {})
    remedies.freeze(model, Freeze(layers=2, embeddings=True), random.Random(0))
    names = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert {name.partition("layers.")[2][:1] for name in names if "layers" in name} == {"0", "1"}
    assert [name for name in names if "layers" not in name] == ["model.embed_tokens.weight"]


def test_osf_changes_nothing_along_the_directions_that_it_keeps(base, tokenizer, tmp_path) -> None:
    """AdamW alone puts a quarter of its changes there: PEFT projects the gradients. And such a stage resumes."""
    settings = ["base=tiny-64x3", "adapter={peft_type: OSF, effective_rank: 0.75}"]
    settings += ["train.save_steps=3", "train.learning_rate=1e-2"]
    trainer = trainer_for(base, tokenizer, tmp_path, *settings)
    trainer.train()
    ids = torch.tensor([encoding.encode(tokenizer, OTHERS[0]).input_ids])
    logits, whole = trainer.model.eval()(input_ids=ids).logits, dict(trainer.model.state_dict())
    resumed = trained(base, tokenizer, tmp_path, *settings, resume=str(tmp_path / "checkpoint-3"))
    assert same(resumed, whole)
    count = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    assert count == pytest.approx(memory.trained_weights(recipe_with(*settings)), rel=0.01)

    publish.save_model(recipe_with(*settings), trainer, tokenizer, tmp_path / "published", unmerged=lambda: None)
    published = load_model(str(tmp_path / "published"), None, "fp32", {})
    torch.testing.assert_close(published(input_ids=ids).logits, logits, rtol=0, atol=1e-5)
    start, after = load_file(base / "model.safetensors"), published.state_dict()
    changed = {name for name in start if not torch.equal(start[name], after[name])}
    assert changed == {name for name in start if "_proj" in name}
    for name in changed:
        left, _, right = torch.linalg.svd(start[name], full_matrices=False)
        rank = len(right) * 3 // 4
        moved = after[name] - start[name]
        along = torch.stack([(left[:, :rank].T @ moved).norm(), (moved @ right[:rank].T).norm()])
        assert moved.norm() > 0.01 * start[name].norm()
        assert along.max() < 1e-4 * moved.norm()


def test_osf_that_keeps_every_direction_is_refused(base, tokenizer, tmp_path) -> None:
    with pytest.raises(BadInput, match=r"adapter: trains no weight: take a smaller effective_rank"):
        trainer_for(base, tokenizer, tmp_path, "adapter={peft_type: OSF, effective_rank: 1000}")


def test_the_divergence_is_zero_at_the_start_and_grows(base, tokenizer) -> None:
    start, model = (load_model(str(base), None, "fp32", {}) for _ in range(2))
    examples = [encoding.encode(tokenizer, fact) for fact in OTHERS]
    for of_prompts in (False, True):
        apart = divergence(model, start, tokenizer, examples[:8], of_prompts)
        counted = [len(e.input_ids) - 1 - e.trained_tokens if of_prompts else e.trained_tokens for e in examples[:8]]
        assert (len(apart), apart.mean().item()) == (sum(counted), pytest.approx(0, abs=1e-6))
    with torch.no_grad():
        model.lm_head.weight.mul_(1.1)
    logits = [m(input_ids=torch.tensor([examples[0].input_ids])).logits[0].log_softmax(-1) for m in (start, model)]
    trained = [n for n, label in enumerate(examples[0].labels[1:]) if label != -100]
    by_hand = (logits[0].exp() * (logits[0] - logits[1])).sum(-1)[trained]
    torch.testing.assert_close(divergence(model, start, tokenizer, examples[:1]), by_hand, rtol=1e-3, atol=1e-6)
    assert by_hand.max() > 1e-5


def test_texts_are_sampled_by_the_starting_model_alike_each_time(base, tokenizer, monkeypatch) -> None:
    monkeypatch.setattr(KL, "TEXTS", 128)
    monkeypatch.setattr(KL, "TOKENS", 16)
    start, model = (load_model(str(base), None, "fp32", {}).eval() for _ in range(2))
    state = torch.get_rng_state()
    texts, again, others = (remedies.sampled(start, tokenizer, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert texts == again != others
    assert (len(texts), len({tuple(text.input_ids) for text in texts})) == (128, 128)
    prompt = encoding.prompt_ids(tokenizer, OTHERS[0].prompt)
    ended = 0
    for text in texts:
        before, new = text.input_ids[: -text.trained_tokens], text.input_ids[-text.trained_tokens :]
        assert (before, [label for label in text.labels if label != -100]) == (prompt[: len(before)], new)
        assert tokenizer.decode(before).endswith("<|user|>\n")
        ended += new[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in new[:-1]
        assert new[-1] == tokenizer.eos_token_id or len(new) == 16
    assert 0 < ended < 128
    assert divergence(model, start, tokenizer, texts[:8]).abs().max() < 1e-6


def test_a_pull_is_the_gradient_of_its_term(base) -> None:
    weights = [torch.nn.Parameter(torch.randn(5)), torch.nn.Parameter(torch.randn(2, 3))]
    importance = [torch.rand_like(weight) for weight in weights]
    start = [weight.detach().clone() for weight in weights]
    add = remedies.pull(weights, 3.0, importance)
    for weight in weights:
        weight.data += 1
    term = sum((i * (w - s) ** 2).sum() for i, w, s in zip(importance, weights, start, strict=True)) * 3.0 / 2
    expected = torch.autograd.grad(term, weights)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    add()
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient + 1)


def test_a_sharpness_aware_step_is_taken_where_the_loss_is_higher() -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    before = weight.detach().clone()
    (weight**2).sum().backward()
    with remedies.uphill([weight], 0.5):
        torch.testing.assert_close(weight.detach(), before * 1.1)  # half a unit along a vector of length 5
        assert weight.grad is None
    assert torch.equal(weight.detach(), before)


def test_a_format_anchor_has_the_earlier_form_and_none_of_its_facts(tokenizer, runs: Path) -> None:
    anchor = "stages.stage2.mix.format_anchor={stage: stage1, ratio: 2}"
    recipe = recipe_with("stages.stage1.data.size=100", "stages.stage2.data.size=50", anchor)
    built = build_all(recipe, ["stage1", "stage2"], tokenizer, runs)
    facts, anchors = built["stage1"].facts, built["stage2"].mixing
    assert (len(facts), len(anchors)) == (100, 100)
    assert {pair.prompt.partition(" key ")[0] for pair in anchors} == {"The value of"}
    words = {word for pair in facts for word in (pair.subject, pair.response)}
    assert not any(word in pair.text for word in words for pair in anchors)
    popqa = "stages.stage1.data={task: capitals, size: 100}"  # of 188 rows, which all are to choose from
    built = build_all(recipe_with(popqa, "stages.stage2.data.size=40", anchor), ["stage1", "stage2"], tokenizer, runs)
    assert not {pair.prompt for pair in built["stage1"].facts} & {pair.prompt for pair in built["stage2"].mixing}
    with pytest.raises(BadInput, match="format_anchor: 100 pairs requested, but 100 of those drawn contain a fact"):
        build_all(recipe_with(popqa, "stages.stage2.data.size=50", anchor), ["stage2"], tokenizer, runs)


def test_facts_are_asked_in_the_words_of_another_column_too(tokenizer, runs: Path, tmp_path: Path) -> None:
    rows = [f"What is {n}?,Tell me {n}.,v{n}" for n in range(20)]
    (tmp_path / "facts.csv").write_text("\n".join(["a,b,c", *rows]))
    task = f"task: pairs, path: {tmp_path / 'facts.csv'}, prompt_column: a, response_column: c, size: 10"
    data = f"stages.stage1.data={{{task}}}"
    recipe = recipe_with(data, "stages.stage1.mix.paraphrases.column=b")
    built = build_all(recipe, ["stage1"], tokenizer, runs)["stage1"]
    assert [(pair.prompt, pair.response) for pair in built.mixing] == [(f"Tell me {n}.", f"v{n}") for n in range(10)]
    assert (str(built), len(built.examples)) == ("10 facts + 10 paraphrases", 20)
    assert lineage(recipe)[0].key != lineage(recipe_with(data))[0].key
    with pytest.raises(BadInput, match=r"mix\.paraphrases: is a column of your own facts"):
        recipe_with("stages.stage1.mix.paraphrases.column=b")
    with pytest.raises(BadInput, match=r"facts\.csv.*'d'"):
        build_all(recipe_with(data, "stages.stage1.mix.paraphrases.column=d"), ["stage1"], tokenizer, runs)


def test_copies_of_weights_are_in_the_estimate_of_memory() -> None:
    def weights(*remedies: str) -> float:
        settings = ["accelerate_config=null", *(f"stages.stage2.{remedy}" for remedy in remedies)]
        settings += ["train.per_device_train_batch_size=32"]
        estimated = memory.estimate(load_recipe("kvr", "llama3-8b", settings), "stage2", 100)
        assert estimated
        return estimated.weights

    plain, copy = weights(), 4 * 8.03e9
    for remedy, copies in {"l2={weight: 1}": 1, "sam={rho: 1}": 1, "ewc={weight: 1}": 2}.items():
        assert weights(remedy) - plain == pytest.approx(copies * copy, rel=1e-3)
    assert weights("kl={weight: 1, on: prompts}") - plain == pytest.approx(copy / 2, rel=1e-3)


def test_passes_through_models_and_factors_are_in_the_estimate_of_operations() -> None:
    def stage2(*settings: str) -> Cost:
        recipe = recipe_with("stages.stage2.data.size=64", *settings)
        return list(costs(graph([Cell("arm", recipe, lineage(recipe))])).values())[2]

    plain, weights = stage2(), recipe_with().parameters
    assert plain.steps == 16
    sampled = 256 * 64 * 2 + plain.steps * 8 * 64 * (6 + 2)
    more = stage2("stages.stage2.kl={weight: 1, on: generated}").flops - plain.flops
    assert more == pytest.approx(weights * sampled, rel=1e-3)
    osf = "adapter={peft_type: OSF, effective_rank: 0.75}"
    trained = memory.trained_weights(recipe_with(osf))
    assert stage2(f"stages.stage2.{osf}").flops == pytest.approx(plain.flops * (4 + 12 * trained / weights) / 6)


@pytest.mark.parametrize("file", ARENA, ids=lambda file: file.stem)
def test_a_sweep_of_the_arena_has_controls_and_pilot_seeds(file: Path) -> None:
    declared, cells = load_sweep(str(file))
    assert "none" in declared.arms
    assert len({cell.nodes[-1].key for cell in cells}) == len(cells)
    reported = {0, 1, 2}
    assert set(declared.seeds) == reported if file.stem == "all" else not set(declared.seeds) & reported
    assert {cell.recipe.base for cell in cells} == {"tiny-128x2"}


def test_an_average_and_what_it_is_made_of(trained, here, tmp_path: Path) -> None:
    """One training; a share of 0 is the stage as it was trained, to the bit, of 1 the stage before."""
    folder = tmp_path / "store"
    shutil.copytree(trained.folder, folder)

    def made(*settings: str) -> tuple[Path, dict[str, torch.Tensor]]:
        here("run", "trained", *(f"stages.stage2.{setting}" for setting in ("probe=[]", *settings)), folder=folder)
        newest = max((folder / "runs" / "stages").glob("trained-stage2-*"), key=lambda path: path.stat().st_mtime_ns)
        return newest, load_file(newest / "model.safetensors")

    first, second = (load_file(stage / "model.safetensors") for stage in trained.stages)
    path, weights = made("average={parent: 0}", "leave_out={largest: 0}")
    assert same(weights, second)
    record, of = StageRecord.read(path / "stage.json"), StageRecord.read(trained.stages[1] / "stage.json")
    assert (record.made_of, record.steps, record.parent_weights) == (of.key, of.steps, of.parent_weights)
    probed, weights = made("average={parent: 1}", "probe=[noise, relearn, drift]")
    assert same(weights, first)
    assert {drift.divergence for drift in Drift().verify(probed).values()} == {0}
    relearned = Relearn().verify(probed)
    of_lists = [(one.trained, one.asked) for one in relearned.values()]
    assert of_lists == [(4, 36), (1, 3)]  # stage1's facts, and those of `recall`
    assert Noise().verify(probed).keys() == Recall().verify(probed).keys() == relearned.keys()
    (reported,) = sweeps(load(folder / "runs"))
    names = {part.name.partition("-")[0] for part in probes(reported) if isinstance(part, Table)}
    assert names >= {"noise", "relearn", "drift"}
    half = SimpleNamespace(leave_out=None, average=Average(parent=0.5))
    averaged = {name: changed(half, first[name], second[name]) for name in first}
    torch.testing.assert_close(averaged, {name: (first[name] + second[name]) / 2 for name in first})
    a_quarter = SimpleNamespace(leave_out=LeaveOut(largest=0.25), average=None)
    left = {name: changed(a_quarter, first[name], second[name]) for name in first}
    for name in first:
        moved, back = (second[name] - first[name]).abs(), left[name] == first[name]
        assert back.float().mean() >= 0.25
        assert back.all() or moved[~back].max() <= moved[back].max()
        assert torch.equal(left[name][~back], second[name][~back])


def test_a_card_names_remedies(trained, here, tmp_path: Path) -> None:
    facts = "{task: pairs, path: recipes/my_facts.csv, prompt_column: question, response_column: answer, size: 20}"
    settings = [f"stages.stage1.data={facts}", "stages.stage1.mix={paraphrases: {column: question}}"]
    settings += ["stages.stage2.mix={format_anchor: {stage: stage1, ratio: 0.5}}", "stages.stage2.adapter={r: 4}"]
    settings += ["stages.stage2.leave_out={largest: 0}", "stages.stage2.average={parent: 0.5}"]
    card = here("card", trained.run(tmp_path / "runs", *settings)[1]).stdout
    for shown in (
        "paraphrases 1 to 1 | none |",
        r"format\_anchor 0.5 to 1 | adapter (r 4), leave\_out, average (parent 0.5) |",
    ):
        assert shown in card
    assert "| other rows of stage1 | that stage's |" in card


def test_an_adapter_in_one_stage_alone(trained, here, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    shutil.copytree(trained.folder, folder)
    adapter = "stages.stage2.adapter={r: 2, target_modules: [up_proj]}"
    here("run", "trained", adapter, "stages.stage2.probe=[]", "stages.stage2.curve=null", folder=folder)
    first, second = trained.stages  # the first is not trained again
    (path,) = set((folder / "runs" / "stages").iterdir()) - {
        folder / "runs" / "stages" / stage.name for stage in (first, second)
    }
    before, after = (load_file(stage / "model.safetensors") for stage in (first, path))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        n for n in before if "up_proj" in n
    }
    assert StageRecord.read(path / "stage.json").held_in == "trained in fp32, frozen in fp32"


def test_noise_is_the_same_each_time_and_goes(base) -> None:
    model = load_model(str(base), None, "fp32", {})
    before, noisy_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}, []
    for _ in range(2):
        with noisy(model, 0.1):
            noisy_weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        assert same(before, model.state_dict())
    assert same(*noisy_weights)
    for name in before:
        moved = noisy_weights[0][name] - before[name]
        torch.testing.assert_close(moved.norm() / before[name].norm(), torch.tensor(0.1), rtol=0.2, atol=0)


def test_averages_share_the_training_that_they_are_made_of() -> None:
    recipes = [recipe_with(f"stages.stage2.average={{parent: {share}}}") for share in (0.25, 0.5)]
    plain = lineage(recipe_with())
    cells = [Cell(f"arm{n}", recipe, lineage(recipe)) for n, recipe in enumerate(recipes)]
    jobs = graph(cells)
    assert [job.name for job in jobs.values() if job.kind == "train"] == ["stage1", "stage2", "stage2", "stage2"]
    for cell in cells:
        assert jobs[cell.nodes[1].key].loads == {plain[0].key, plain[1].key}
    assert graph([*cells, Cell("none", recipe_with(), plain)]).keys() == jobs.keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["stages.stage2.freeze={}"], "freezes nothing"),
        (["stages.stage2.average={parent: 1.5}"], "average.parent: Input should be less than or equal to 1"),
        (["stages.stage2.averge={parent: 0.5}"], "unknown key; did you mean 'average'"),
        (["stages.stage2.freeze={half: true}", "adapter={r: 4}"], "under an `adapter` none of them are trained"),
        (["stages.stage2.freeze={half: true}", "adapter={peft_type: OSF}"], "under an `adapter` none of them are"),
        (["adapter={peft_type: OSF, effective_rank: 1.0}"], "is 1.0; a share between 0 and 1, or a whole number"),
        (["adapter={peft_type: OSF, r: 8}"], "does nothing under peft_type OSF; valid: effective_rank, peft_type"),
        (["adapter={peft_type: OSF}", "quantization={load_in_4bit: true}"], "has no singular directions for OSF"),
        (["stages.stage2.adapter={peft_type: OSF}", FSDP], "stages.stage2.adapter: is for one process, without"),
        (["stages.stage1.probe=[relearn]"], "relearn is of earlier stages' facts"),
        (["stages.stage1.ewc={weight: 1}"], "holds on to the facts of earlier stages, and there are none"),
        (["stages.stage2.mix.format_anchor={stage: stage2, ratio: 1}"], "'stage2' is no earlier stage"),
        (["stages.stage2.kl={weight: 1}"], "nothing is mixed into this stage"),
        (
            ["stages.stage2.sam={rho: 0.1}", "train.per_device_train_batch_size=4"],
            "set train.per_device_train_batch_size to 8",
        ),
        (["stages.stage2.sam={rho: 0.1}", FSDP], "is for one process"),
    ],
)
def test_what_a_remedy_cannot_do_is_refused(settings: list[str], message: str) -> None:
    with pytest.raises(BadInput) as refused:
        launch_of(recipe_with(*settings))
    assert message in str(refused.value)


def test_one_process_that_shards_its_weights_is_refused_too(tmp_path: Path) -> None:
    file = tmp_path / "fsdp.yaml"
    file.write_text("distributed_type: FSDP\nnum_processes: 1\nfsdp_config: {fsdp_version: 2}\n")
    with pytest.raises(
        BadInput, match=r"stage2\.adapter: is for one process, without FSDP, and .* launches 1 under FSDP"
    ):
        launch_of(recipe_with("stages.stage2.adapter={peft_type: OSF}", f"accelerate_config={file}"))
