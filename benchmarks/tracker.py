"""The memory that `remix plan` estimates against what torch's FSDP memory tracker counts, without a GPU.

    python benchmarks/tracker.py                    # the table: about an hour on one core
    python benchmarks/tracker.py --json             # for machines
    python benchmarks/tracker.py --only "llama3-8b, LoRA, 4 GPUs"   # the other rows as docs/performance.json has them

Two steps of training at the real shape with fake tensors, which have sizes and no content, on a process group that
only pretends: weights in the stage's precision, FSDP2 on every layer as accelerate applies it, a loss on every column,
AdamW. The peak is that of the second forward and backward pass; the optimizer's own temporaries, and what the allocator
rounds up, are not in it. Of QLoRA, a frozen matrix is half a byte a weight, and is unpacked to bf16 where it is used;
bitsandbytes itself has no fake tensors. A count takes minutes, an estimate none: it is that of the code as it is.
"""

import argparse
import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.table import Table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.hooks import RemovableHandle
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from remix_toolkit.graph import memory
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.recipe.schema import Recipe

BOUND = 0.15  # how far the estimate may be from the count
HEAD = 128  # the size of a head in both models
LENGTH = 256  # tokens of an example, all of them trained on
KEPT = Path(__file__).parent.parent / "docs" / "performance.json"
LORA = ["adapter={r: 16}"]
TRAINED = {
    "all weights": [],
    "all weights, pure_bf16": ["precision=pure_bf16"],
    "LoRA": LORA,
    "QLoRA": [*LORA, "quantization={load_in_4bit: true}"],
}


class Row(NamedTuple):
    """One stage of training, on so many GPUs."""

    profile: str
    trained: str
    gpus: int
    checkpointing: bool = False

    @property
    def name(self) -> str:
        gpus = "1 GPU" if self.gpus == 1 else f"{self.gpus} GPUs"
        return f"{self.profile}, {self.trained}, {gpus}" + ", checkpointing" * self.checkpointing

    @property
    def recipe(self) -> Recipe:
        return load_recipe("kvr", self.profile, [*TRAINED[self.trained], "accelerate_config=null"])


