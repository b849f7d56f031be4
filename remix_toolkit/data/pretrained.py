"""Where the weights of a recipe's base model are: on the hub, in a directory, or in a GGUF file."""

import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from remix_toolkit.console import info
from remix_toolkit.data import gguf, hub_problem, smollm2
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.setup import Setup
from remix_toolkit.recipe.tiny_size import tiny_size

# Of a repository: others are the same weights in another format.
MODEL_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]
OTHER_FORMATS = ["consolidated*", "original/*"]

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Pretrained:
    """A hub id or a directory, and its revision; or a GGUF file, which has to be read into a directory first."""

    source: str
    revision: str | None = None
    gguf: Path | None = None


def locate(setup: Setup) -> Pretrained:
    """The base model of a recipe or profile whose base is not `tiny`.

    Raises BadInput where a GGUF file is not there, cannot be downloaded, or smollm2 was not fetched yet.
    """
    if setup.base == "smollm2":
        if commit := smollm2.cached_commit():
            return Pretrained(smollm2.HUB, commit)
        if (file := smollm2.packaged_file()).is_file():
            return Pretrained(setup.base, gguf=file)
        raise BadInput("base smollm2: is not on this machine yet; `remix base smollm2` downloads it (270 MB at most)")
    if setup.gguf_file is None and not setup.base.endswith(gguf.ENDING):
        return Pretrained(setup.base, setup.revision)
    file = Path(setup.base, setup.gguf_file or "")
    if setup.gguf_file and not Path(setup.base).is_dir():
        file = _download(setup.base, setup.gguf_file, setup.revision)
    if not file.is_file():
        raise BadInput(f"base {file}: no such GGUF file")
    return Pretrained(setup.base, gguf=file)


def fetch(setup: Setup) -> None:
    """Download the base model of a recipe or profile from the hub, unless it is here or is none of the hub's.

    Raises BadInput where it cannot be had, RunFailed where the hub is busy or in trouble.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    if setup.base == "smollm2":
        if not smollm2.cached_commit() and not smollm2.packaged_file().is_file():
            smollm2.fetch(MODEL_FILES)
        return
    if tiny_size(setup.base) or setup.gguf_file or setup.base.endswith(gguf.ENDING) or os.path.exists(setup.base):
        return
    sha = commit(setup.base, setup.revision)
    try:
        about = hub_problem.ask(partial(HfApi().model_info, setup.base, revision=sha, files_metadata=True, timeout=20))
        sizes = {file.rfilename: file.size or 0 for file in about.siblings or []}
        files = list(filter_repo_objects(sizes, allow_patterns=MODEL_FILES, ignore_patterns=OTHER_FORMATS))
        size = sum(sizes[name] for name in files) / 1e9
        licence = about.card_data.get("license") if about.card_data else None
        info(f"{setup.base}: {size:,.1f} GB from the hub, commit {sha}, licence {licence or 'not said'}")
        snapshot_download(setup.base, revision=sha, allow_patterns=files)
    except Exception as error:  # no network, no such repository, no access: each raises another kind
        raise _failure(setup.base, error) from error
    if not any(name.endswith(".safetensors") for name in files):
        raise BadInput(f"base {setup.base}: commit {sha[:12]} has no weights in files that end in .safetensors")


def commit(hub: str, revision: str | None) -> str:
    """The commit of a model of the hub: the one that is on this machine, else the hub's today.

    Whatever is read of the model is then of this commit, and what is here needs no network. Raises BadInput, or
    RunFailed where the hub is busy or in trouble.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if COMMIT.fullmatch(revision or ""):
        return str(revision)
    try:
        file = try_to_load_from_cache(hub, "config.json", revision=revision)
        if not isinstance(file, str):
            file = hf_hub_download(hub, "config.json", revision=revision)
    except HFValidationError:
        raise BadInput(f"base {hub}: no such directory, and no id of a model on the hub either") from None
    except Exception as error:  # no network, no such repository, no access: each raises another kind
        raise _failure(hub, error) from error
    return Path(file).parent.name


def _failure(hub: str, error: Exception) -> Exception:
    return hub_problem.failure(f"base {hub}: cannot be downloaded", error, "model", hub)


def _download(hub: str, name: str, revision: str | None) -> Path:
    """A file of a repository on the hub, downloaded unless it is here."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub, name, revision=revision))
    except Exception as error:  # no network, no such file, no access: each raises another kind
        raise hub_problem.failure(f"base {hub}: its {name} cannot be downloaded", error, "model", hub) from error
