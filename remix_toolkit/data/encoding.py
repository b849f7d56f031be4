"""Pairs as tokens and labels: the Tulu v2 format, with the loss on the response and its EOS alone.

    <|user|>\\n{prompt}\\n<|assistant|>\\n{response}{eos}

There is one BOS if the tokenizer has one; the turns of a dialogue follow one another in the same form. A pair that is
`plain` is prompt, space, response and EOS instead. Training, recall and generation use the same prompt tokens, so that
the response is always trained behind the tokens that a prompt alone gives.

BOS and EOS are the only special tokens that a text gets here. Where the data itself says `<|im_end|>`, or whatever the
tokenizer has, in a prompt, a response or a document, it is encoded as the ordinary text that it is.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from remix_toolkit.data import hub_problem
from remix_toolkit.data.files import one_line
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 1
LONGEST_TOKEN = 1000  # characters; those of Llama 3 have up to 128
MARKERS = ("<|user|>", "<|assistant|>")

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
    """`input_ids` and `labels` of one pair, of the same length; a label is -100 where there is no loss."""

    input_ids: list[int]
    labels: list[int]

    @property
    def trained_tokens(self) -> int:
        """How many of its tokens have a loss."""
        return len(self.labels) - self.labels.count(-100)


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str, plain: bool = False) -> list[int]:
    """The tokens in front of a response: BOS, if there is one, and the prompt in Tulu's format, or as it is."""
    return _with_bos(tokenizer, text_ids(tokenizer, [_turn(prompt, plain)]))[0]


def prompt_start(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens that every prompt in Tulu's format begins with."""
    return _with_bos(tokenizer, text_ids(tokenizer, ["<|user|>\n"]))[0]


def _turn(prompt: str, plain: bool) -> str:
    return prompt.strip() if plain else f"<|user|>\n{prompt.strip()}\n<|assistant|>\n"


def text_ids(tokenizer: "PreTrainedTokenizerBase", texts: list[str], ends: int = 0) -> list[list[int]]:
    """The tokens of some texts, in which the format itself has put EOS so often; special tokens are spelled out.

    A text without any is encoded as the tokenizer does it; in one with more, EOS is spelled out like the others. Raises
    BadInput where the tokenizer cannot do that.
    """
    control = _control_tokens(tokenizer)
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for number, text in enumerate(texts):
        row = rows[number]
        if not control.isdisjoint(row) and sum(token in control for token in row) > ends:
            row = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            if not control.isdisjoint(row):
                raise BadInput(
                    f"{text[-200:]!r}: the base's tokenizer makes control tokens of it, even as ordinary text"
                )
            rows[number] = row
    return rows


def encode(tokenizer: "PreTrainedTokenizerBase", pair: Pair) -> Example:
    """One pair as the model trains on it; of a dialogue, every assistant turn is trained on.

    TRL's own prompt-completion path moves the mask where a token spans the boundary of prompt and response. Here the
    prompt's tokens are always those of the prompt alone; the response's are those of the joint text or, where the joint
    text merges across the boundary, those of the response alone.
    """
    text = ""  # of the turns so far
    input_ids: list[int] = []
    labels: list[int] = []
    for ends, (prompt, response) in enumerate((*pair.history, (pair.prompt, pair.response))):
        turn, response = _turn(prompt, pair.plain), f"{' ' * pair.plain}{response.strip()}"
        before, joint = _with_bos(tokenizer, text_ids(tokenizer, [text + turn, text + turn + response], ends))
        if before[: len(input_ids)] != input_ids:  # together with this turn, the earlier ones are split differently
            before = input_ids + text_ids(tokenizer, [f"\n{turn}"])[0]
        after = joint[len(before) :]
        if joint[: len(before)] != before:
            [after] = text_ids(tokenizer, [response])
        after = [*after, tokenizer.eos_token_id]
        labels += [-100] * (len(before) - len(input_ids)) + after
        input_ids = before + after
        text += f"{turn}{response}{tokenizer.eos_token}\n"
    return Example(input_ids, labels)


def encode_all(
    tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[Pair], max_length: int | None
) -> tuple[list[Example | None], Counter[str]]:
    """Every pair as an example, or None where it is dropped, and the number of dropped pairs by reason.

    Dropped are pairs of more than `max_length` tokens. Raises BadInput where none is left.
    """
    examples: list[Example | None] = []
    dropped: Counter[str] = Counter()
    too_long: list[int] = []
    for pair in pairs:
        example: Example | None = None
        if max_length is None or len(pair.text) <= LONGEST_TOKEN * max_length:  # else there is no need to encode it
            example = encode(tokenizer, pair)
            if max_length is not None and len(example.input_ids) > max_length:
                too_long.append(len(example.input_ids))
                example = None
        if example is None:
            dropped[f"longer than {max_length} tokens"] += 1
        examples.append(example)
    if pairs and not any(examples):
        shortest = f"; the shortest has {min(too_long)} tokens" if too_long else ""
        raise BadInput(f"max_length {max_length} drops all {len(pairs)} pairs{shortest}")
    return examples, dropped


def load_tokenizer(
    source: str, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """A base model's tokenizer with the Tulu chat template and a padding token.

    Raises BadInput where it cannot be loaded or has no EOS token, without which no end of a response can be learned.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        what = f"base {source!r}: its tokenizer cannot be loaded"
        if os.path.exists(source):
            raise BadInput(f"{what}: {one_line(error)}") from error
        raise hub_problem.failure(what, error, "model", source) from error
    if tokenizer.eos_token_id is None:
        raise BadInput(f"base {source!r}: its tokenizer has no EOS token, so no response would have an end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # never trained on: labels are padded with -100
    tokenizer.padding_side = "right"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _with_bos(tokenizer: "PreTrainedTokenizerBase", rows: list[list[int]]) -> list[list[int]]:
    return rows if tokenizer.bos_token_id is None else [[tokenizer.bos_token_id, *ids] for ids in rows]


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """The special tokens that are looked for: not the one for what is unknown, nor the format's markers, if special."""
    added = tokenizer.added_tokens_decoder
    special = {token for token, added in added.items() if added.special and added.content not in MARKERS}
    return frozenset(special - {tokenizer.unk_token_id})
