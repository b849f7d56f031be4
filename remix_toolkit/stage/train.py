"""Training one stage with TRL's SFTTrainer: the model, its settings, the paper's loss and order, safe checkpoints.

What TRL does is left to TRL. Four small things differ: the loss is transformers' own, with the output head on trained
positions only; the order is new each epoch, in whole global batches, and the same for any number of processes; training
stops below a loss; and each complete checkpoint is marked (the last two are in callbacks.py).
"""

from collections.abc import Iterator, Sequence
from itertools import chain, count, pairwise
from pathlib import Path
from typing import Any, Literal, cast

import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    get_scheduler,
)
from transformers.trainer_pt_utils import AcceleratorConfig
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from remix_toolkit import store
from remix_toolkit.data import hub_problem
from remix_toolkit.data.encoding import Example
from remix_toolkit.disk import delete
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.base import is_main_process
from remix_toolkit.recipe.schema import Recipe, Stage
from remix_toolkit.recipe.setup import Dtype
from remix_toolkit.recipe.sft_fields import device_batch, sets_saving
from remix_toolkit.recipe.training import Match
from remix_toolkit.records import StageRecord
from remix_toolkit.stage import adapter, private_api, remedies
from remix_toolkit.stage.callbacks import EndWithoutSave, MarkComplete, SaveByTime, Sharded, StopBelow
from remix_toolkit.stage.data import NONE_REDRAWN, Redrawn, StageData

DTYPES: dict[Dtype | Literal["auto"], Any] = {"fp32": torch.float32, "bf16": torch.bfloat16, "auto": "auto"}


def load_model(
    source: str, revision: str | None, dtype: Dtype | Literal["auto"], init: dict[str, Any]
) -> PreTrainedModel:
    """A causal language model in a dtype (or "auto", as saved), every weight of it from the files.

    transformers fills in a missing tensor with random numbers and a warning; here that is an error, and so is a
    published stage that is not as it was published. Raises BadInput.
    """
    if is_main_process():  # whose failure ends the others
        store.verify_model(Path(source))
    settings = {"dtype": DTYPES[dtype], **init}
    model: PreTrainedModel
    loading: dict[str, Any]
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            source, revision=revision, output_loading_info=True, **settings
        )
    except Exception as error:  # a missing file, a cut-off shard and an unknown architecture each raise another kind
        what = f"model {source!r} cannot be loaded"
        if Path(source).exists():
            raise BadInput(f"{what}: {type(error).__name__}: {error}") from error
        raise hub_problem.failure(what, error, "model", source) from error
    lacking = sorted(loading["missing_keys"]) + sorted(str(key) for key in loading["mismatched_keys"])
    if lacking:
        raise BadInput(f"model {source!r} is incomplete: its files lack {len(lacking)} tensors, such as {lacking[0]}")
    return model


def load_start(source: str, revision: str | None, dtype: Dtype, init: dict[str, Any]) -> PreTrainedModel:
    """The model that a stage starts from, as `load_model` loads it.

    Under FSDP, only the first process of a machine reads the weights. The others get theirs when the model is sharded;
    until then they have addresses for them, by which accelerate tells them apart, and no memory behind.
    """
    if "quantization_config" in init or not private_api.is_given_weights():
        return load_model(source, revision, dtype, init)
    model = load_model(source, revision, dtype, init | {"device_map": "meta"})
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.to_empty(device="cpu")
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    model.tie_weights()
    return model


