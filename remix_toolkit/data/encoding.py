"""Pairs as tokens and labels: the Tulu v2 format, with the loss on the response and its EOS alone.

    <|user|>\\n{prompt}\\n<|assistant|>\\n{response}{eos}

There is one BOS if the tokenizer has one; the turns of a dialogue follow one another in the same form. Training, recall
and generation use the same prompt tokens, so that the response is always trained behind the tokens that a prompt alone
gives.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from remix_toolkit.data.files import one_line
from remix_toolkit.data.pair import Pair
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
    """`input_ids` and `labels` of one pair, of the same length; a label is -100 where there is no loss."""

    input_ids: list[int]
    labels: list[int]

    @property
    def trained_tokens(self) -> int:
        """How many of its tokens have a loss."""
        return len(self.labels) - self.labels.count(-100)


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    """The tokens in front of a response: BOS, if there is one, and the prompt in Tulu's format."""
    return _ids(tokenizer, [f"<|user|>\n{prompt.strip()}\n<|assistant|>\n"])[0]


def encode(tokenizer: "PreTrainedTokenizerBase", pair: Pair) -> Example:
    """One pair as the model trains on it; of a dialogue, every assistant turn is trained on.

    TRL's own prompt-completion path moves the mask where a token spans the boundary of prompt and response. Here the
    prompt's tokens are always those of the prompt alone; the response's are those of the joint text or, where the joint
    text merges across the boundary, those of the response alone. Raises BadInput for a response that contains EOS,
    which would end it.
    """
    text = ""  # of the turns so far
    input_ids: list[int] = []
    labels: list[int] = []
    for prompt, response in (*pair.history, (pair.prompt, pair.response)):
        turn, response = f"<|user|>\n{prompt.strip()}\n<|assistant|>\n", response.strip()
        before, joint = _ids(tokenizer, [text + turn, text + turn + response])
        if before[: len(input_ids)] != input_ids:  # together with this turn, the earlier ones are split differently
            before = input_ids + tokenizer(f"\n{turn}", add_special_tokens=False)["input_ids"]
        after = joint[len(before) :]
        if joint[: len(before)] != before:
            after = tokenizer(response, add_special_tokens=False)["input_ids"]
        if tokenizer.eos_token_id in after:
            raise BadInput(f"the response {response[:200]!r} contains {tokenizer.eos_token!r}, which would end it")
        after = [*after, tokenizer.eos_token_id]
        labels += [-100] * (len(before) - len(input_ids)) + after
        input_ids = before + after
        text += f"{turn}{response}{tokenizer.eos_token}\n"
    return Example(input_ids, labels)


def encode_all(
    tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[Pair], max_length: int | None
) -> tuple[list[Example | None], Counter[str]]:
    """Every pair as an example, or None where it is dropped, and the number of dropped pairs by reason.

    Dropped are pairs of more than `max_length` tokens, and upstream rows whose response contains EOS. Such a row of the
    user's own raises BadInput, and so do pairs of which none is left.
    """
    examples: list[Example | None] = []
    dropped: Counter[str] = Counter()
    too_long: list[int] = []
    for pair in pairs:
        example: Example | None = None
        try:
            example = encode(tokenizer, pair)
        except BadInput:
            if pair.source == "pairs":
                raise
            dropped[f"holds {tokenizer.eos_token}"] += 1
        if example and max_length is not None and len(example.input_ids) > max_length:
            dropped[f"longer than {max_length} tokens"] += 1
            too_long.append(len(example.input_ids))
            example = None
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
        raise BadInput(f"base {source!r}: its tokenizer cannot be loaded: {one_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise BadInput(f"base {source!r}: its tokenizer has no EOS token, so no response would have an end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # never trained on: labels are padded with -100
    tokenizer.padding_side = "right"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return rows if tokenizer.bos_token_id is None else [[tokenizer.bos_token_id, *ids] for ids in rows]
