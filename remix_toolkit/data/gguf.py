"""A base model from a GGUF file, as llama.cpp and Ollama have them: read once, and kept as a plain model directory.

The weights of such a file are rounded, mostly to four or eight bits. They are taken as they are and written as fp32, so
that training can move them by less than such a step. What the file says of itself stays in the model's config.json,
under "gguf", and goes from there into that of every stage that is trained on it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from remix_toolkit.console import info
from remix_toolkit.data.files import one_line, sha256
from remix_toolkit.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VERSION = 1
ENDING = ".gguf"


def folder_name(file: Path) -> str:
    """The name of the directory that it is read into: it ends in the first digits of the file's checksum."""
    return f"{file.stem}-{VERSION}-{sha256(file)[:8]}"


def build(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file and its tokenizer to `folder`.

    Raises BadInput where it is no such file, is cut off, or has an architecture that transformers does not read.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model: PreTrainedModel
    loading: dict[str, Any]
    about = metadata(file)
    info(
        f"{file.name}: {about['name']}, {file.stat().st_size / 1e6:,.0f} MB, {about['quantization']}: its weights are "
        f"rounded; licence {about['licence'] or 'not said'}. It is written as fp32 to {folder.parent.parent / 'bases'}"
    )
    place = {"gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **place)
        model, loading = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            file.parent,
            **place,
            quantization_config=GgufConfig(dequantize=True),
            dtype="float32",
            output_loading_info=True,
        )
    except Exception as error:  # a file that is cut off and an unknown architecture each raise another kind
        raise BadInput(
            f"base {file}: transformers cannot read this GGUF file, of architecture {about['architecture']!r}: "
            f"{one_line(error)}"
        ) from error
    if lacking := sorted(loading["missing_keys"]):
        raise BadInput(f"base {file}: lacks {len(lacking)} tensors of a {about['architecture']}, such as {lacking[0]}")
    model.config.gguf = about
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def metadata(file: Path) -> dict[str, Any]:
    """What a GGUF file says of itself: `{file, sha256, name, architecture, quantization, licence}`. Raises BadInput."""
    import gguf

    try:
        reader = gguf.GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("general.")}
        quantization = gguf.LlamaFileType(fields.get("general.file_type", gguf.LlamaFileType.ALL_F32)).name
    except Exception as error:  # numpy's, struct's and the reader's kinds, for a file that is another or cut off
        raise BadInput(f"base {file}: is no whole GGUF file: {one_line(error)}") from error
    return {
        "file": file.name,
        "sha256": sha256(file),
        "name": fields.get("general.name", file.stem),
        "architecture": fields.get("general.architecture", "unknown"),
        "quantization": quantization.removeprefix("MOSTLY_").removeprefix("ALL_"),
        "licence": fields.get("general.license"),
    }