ROWS = {
    row.name: row
    for row in (
        Row("llama3-8b", "all weights", 4),
        Row("llama3-8b", "all weights", 4, checkpointing=True),
        Row("llama3-8b", "all weights", 2, checkpointing=True),
        Row("llama3-8b", "all weights, pure_bf16", 2),
        Row("llama3-8b", "all weights, pure_bf16", 1, checkpointing=True),
        Row("llama3-8b", "LoRA", 4),
        Row("llama3-8b", "LoRA", 2),
        Row("llama3-8b", "LoRA", 1),
        Row("llama3-8b", "QLoRA", 1),
        Row("mistral-7b", "all weights", 4),
        Row("mistral-7b", "LoRA", 1),
        Row("mistral-7b", "QLoRA", 1),
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--only", choices=ROWS, help="count this row", metavar="ROW")
    parser.add_argument("--count", choices=ROWS, help=argparse.SUPPRESS)  # in a process of its own: one group in each
    options = parser.parse_args()
    if options.count:
        print(json.dumps(count(ROWS[options.count])))
        return 0
    counts = {}
    if options.only:
        kept = json.loads(KEPT.read_text(encoding="utf-8")).get("tracker", {"rows": {}})
        counts = {name: row["counted_parts"] for name, row in kept["rows"].items()}
    for name in [options.only] if options.only else ROWS:
        line = [sys.executable, __file__, "--count", name]
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
        counts[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, counts[name], file=sys.stderr, flush=True)
    rows = {name: compared(row, counts[name]) for name, row in ROWS.items() if name in counts}
    if options.json:
        print(json.dumps({"length": LENGTH, "rows": rows}, indent=1))
    else:
        table = Table("what", "estimated GB", "counted GB", "ratio")
        for name, row in rows.items():
            gigabytes = [f"{row[which] / memory.GB:.1f}" for which in ("estimated", "counted")]
            table.add_row(name, *gigabytes, f"{row['estimated'] / row['counted']:.2f}")
        Console().print(table)
    return int(any(abs(row["estimated"] / row["counted"] - 1) > BOUND for row in rows.values()))


def compared(row: Row, counted: dict[str, float]) -> dict[str, Any]:
    """Bytes as estimated and as counted, each with its parts."""
    needed = estimate(row)
    return {
        "estimated": needed.total(row.checkpointing),
        "counted": counted["Total"],
        "estimated_parts": needed.parts(row.checkpointing),
        "counted_parts": counted,
    }


def estimate(row: Row) -> memory.Memory:
    """What the plan says."""
    needed = memory.estimate(row.recipe, "stage1", LENGTH, (row.gpus > 1, row.gpus))
    assert needed
    return needed


def count(row: Row) -> dict[str, float]:
    """The tracker's bytes at the peak of a step's forward and backward passes, by kind."""
    recipe, processes = row.recipe, row.gpus
    torch.distributed.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    mesh = init_device_mesh("cpu", (processes,))
    with torch.device("meta"):
        model = build(recipe, row.checkpointing)
    with FakeTensorMode(allow_non_fake_inputs=True):
        allocate(model)
        if processes > 1:
            half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
            policy = half if recipe.precision == "bf16" else MixedPrecisionPolicy()
            layers = [module for module in model.modules() if isinstance(module, LlamaDecoderLayer)]
            for module in [*layers, model]:
                fully_shard(module, mesh=mesh, mp_policy=policy)
        optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], foreach=False)
        tracker: Any = FSDPMemTracker(model, optimizer) if processes > 1 else MemTracker()
        if processes > 1:
            tracker.track_inputs(())
        else:
            tracker.track_external(model, optimizer)
        with tracker:
            for _ in range(2):
                tracker._peak_mem.clear()  # that of an optimizer's step is larger than it really is
                for _ in range(2 if estimate(row).accumulates else 1):
                    tracker.reset_mod_stats()
                    train(recipe, model, min(8, recipe.global_batch_size // processes))
                peak = tracker.get_tracker_snapshot("peak")
                optimizer.step()
                optimizer.zero_grad()
    (parts,) = peak.values()
    return {str(kind).rpartition(".")[2]: float(value) for kind, value in parts.items() if value}


def train(recipe: Recipe, model: torch.nn.Module, batch: int) -> None:
    """A forward and a backward pass, with the loss on every column."""
    tokens = torch.zeros(batch, LENGTH, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits = model(input_ids=tokens, logits_to_keep=torch.arange(LENGTH), use_cache=False).logits
        loss = ForCausalLMLoss(logits, None, logits.shape[-1], shift_labels=tokens)
    del logits
    loss.backward()


def build(recipe: Recipe, checkpointing: bool) -> torch.nn.Module:
    """The model as a stage trains it."""
    shape = recipe.shape
    assert shape
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // HEAD,
        num_key_value_heads=shape.key_value // HEAD,
    )
    frozen_in_half = recipe.precision != "fp32" and recipe.adapter is not None
    torch.set_default_dtype(torch.bfloat16 if frozen_in_half or recipe.precision == "pure_bf16" else torch.float32)
    model: Any = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if recipe.quantization:
        for layer in model.model.layers:
            for parent in (layer.self_attn, layer.mlp):
                for name, linear in parent.named_children():
                    if isinstance(linear, torch.nn.Linear):
                        setattr(parent, name, Packed(linear))
    if recipe.adapter:
        model = get_peft_model(model, LoraConfig(r=recipe.adapter["r"], target_modules="all-linear"))
    trained: torch.nn.Module = model.train()
    return trained


def allocate(model: torch.nn.Module) -> None:
    """Give every weight and buffer a storage."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                empty = torch.empty_like(weight, device="cpu")
                module._parameters[name] = allocated = torch.nn.Parameter(empty, requires_grad=weight.requires_grad)
                if not weight.requires_grad:  # the tracker asks every weight for its gradient
                    for hook in ("register_hook", "register_post_accumulate_grad_hook"):
                        setattr(allocated, hook, no_hook)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu")


def no_hook(hook: Any) -> RemovableHandle:
    """In place of a hook for a gradient that never comes."""
    return RemovableHandle(OrderedDict())


class Packed(torch.nn.Linear):
    """A frozen matrix of four bits a weight."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        packed = torch.empty(linear.weight.numel() // 2, dtype=torch.uint8)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = Unpacked.apply(hidden, self.weight, self.out_features)
        return product


class Unpacked(torch.autograd.Function):
    """A product with a packed matrix, which is unpacked for each pass."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, packed: torch.Tensor, out: int) -> torch.Tensor:
        ctx.save_for_backward(packed)
        ctx.size = (out, hidden.shape[-1])
        return hidden.bfloat16() @ torch.empty(ctx.size, dtype=torch.bfloat16).T

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradient @ torch.empty(ctx.size, dtype=torch.bfloat16), None, None


if __name__ == "__main__":
    sys.exit(main())