def sft_config(
    recipe: Recipe,
    stage: Stage,
    output_dir: Path,
    world_size: int,
    use_cpu: bool | None = None,
    checkpointing: bool = False,
) -> SFTConfig:
    """The stage's SFTConfig: the recipe's `train` and what follows from the rest of the recipe.

    It runs on an accelerator where there is one, unless `use_cpu` says otherwise. `checkpointing`: activations are
    computed again in the backward pass, by FSDP itself where that is what was launched.

    Raises BadInput where the global batch is no multiple of what the devices take at once, or SFTConfig refuses.
    """
    # The profile says what a device can take at once; a smaller global batch needs no more than its share.
    per_device = min(device_batch(stage.train), max(1, recipe.global_batch_size // world_size))
    accumulated, rest = divmod(recipe.global_batch_size, per_device * world_size)
    if rest:
        raise BadInput(
            f"{recipe.name}: global_batch_size {recipe.global_batch_size} is no multiple of "
            f"per_device_train_batch_size {per_device} x {world_size} processes"
        )
    settings = {
        "save_strategy": "steps" if sets_saving(stage.train) else "no",
        "report_to": "none",
        **stage.train,
        "output_dir": str(output_dir),
        "seed": recipe.seed,
        "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": accumulated,
        "average_tokens_across_devices": True,
        "activation_checkpointing": checkpointing and not private_api.fsdp_requested(),
        "bf16": recipe.precision == "bf16",
        "use_cpu": not torch.accelerator.is_available() if use_cpu is None else use_cpu,
        "dataloader_drop_last": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "max_length": None,  # what is too long was dropped when the data was built; TRL would cut it
        "packing": False,
        "completion_only_loss": False,  # labels come ready-made
        "model_init_kwargs": None,  # the model is loaded here, not by TRL
        "logging_steps": 1,  # the loss curve and the stop read the loss of every step, not a mean over steps
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
    }
    try:
        args = private_api.sft_config(**settings)
        no_optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
        specific = args.lr_scheduler_kwargs  # which else are refused in the middle
        get_scheduler(args.lr_scheduler_type, no_optimizer, 1, 2, specific)  # type: ignore[arg-type]
    except (ImportError, OSError, ValueError, TypeError) as error:  # OSError: a file that a field names
        raise BadInput(f"{recipe.name}: train: SFTConfig refuses: {error}") from error
    if private_api.fsdp_requested():
        private_api.configure_fsdp(checkpointing)
        # Else each device would keep all gradients, 16 GB of an 8B model, until the last of a step's batches.
        config = cast(AcceleratorConfig, args.accelerator_config)  # SFTConfig makes one of whatever it is given
        accumulation = config.gradient_accumulation_kwargs or {}
        config.gradient_accumulation_kwargs = {"sync_each_batch": True, **accumulation}
    private_api.use_one_device(args)  # several GPUs are for accelerate launch
    return args


class Order(Sampler[int]):
    """A new permutation each epoch, cut to whole global batches; it depends on the seed and the epoch alone.

    Where a global batch is more than a device takes at once, it is sorted from the longest example to the shortest:
    each part is padded to its own longest, and the step is the same.
    """

    def __init__(
        self, trainer: "StageTrainer", lengths: Sequence[int], global_batch: int, redrawn: Redrawn = NONE_REDRAWN
    ) -> None:
        self.trainer, self.lengths, self.batch, self.redrawn = trainer, lengths, global_batch, redrawn

    def __len__(self) -> int:
        return (len(self.lengths) - self.redrawn.pool + self.redrawn.drawn) // self.batch * self.batch

    def __iter__(self) -> Iterator[int]:
        args = self.trainer.args
        epoch = int(self.trainer.state.epoch or 0)  # a resumed run is in the middle of one
        in_parts = args.train_batch_size < self.batch
        for batch in epoch_batches(len(self.lengths), args.seed, epoch, self.batch, self.redrawn):
            yield from sorted(batch, key=lambda i: -self.lengths[i]) if in_parts else batch


def epoch_batches(
    examples: int, seed: int, epoch: int, global_batch: int, redrawn: Redrawn = NONE_REDRAWN
) -> list[list[int]]:
    """The examples of one epoch by number: those of each optimizer step.

    Where some are drawn anew for each epoch, the others are in the order that they would have if these were not.
    """
    rng = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    always = examples - redrawn.pool
    order = torch.randperm(always + redrawn.drawn, generator=rng)
    drawn = always + torch.randperm(redrawn.pool, generator=rng)[: redrawn.drawn]
    order = torch.cat([torch.arange(always), drawn])[order]
    batches: list[list[int]] = order[: len(order) // global_batch * global_batch].view(-1, global_batch).tolist()
    return batches


def tokens_by_step(recipe: Recipe, examples: Sequence[Example], redrawn: Redrawn = NONE_REDRAWN) -> Iterator[int]:
    """How many tokens with a loss training has seen after each optimizer step, without end."""
    tokens = [example.trained_tokens for example in examples]
    seen = 0
    for epoch in count():
        for batch in epoch_batches(len(tokens), recipe.seed, epoch, recipe.global_batch_size, redrawn):
            seen += sum(tokens[i] for i in batch)
            yield seen


def matched_steps(recipe: Recipe, match: Match, data: StageData, runs: Path) -> int:
    """The optimizer steps of a compute-matched control: as many as another stage took, or as give it as many tokens.

    Raises BadInput where the other stage is not published yet.
    """
    folder = store.find_stage(runs, match.other)
    if folder is None:
        raise BadInput(f"{recipe.name}: match: the stage {match.other} is not published in {runs} yet: run it first")
    other = StageRecord.read(folder / "stage.json")
    if match.steps_of:
        return other.steps
    wanted = other.trained_tokens
    steps = enumerate(pairwise(chain([0], tokens_by_step(recipe, data.examples, data.redrawn))), start=1)
    step, before, after = next((step, before, after) for step, (before, after) in steps if after >= wanted)
    return step if after - wanted <= wanted - before else max(1, step - 1)


class StageTrainer(SFTTrainer):
    """SFTTrainer with the paper's order, and transformers' own loss in place of TRL's chunked one."""

    # The loss below is a mean over all trained tokens of the whole optimizer step.
    loss_is_scaled_for_ga = True  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rho: float | None = None  # of sharpness-aware minimization
        self.terms: list[remedies.Term] = []
        self.losses: list[torch.Tensor] = []  # of the batches of this optimizer step

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """The gradient of one batch and, where it completes an optimizer step, of what remedies add to the loss."""
        loss: torch.Tensor = super().training_step(model, dict(inputs), num_items_in_batch)
        if self.rho is not None:
            with remedies.uphill([p for p in model.parameters() if p.requires_grad], self.rho):
                super().training_step(model, dict(inputs), num_items_in_batch)
        self.losses.append(loss)
        if self.accelerator.sync_gradients:
            for add in self.terms:
                add()
            self.losses.clear()
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean loss over the trained tokens of an optimizer step, all processes and micro-batches together.

        Only columns of the batch in which some row has a trained token go through the output head.
        """
        labels = inputs.pop("labels")
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)  # position t predicts token t + 1
        columns = (targets != -100).any(dim=0).nonzero().squeeze(-1)
        outputs = model(**inputs, logits_to_keep=columns, use_cache=False)
        plain = self.accelerator.unwrap_model(model)
        loss = plain.loss_function(
            outputs.logits,
            labels=None,
            vocab_size=outputs.logits.shape[-1],
            num_items_in_batch=num_items_in_batch,
            shift_labels=targets[:, columns].contiguous(),
        )
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # gradients are averaged over processes, but have to be summed
        return (loss, outputs) if return_outputs else loss


def build_trainer(
    recipe: Recipe,
    stage: Stage,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: list[Example],
    args: SFTConfig,
    redrawn: Redrawn = NONE_REDRAWN,
) -> StageTrainer:
    """An SFTTrainer over ready-made tokens and labels. Raises BadInput for settings that TRL or PEFT refuse."""
    peft_config = adapter.peft_config(recipe.adapter)
    callbacks: list[TrainerCallback] = [StopBelow(stage.stop)] if stage.stop else []
    callbacks += [EndWithoutSave(), MarkComplete()]
    if not sets_saving(stage.train):
        callbacks.append(SaveByTime(recipe.checkpoint_minutes))
    if private_api.fsdp_requested():
        callbacks.append(Sharded())
    if recipe.is_osf:
        model = model.to(args.device)  # type: ignore[arg-type]  # where its matrices are decomposed
        callbacks.append(adapter.KeepDirections())
    try:
        trainer = StageTrainer(
            model=model,
            args=args,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"input_ids": e.input_ids, "labels": e.labels} for e in examples]),
            peft_config=peft_config,
            callbacks=callbacks,
        )
    except (
        AttributeError,
        ImportError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # such as a tracker that is not installed
        raise BadInput(f"{recipe.name}: SFTTrainer refuses: {error}") from error
    if recipe.adapter:
        adapter.train_in_fp32(trainer.model)
    if recipe.is_osf and not trainer.get_num_trainable_parameters():
        raise BadInput(f"{recipe.name}: adapter: trains no weight: take a smaller effective_rank (or rank_pattern)")
    lengths = [len(example.input_ids) for example in examples]
    private_api.set_train_order(trainer, Order(trainer, lengths, recipe.global_batch_size, redrawn))
    trainer.remove_callback(PrinterCallback)
    return trainer


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; newer ones (a crash in the middle of writing, or damaged since) are deleted.

    All processes call it together and get the same answer. Raises BadInput where it is sharded and this run is not, or
    the other way round.
    """

    def newest() -> Path | None:
        steps = {int(path.name.removeprefix("checkpoint-")): path for path in folder.glob("checkpoint-*")}
        return steps[max(steps)] if steps else None

    state = PartialState()
    if state.is_main_process:
        while (last := newest()) and not store.is_whole(last, "the stage goes on from the checkpoint before, or anew"):
            delete(last)
    state.wait_for_everyone()
    last = newest()
    if last and private_api.in_shards(last) != private_api.fsdp_requested():
        written, here = ("in shards", "is not") if private_api.in_shards(last) else ("whole", "is")
        raise BadInput(
            f"{last}: was written {written}, and this run {here} under FSDP, which shards it: go on with the "
            f"accelerate_config that the stage was begun with, or delete {folder} to train it anew"
        )
    return last
