"""Tokens and labels: the Tulu format, exactly, and the same for training, recall and a user's pipeline."""

import time

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from remix_toolkit.data import encoding, tasks
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.recall import EXTRA_TOKENS, max_new_tokens
from remix_toolkit.recipe.load import load_task

PAIRS = [
    *tasks.load_rows(load_task("kvr", ["size=20"]), 0),
    *tasks.load_rows(load_task("invented_facts", ["size=20"]), 0),
    Pair(" What is\n\nthis? ", " ein Käse \n", "pairs"),
    Pair("日本の首都は?", "東京 🗼", "pairs"),
]


def merging_tokenizer(bos: bool) -> PreTrainedTokenizerFast:
    """A BPE without any pre-tokenizer: it learns tokens that span the boundary of prompt and response."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<e>", "<b>"] if bos else ["<e>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["<|user|>\nx\n<|assistant|>\nParis"] * 50, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<e>", bos_token="<b>" if bos else None)
    tokenizer.chat_template = encoding.CHAT_TEMPLATE
    return tokenizer


def test_the_format(tokenizer) -> None:
    example = encoding.encode(tokenizer, Pair(" The value of key abc is? ", " xyz ", "kvr"))
    text = tokenizer.decode(example.input_ids)
    assert text == "<|begin|><|user|>\nThe value of key abc is?\n<|assistant|>\nxyz<|end|>"
    trained = [label for label in example.labels if label != -100]
    assert tokenizer.decode(trained) == "xyz<|end|>"
    assert example.labels == [-100] * (len(example.labels) - len(trained)) + trained
    assert example.input_ids[-len(trained) :] == trained


@pytest.mark.parametrize("bos", [True, False])
def test_one_bos_where_there_is_one(bos: bool) -> None:
    tokenizer = merging_tokenizer(bos)
    ids = encoding.encode(tokenizer, PAIRS[0]).input_ids
    assert ids.count(tokenizer.bos_token_id) == int(bos)
    assert (ids[0] == tokenizer.bos_token_id) == bos


def test_a_merge_across_the_boundary_is_undone() -> None:
    tokenizer = merging_tokenizer(bos=True)
    pair = Pair("x", "Paris", "pairs")
    joint = tokenizer("<|user|>\nx\n<|assistant|>\nParis", add_special_tokens=False)["input_ids"]
    before = encoding.prompt_ids(tokenizer, "x")
    assert [tokenizer.bos_token_id, *joint][: len(before)] != before  # the trap is there
    example = encoding.encode(tokenizer, pair)
    assert example.input_ids[: len(before)] == before
    assert tokenizer.decode([label for label in example.labels if label != -100]) == "Paris<e>"


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.prompt.strip()[:20])
def test_a_prompt_alone_gives_the_tokens_trained_behind(tokenizer, pair: Pair) -> None:
    example = encoding.encode(tokenizer, pair)
    before = encoding.prompt_ids(tokenizer, pair.prompt)
    assert example.input_ids[: len(before)] == before
    assert all(label == -100 for label in example.labels[: len(before)])
    chat = [{"role": "user", "content": pair.prompt}]
    templated = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert templated == before  # what a user's `pipeline` puts in front


def test_trls_own_path_gives_the_same_labels(tokenizer, tmp_path) -> None:
    """Where no token spans the boundary, TRL's prompt-completion path and ours agree token by token."""
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=1024, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    rows = [
        {
            "prompt": f"<|begin|><|user|>\n{pair.prompt.strip()}\n<|assistant|>\n",
            "completion": pair.response.strip() + tokenizer.eos_token,
        }
        for pair in PAIRS
    ]
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, bf16=False),
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
    )
    for pair, row in zip(PAIRS, trainer.train_dataset, strict=True):
        ours = encoding.encode(tokenizer, pair)
        assert (ours.input_ids, ours.labels) == (row["input_ids"], row["labels"])


def test_too_long_is_dropped_and_counted_never_cut(tokenizer) -> None:
    pairs = [Pair("short?", "yes", "pairs"), Pair("long?", "word " * 50, "pairs")]
    kept, dropped = encoding.encode_all(tokenizer, pairs, max_length=30)
    assert (kept, dropped) == ([encoding.encode(tokenizer, pairs[0]), None], {"longer than 30 tokens": 1})
    with pytest.raises(BadInput, match="max_length 3 drops all 2 pairs"):
        encoding.encode_all(tokenizer, pairs, max_length=3)
    enormous = [pairs[0], Pair("long?", "x" * 50_000_000, "pairs")]
    started = time.process_time()
    assert encoding.encode_all(tokenizer, enormous, max_length=30) == (kept, dropped)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("bos", [True, False])
