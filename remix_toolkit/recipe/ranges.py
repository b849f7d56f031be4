"""Which numbers and names a recipe may have: bounds of its own, and what a library would refuse later.

The values in TRAIN and ADAPTER have the right type, and are refused by the optimizer, the scheduler, the data loader or
PEFT only once the model is loaded.
"""

import math
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from remix_toolkit.errors import nearest
from remix_toolkit.recipe.strict import refuse

MOST_ROWS = 10**7
LIMITS = {  # the most that a number or a name may be, and why; no recipe comes near, a slip of the keyboard may
    MOST_ROWS: "a stage's rows are all held in memory, and as many take gigabytes",
    10**9: "nothing here is counted in billions",
    10**15: "no model is as large",
    1000: "that many mixing pairs for each pair of the stage's own",
    100_000: "two sequences of words have to fit into one example",
    2**32 - 1: "NumPy takes no larger seed",
    100: "all of them have to fit into one prompt",
    80: "it is part of a folder's name",
    200: "it stands in tables",
    500: "each stage is measured on the facts of all before it",
}
Count = Annotated[int, Field(gt=0, le=10**9)]
RowCount = Annotated[int, Field(gt=0, le=MOST_ROWS)]
RowNumber = Annotated[int, Field(ge=0, le=MOST_ROWS)]
Ratio = Annotated[float, Field(ge=0, le=1000)]
Size = Annotated[float, Field(gt=0, le=10**15)]  # of a model or a device
Minutes = Annotated[float, Field(gt=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
StageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_+-]*$", max_length=80)]

Range = tuple[str, Callable[[Any], bool]]  # what is expected, and whether a value is that


def _number(least: float, below: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: type(value) in (int, float) and least <= value < below


def _texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))


POSITIVE: Range = ("a number greater than 0", lambda value: _number(0)(value) and value > 0)
FROM_0: Range = ("a number of at least 0", _number(0))
SHARE: Range = ("a number from 0 to just below 1", _number(0, 1))
MAPPING: Range = ("a mapping", lambda value: isinstance(value, dict))
SWITCH: Range = ("true or false", lambda value: isinstance(value, bool))
NAMES: Range = ("a name, or a list of names", _texts)
ARGUMENTS = re.compile(r"[^=,]+=[^=,]*(,[^=,]+=[^=,]*)*")
COMPILE_MODES = ("default", "lite", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # of PyTorch
LOG_LEVELS = ("passive", "debug", "detail", "info", "warning", "error", "critical")

TRAIN: dict[str, Range] = {  # fields of SFTConfig
    **dict.fromkeys(("learning_rate", "per_device_train_batch_size", "max_length", "save_steps"), POSITIVE),
    **dict.fromkeys(("weight_decay", "max_grad_norm", "warmup_steps", "adam_epsilon"), FROM_0),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), SHARE),
    "num_train_epochs": ("a number greater than 0, and at most a million", lambda n: 0 < n <= 10**6),
    "max_steps": (
        "a number greater than 0 (at most a billion), or -1 for whole epochs",
        lambda n: n in range(-1, 10**9 + 1) and n != 0,
    ),
    "save_total_limit": ("at least 2 (a checkpoint is needed until the next one is complete)", _number(2)),
    "neftune_noise_alpha": ("a number from 0 to 1,000", _number(0, 1001)),
    "dataloader_multiprocessing_context": ("fork, spawn or forkserver", ("fork", "spawn", "forkserver").__contains__),
    "dataloader_num_workers": ("a number from 0 to 1,000", _number(0, 1001)),
    "pad_to_multiple_of": ("a number from 1 to 100,000", _number(1, 100_001)),
    "optim_args": ("key=value, with more of them after commas,", lambda text: bool(ARGUMENTS.fullmatch(text))),
    "torch_compile_mode": (f"one of {', '.join(COMPILE_MODES)}", COMPILE_MODES.__contains__),
    "use_liger_kernel": (
        "false, where the package liger-kernel is not installed,",
        lambda on: not on or find_spec("liger_kernel") is not None,
    ),
    **dict.fromkeys(("log_level", "log_level_replica"), (f"one of {', '.join(LOG_LEVELS)}", LOG_LEVELS.__contains__)),
}
ADAPTER: dict[str, Range] = {  # of peft.LoraConfig and peft.OSFConfig
    "peft_type": ("LORA or OSF", ("LORA", "OSF").__contains__),
    "effective_rank": (
        "a share between 0 and 1, or a whole number from 1 to a million",
        lambda value: 0 < value < 1 if type(value) is float else type(value) is int and 0 < value <= 10**6,
    ),
    "r": ("a whole number from 1 to a million", lambda value: type(value) is int and 0 < value <= 10**6),
    "lora_alpha": POSITIVE,
    "lora_dropout": SHARE,
    "bias": ("none, all or lora_only", ("none", "all", "lora_only").__contains__),
    **dict.fromkeys(("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"), NAMES),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), MAPPING),
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out"), SWITCH),
}
REQUIRED = {"peft_type", "r", "lora_alpha", "lora_dropout", "bias"}  # of an adapter's fields, those that cannot be null
OSF = ("peft_type", "effective_rank", "target_modules", "rank_pattern")  # of peft.OSFConfig, those that it looks at


def out_of_range(ranges: Mapping[str, Range], name: str, value: Any) -> str | None:
    """What is wrong with a value, or None."""
    expected, fits = MAPPING if name.endswith("_kwargs") else ranges.get(name, ("", lambda _: True))
    return None if fits(value) else f"is {value!r:.200}; {expected} is expected"


def _check_adapter(adapter: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in adapter.items() if value is not None or name in REQUIRED}
    refuse(adapter, {name: what for name, value in given.items() if (what := out_of_range(ADAPTER, name, value))})
    unused = [name for name in adapter if name not in OSF] if adapter.get("peft_type") == "OSF" else []
    refuse(adapter, {name: f"does nothing under peft_type OSF; {nearest(name, OSF)}" for name in unused})
    return adapter


Adapter = Annotated[dict[str, Any], AfterValidator(_check_adapter)]
