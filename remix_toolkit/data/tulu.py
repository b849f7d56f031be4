"""Pairs as tokens and labels: the Tulu v2 format, loss on the response and its EOS alone.

    <|user|>\\n{prompt}\\n<|assistant|>\\n{response}{eos}

One BOS where the tokenizer has one. Training, recall and generation share the same prompt tokens, so the response is
never trained behind tokens that a prompt alone would not give.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from remix_toolkit.data.tasks import Pair
from remix_toolkit.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 1

CHAT_TEMPLATE = (
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\\n' + message['content'] | trim + eos_token }}{{ '' if loop.last else '\\n' }}"
    "{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] | trim + '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Example:
    """`input_ids` and `labels` of one pair; labels are -100 where no loss is taken."""

    input_ids: list[int]
    labels: list[int]


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    """The tokens in front of a response: BOS, where there is one, and the Tulu prompt."""
    return _ids(tokenizer, f"<|user|>\n{prompt.strip()}\n<|assistant|>\n")


def encode(tokenizer: "PreTrainedTokenizerBase", pair: Pair) -> Example:
    """One pair as the model trains on it.

    TRL's own prompt-completion path moves the mask where a token spans the boundary of prompt and response. Here the
    prompt's tokens are always those of the prompt alone; the response's are those of the joint text, or, where the
    joint text merges across the boundary, those of the response alone. Raises BadInput for a response that holds EOS.
    """
    before = prompt_ids(tokenizer, pair.prompt)
    response = pair.response.strip()
    joint = _ids(tokenizer, f"<|user|>\n{pair.prompt.strip()}\n<|assistant|>\n{response}")
    if joint[: len(before)] == before:
        after = joint[len(before) :]
    else:
        after = tokenizer(response, add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token_id in after:
        raise BadInput(f"the response {response!r} holds {tokenizer.eos_token!r}, which ends a response")
    after = [*after, tokenizer.eos_token_id]
    return Example([*before, *after], [-100] * len(before) + after)


def encode_all(
    tokenizer: "PreTrainedTokenizerBase", pairs: list[Pair], max_length: int | None
) -> tuple[list[Example], int]:
    """Every pair that fits into `max_length` tokens, and how many were dropped because they do not.

    Raises BadInput if nothing is left.
    """
    encoded = [encode(tokenizer, pair) for pair in pairs]
    kept = [example for example in encoded if max_length is None or len(example.input_ids) <= max_length]
    if not kept:
        raise BadInput(
            f"max_length {max_length} drops all {len(pairs)} pairs; the shortest has "
            f"{min((len(example.input_ids) for example in encoded), default=0)} tokens"
        )
    return kept, len(pairs) - len(kept)


def load_tokenizer(
    source: str, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """A base model's tokenizer with the Tulu chat template and a padding token.

    Raises BadInput where it cannot be loaded or has no EOS: the end of a response could not be learnt.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"base {source!r}: its tokenizer cannot be loaded: {_first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise BadInput(f"base {source!r}: its tokenizer has no EOS token, so a response would have no end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # never trained on: labels are padded with -100
    tokenizer.padding_side = "right"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *ids]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
