"""What remedies do while a stage trains: weights that stay, terms of the loss, the gradient's place.

A remedy keeps no state: what it needs follows from the model that the stage started from, its data, the seed and the
step. So a stage that resumes from a checkpoint goes on as if it had not stopped.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.random import fork_rng
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from remix_toolkit.data.encoding import Example, encode, prompt_start
from remix_toolkit.evaluate.forward import divergence, model_inputs
from remix_toolkit.evaluate.gradients import LAYER
from remix_toolkit.recipe.remedies import KL, Finch, Freeze

if TYPE_CHECKING:
    from remix_toolkit.stage.prepare import PreparedStage
    from remix_toolkit.stage.train import StageTrainer

Term = Callable[[], None]  # adds its gradient to that of the loss
Parameters = list[torch.nn.Parameter]


def attach(
    trainer: "StageTrainer",
    prepared: "PreparedStage",
    tokenizer: PreTrainedTokenizerBase,
    load_start: Callable[[], PreTrainedModel],
) -> None:
    """Have a trainer whose model is the one that the stage starts from do what the stage's remedies say."""
    stage, data, model = prepared.stage, prepared.data, cast(PreTrainedModel, trainer.model)
    seed = f"{prepared.recipe.seed} {prepared.node.position}"
    if stage.freeze:
        freeze(model, stage.freeze, random.Random(f"freeze {seed}"))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    trainer.rho = stage.sam.rho if stage.sam else None
    if stage.finch:
        follow = FollowLoss(trainer, stage.finch)
        trainer.add_callback(follow)
        trainer.terms.append(follow.set_rate)
    if stage.l2:
        trainer.terms.append(pull(parameters, stage.l2.weight))
    if stage.ewc:
        examples = [encode(tokenizer, fact) for fact in data.earlier_facts(prepared.recipe, prepared.node.position)]
        trainer.terms.append(pull(parameters, stage.ewc.weight, fisher(model, parameters, examples)))
    if kl := stage.kl:
        start = load_start().to(model.device).eval().requires_grad_(False)  # type: ignore[arg-type]
        facts = len(data.facts)
        if kl.on == "generated":
            rows = sampled(start, tokenizer, prepared.recipe.seed)
        else:
            rows = data.examples[facts:] if kl.on == "mixing" else data.examples[:facts]

        def hold() -> None:
            rng = random.Random(f"kl {seed} {trainer.state.global_step}")
            drawn = rng.sample(rows, min(trainer.args.train_batch_size, len(rows)))
            (kl.weight * divergence(model, start, tokenizer, drawn, kl.on == "prompts").mean()).backward()

        trainer.terms.append(hold)


def sampled(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, seed: int) -> list[Example]:
    """Texts that a model samples behind the start of a prompt, each up to its EOS: the same under the same seed."""
    start = prompt_start(tokenizer)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=0, max_new_tokens=KL.TOKENS, eos_token_id=eos, pad_token_id=pad
    )
    with fork_rng():  # training goes on with the random numbers that it would have had
        torch.manual_seed(seed)
        rows = model.generate(**model_inputs(model, tokenizer, [start] * KL.TEXTS))  # type: ignore[operator]
    new = [row[: row.index(eos) + 1] if eos in row else row for row in rows[:, len(start) :].tolist()]
    return [Example(start + text, [-100] * len(start) + text) for text in new]


def freeze(model: PreTrainedModel, spec: Freeze, rng: random.Random) -> None:
    """Leave some weights as they are."""
    modules = {name: module for name, module in model.named_modules() if list(module.parameters(recurse=False))}
    layer_of = {name: int(match[1]) for name in modules if (match := LAYER.search(f".{name}."))}
    frozen = [model.get_input_embeddings()] if spec.embeddings else []
    frozen += [modules[name] for name, layer in layer_of.items() if layer < spec.layers]
    if spec.half:
        blocks: dict[str, list[str]] = defaultdict(list)  # attention, MLP, and the norms beside them, of each layer
        for name in layer_of:
            blocks[name.rpartition(".")[0]].append(name)
        for block, names in blocks.items():
            count = (len(names) + layer_of[names[0]] % 2) // 2  # of an odd number, one more in every other layer
            frozen += [modules[name] for name in rng.sample(blocks[block], count)]
    for module in frozen:
        module.requires_grad_(False)


def pull(parameters: Parameters, weight: float, importance: Sequence[torch.Tensor] | None = None) -> Term:
    """Half the squared distance from these weights as they are now, each square times its importance."""
    start = [parameter.detach().clone() for parameter in parameters]

    def add() -> None:
        for number, parameter in enumerate(parameters):
            assert parameter.grad is not None
            moved = parameter.detach() - start[number]
            parameter.grad.add_(moved if importance is None else moved * importance[number], alpha=weight)

    return add


def fisher(model: PreTrainedModel, parameters: Parameters, examples: Sequence[Example]) -> list[torch.Tensor]:
    """The mean square of each weight's gradient over examples: the diagonal of the empirical Fisher information."""
    model.eval()  # training goes on in train mode
    squares = [torch.zeros_like(parameter) for parameter in parameters]
    for example in examples:
        ids, labels = (torch.tensor([row], device=model.device) for row in (example.input_ids, example.labels))
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        for square, gradient in zip(squares, torch.autograd.grad(loss, parameters), strict=True):
            square.addcmul_(gradient, gradient, value=1 / len(examples))
    return squares


@contextmanager
def uphill(parameters: Parameters, rho: float) -> Iterator[None]:
    """For a while, the weights are `rho` further along their gradient, which is given up."""
    norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    before = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.add_(parameter.grad * (rho / (norm + 1e-12)))
            parameter.grad = None
    yield
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)


class FollowLoss(TrainerCallback):
    """FINCH's rate for each optimizer step; the loss of the steps before is the trainer's own log, which resumes."""

    SMOOTHING = 0.9

    def __init__(self, trainer: "StageTrainer", spec: Finch) -> None:
        self.trainer, self.spec, self.rate = trainer, spec, 0.0
        self.smoothed: float | None = None

    def smooth(self, loss: float) -> float:
        """The smoothed loss after a step with this loss."""
        return loss if self.smoothed is None else self.SMOOTHING * self.smoothed + (1 - self.SMOOTHING) * loss

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        for entry in state.log_history:
            self.smoothed = self.smooth(entry["loss"]) if "loss" in entry else self.smoothed

    def set_rate(self) -> None:
        """Set the rate of this step, from its own loss and those before."""
        loss = self.smooth(float(sum(self.trainer.losses)))
        self.rate = min(self.spec.most, self.spec.kappa / max(loss, 1e-12) ** 0.5)
        assert self.trainer.optimizer
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = self.rate

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if "loss" in (logs or {}):
            self.smoothed = self.smooth(logs["loss"])
            state.log_history[-1]["learning_rate"] = self.rate  # the scheduler's, which is not used, was noted
