"""Pairs as tokens and labels: the Tulu v2 format, with the loss on the response and its EOS alone.

    <|user|>\\n{prompt}\\n<|assistant|>\\n{response}{eos}

There is one BOS if the tokenizer has one; the turns of a dialogue follow one another in the same form. Training, recall
and generation use the same prompt tokens, so that the response is always trained behind the tokens that a prompt alone
gives.
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
CHUNK = 256  # pairs tokenized at a time: while it runs, the tokenizer holds much more than the ids

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


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", prompt: str) -> list[int]:
    """The tokens in front of a response: BOS, if there is one, and the prompt in Tulu's format."""
    return _ids(tokenizer, [f"<|user|>\n{prompt.strip()}\n<|assistant|>\n"])[0]


def encode(tokenizer: "PreTrainedTokenizerBase", pair: Pair) -> Example:
    """One pair as the model trains on it. Raises BadInput for a response that contains EOS."""
    (example,) = encode_batch(tokenizer, [pair])
    if isinstance(example, BadInput):
        raise example
    return example


def encode_batch(tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[Pair]) -> list[Example | BadInput]:
    """Pairs as the model trains on them; of a dialogue, every assistant turn is trained on.

    TRL's own prompt-completion path moves the mask where a token spans the boundary of prompt and response. Here the
    prompt's tokens are always those of the prompt alone; the response's are those of the joint text or, where the joint
    text merges across the boundary, those of the response alone. In place of a pair whose response contains EOS, which
    would end it, there is a BadInput.
    """
    dialogues = [(*pair.history, (pair.prompt, pair.response)) for pair in pairs]
    examples: list[Example | BadInput] = [Example([], []) for _ in pairs]
    texts = [""] * len(pairs)  # of the turns encoded so far
    for turn in range(max(map(len, dialogues), default=0)):
        rows = [i for i, turns in enumerate(dialogues) if turn < len(turns) and isinstance(examples[i], Example)]
        prompts = [f"{texts[i]}<|user|>\n{dialogues[i][turn][0].strip()}\n<|assistant|>\n" for i in rows]
        responses = [dialogues[i][turn][1].strip() for i in rows]
        joints = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
        tokens = zip(rows, prompts, _ids(tokenizer, prompts), responses, _ids(tokenizer, joints), strict=True)
        for i, prompt, before, response, joint in tokens:
            encoded = examples[i]
            assert isinstance(encoded, Example)
            earlier = encoded.input_ids
            if before[: len(earlier)] != earlier:  # together with this turn, the earlier ones are split differently
                this_turn = prompt[len(texts[i].removesuffix("\n")) :]
                before = earlier + tokenizer(this_turn, add_special_tokens=False)["input_ids"]
            after = joint[len(before) :]
            if joint[: len(before)] != before:
                after = tokenizer(response, add_special_tokens=False)["input_ids"]
            if tokenizer.eos_token_id in after:
                eos = tokenizer.eos_token
                examples[i] = BadInput(f"the response {response[:200]!r} contains {eos!r}, which would end it")
                continue
            after = [*after, tokenizer.eos_token_id]
            untrained = [-100] * (len(before) - len(earlier))
            examples[i] = Example([*before, *after], [*encoded.labels, *untrained, *after])
            texts[i] = f"{prompt}{response}{tokenizer.eos_token}\n"
    return examples


def encode_all(
    tokenizer: "PreTrainedTokenizerBase", pairs: Sequence[Pair], max_length: int | None
) -> tuple[list[Example | None], Counter[str]]:
    """Every pair as an example, or None where it is dropped, and the number of dropped pairs by reason.

    Dropped are pairs of more than `max_length` tokens, and upstream rows whose response contains EOS. Such a row of the
    user's own raises BadInput, and so do pairs of which none is left.
    """
    examples: list[Example | None] = []
    dropped: Counter[str] = Counter()
    shortest = 0
    chunks = (encode_batch(tokenizer, pairs[i : i + CHUNK]) for i in range(0, len(pairs), CHUNK))
    for pair, example in zip(pairs, chain.from_iterable(chunks), strict=True):
        if isinstance(example, BadInput):
            if pair.source == "pairs":
                raise example
            dropped[f"holds {tokenizer.eos_token}"] += 1
            examples.append(None)
        elif max_length is not None and len(example.input_ids) > max_length:
            dropped[f"longer than {max_length} tokens"] += 1
            shortest = min(shortest or len(example.input_ids), len(example.input_ids))
            examples.append(None)
        else:
            examples.append(example)
    if pairs and not any(examples):
        raise BadInput(f"max_length {max_length} drops all {len(pairs)} pairs; the shortest has {shortest} tokens")
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
        raise BadInput(f"base {source!r}: its tokenizer cannot be loaded: {first_line(error)}") from error
    if tokenizer.eos_token_id is None:
        raise BadInput(f"base {source!r}: its tokenizer has no EOS token, so no response would have an end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # never trained on: labels are padded with -100
    tokenizer.padding_side = "right"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _ids(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[list[int]]:
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return rows if tokenizer.bos_token_id is None else [[tokenizer.bos_token_id, *ids] for ids in rows]
