"""Pairs as tokens and labels: the Tulu v2 format, loss on the response and its EOS alone.

    <|user|>\\n{prompt}\\n<|assistant|>\\n{response}{eos}

One BOS where the tokenizer has one; the turns of a dialogue follow one another in the same form. Training, recall and
generation share the same prompt tokens, so the response is never trained behind tokens that a prompt alone would not
give.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from remix_toolkit.data.files import first_line
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 1
CHUNK = 256  # pairs tokenized at a time: until it is done, the tokenizer keeps more of a token than its number

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
    return _ids(tokenizer, [f"<|user|>\n{prompt.strip()}\n<|assistant|>\n"])[0]


def encode(tokenizer: "PreTrainedTokenizerBase", pair: Pair) -> Example:
    """One pair as the model trains on it. Raises BadInput for a response that holds EOS."""
    (example,) = encode_batch(tokenizer, [pair])
    if isinstance(example, BadInput):
        raise example
    return example


def encode_batch(tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[Pair]) -> list[Example | BadInput]:
    """Pairs as the model trains on them; of a dialogue, every assistant turn is trained on.

    TRL's own prompt-completion path moves the mask where a token spans the boundary of prompt and response. Here the
    prompt's tokens are always those of the prompt alone; the response's are those of the joint text, or, where the
    joint text merges across the boundary, those of the response alone. A response that holds EOS, which would end it,
    gives a BadInput in its place.
    """
    dialogues = [(*pair.history, (pair.prompt, pair.response)) for pair in pairs]
    examples: list[Example | BadInput] = [Example([], []) for _ in pairs]
    said = [""] * len(pairs)
    for turn in range(max(map(len, dialogues), default=0)):
        rows = [i for i, turns in enumerate(dialogues) if turn < len(turns) and isinstance(examples[i], Example)]
        asked = [f"{said[i]}<|user|>\n{dialogues[i][turn][0].strip()}\n<|assistant|>\n" for i in rows]
        responses = [dialogues[i][turn][1].strip() for i in rows]
        joints = [before + response for before, response in zip(asked, responses, strict=True)]
        tokens = zip(rows, asked, _ids(tokenizer, asked), responses, _ids(tokenizer, joints), strict=True)
        for i, text, before, response, joint in tokens:
            so_far = examples[i]
            assert isinstance(so_far, Example)
            known = so_far.input_ids
            if before[: len(known)] != known:  # the turn before was split otherwise than the joint text would be
                before = (
                    known + tokenizer(text[len(said[i].removesuffix("\n")) :], add_special_tokens=False)["input_ids"]
                )
            after = joint[len(before) :]
            if joint[: len(before)] != before:
                after = tokenizer(response, add_special_tokens=False)["input_ids"]
            if tokenizer.eos_token_id in after:
                examples[i] = BadInput(f"the response {response[:200]!r} holds {tokenizer.eos_token!r}, which ends it")
                continue
            after = [*after, tokenizer.eos_token_id]
            untrained = [-100] * (len(before) - len(known))
            examples[i] = Example([*before, *after], [*so_far.labels, *untrained, *after])
            said[i] = f"{text}{response}{tokenizer.eos_token}\n"
    return examples


def encode_all(
    tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[Pair], max_length: int | None
) -> tuple[list[Example | None], Counter[str]]:
    """Every pair as an example, None where it is dropped, and how many were dropped for which reason.

    Dropped is what has more than `max_length` tokens, and upstream's rows whose response holds EOS. Raises BadInput
    for such a row of the user's own, and if nothing is left.
    """
    kept: list[Example | None] = []
    dropped: Counter[str] = Counter()
    lengths = []
    chunks = (encode_batch(tokenizer, pairs[i : i + CHUNK]) for i in range(0, len(pairs), CHUNK))
    for pair, example in zip(pairs, chain.from_iterable(chunks), strict=True):
        reason = None
        if isinstance(example, BadInput):
            if pair.source == "pairs":
                raise example
            reason = f"holds {tokenizer.eos_token}"
        else:
            lengths.append(len(example.input_ids))
            if max_length is not None and lengths[-1] > max_length:
                reason = f"longer than {max_length} tokens"
        if reason:
            dropped[reason] += 1
        kept.append(None if reason or isinstance(example, BadInput) else example)
    if pairs and not any(kept):
        raise BadInput(
            f"max_length {max_length} drops all {len(pairs)} pairs; the shortest has {min(lengths, default=0)} tokens"
        )
    return kept, dropped


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
        raise BadInput(f"base {source!r}: its tokenizer cannot be loaded: {first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise BadInput(f"base {source!r}: its tokenizer has no EOS token, so a response would have no end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # never trained on: labels are padded with -100
    tokenizer.padding_side = "right"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return rows if tokenizer.bos_token_id is None else [[tokenizer.bos_token_id, *ids] for ids in rows]