def test_special_tokens_in_users_texts_are_spelled_out(tokenizer, bos: bool) -> None:
    """In a prompt, a response, an earlier turn: the only special tokens are those that the format puts there."""
    for taught in (tokenizer, merging_tokenizer(bos)):
        special = {token for token, added in taught.added_tokens_decoder.items() if added.special}
        word = f"a {taught.eos_token}{taught.bos_token or ''} b"
        for pair in (
            Pair(word, "plain", "pairs"),
            Pair("plain", word, "pairs"),
            Pair("and?", word, "pairs", history=((word, "yes"), ("no", f"{word} no"), ("x", "y"))),
        ):
            example = encoding.encode(taught, pair)
            ends = [n for n, token in enumerate(example.input_ids) if token in special]
            assert len(ends) == len(pair.history) + 1 + bool(taught.bos_token)
            turns = [*pair.history, (pair.prompt, pair.response)]
            text = "\n".join(f"<|user|>\n{p}\n<|assistant|>\n{r}{taught.eos_token}" for p, r in turns)
            assert taught.decode(example.input_ids) == (taught.bos_token or "") + text
            trained = taught.decode([label for label in example.labels if label != -100])
            assert trained == "".join(f"{response}{taught.eos_token}" for _, response in turns)
            before = encoding.prompt_ids(taught, pair.prompt)
            assert pair.history or example.input_ids[: len(before)] == before
        spelled = taught(word, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert max_new_tokens(taught, [Pair("x", word, "pairs", (word,))]) == len(spelled) + 1 + EXTRA_TOKENS
        after = taught(word, add_special_tokens=False)["input_ids"]  # the tokenizer is as it was
        assert special & set(after)


def test_a_tokenizer_that_cannot_spell_its_special_tokens_is_refused(tokenizer, monkeypatch) -> None:
    kind, call = type(tokenizer), type(tokenizer).__call__
    monkeypatch.setattr(kind, "__call__", lambda self, text, **_: call(self, text, add_special_tokens=False))
    with pytest.raises(BadInput, match=r"a<\|end\|>b'.*control tokens"):
        encoding.encode(tokenizer, Pair("x", "a<|end|>b", "pairs"))


def test_a_tokenizer_without_eos_is_refused(tmp_path) -> None:
    tokenizer = merging_tokenizer(bos=False)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="no EOS token"):
        encoding.load_tokenizer(str(tmp_path))


def test_the_chat_template_writes_every_turn(tokenizer) -> None:
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " a "},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "d"},
    ]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == (
        "<|begin|><|system|>\nBe brief.\n<|user|>\na\n<|assistant|>\nb<|end|>\n<|user|>\nc\n<|assistant|>\nd<|end|>"
    )


DIALOGUE = Pair(
    "And then?", "The end.", "ultrachat", history=(("Tell me a story.", "Once upon a time."), ("Go on.", "Yes."))
)


def test_every_assistant_turn_of_a_dialogue_is_trained_on(tokenizer) -> None:
    example = encoding.encode(tokenizer, DIALOGUE)
    eos = tokenizer.eos_token
    text = (
        f"{tokenizer.bos_token}<|user|>\nTell me a story.\n<|assistant|>\nOnce upon a time.{eos}\n"
        f"<|user|>\nGo on.\n<|assistant|>\nYes.{eos}\n<|user|>\nAnd then?\n<|assistant|>\nThe end.{eos}"
    )
    assert tokenizer.decode(example.input_ids) == text
    trained = tokenizer.decode([label for label in example.labels if label != -100])
    assert trained == f"Once upon a time.{eos}Yes.{eos}The end.{eos}"
    assert all(label in (-100, token) for label, token in zip(example.labels, example.input_ids, strict=True))


def test_a_dialogue_is_what_the_chat_template_writes(tokenizer) -> None:
    turns = [*(turn for pair in DIALOGUE.history for turn in pair), DIALOGUE.prompt, DIALOGUE.response]
    chat = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    assert tokenizer.apply_chat_template(chat)["input_ids"] == encoding.encode(tokenizer, DIALOGUE).input_ids
