"""The base model of profile `tiny`, built on this machine: a small Llama with random weights, no download.

Its tokenizer is a byte-level BPE of 1,024 tokens, trained on CPython's own help texts, which every machine has. They
change with the Python version, and the tokenizer with them, so `identity` is part of the lineage key.
"""

import hashlib
from dataclasses import asdict
from functools import cache
from pathlib import Path

from remix_toolkit.data.mixing import PROMPT, local_documents
from remix_toolkit.recipe.tiny_size import HEADS, VOCABULARY, TinySize

VERSION = 1


@cache  # CPython's own text, half a megabyte: it is hashed once, not for every run of a sweep
def _text_hash() -> str:
    return hashlib.sha256("\n".join(local_documents("pydoc")).encode()).hexdigest()


def identity(base: str, size: TinySize) -> dict[str, object]:
    """What determines a tiny base model: this file's version, the text that its tokenizer is trained on, its size."""
    sizes = {} if base == "tiny" else asdict(size)
    return {"tiny": VERSION, "text": _text_hash(), **sizes}


def folder_name(base: str) -> str:
    """The name of the directory that it is built in."""
    return f"{base}-{VERSION}-{_text_hash()[:8]}"


def build(size: TinySize, folder: Path) -> None:
    """Write the model and its tokenizer to `folder`: the same bytes each time, under one Python version."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|begin|>", "<|end|>", "<|pad|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    turns = [f"<|user|>\n{PROMPT}<|assistant|>\n"] * 1000  # the format becomes a few tokens, as in a real vocabulary
    bpe.train_from_iterator([*local_documents("pydoc"), *turns], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|pad|>"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        initializer_range=size.initializer_range,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
