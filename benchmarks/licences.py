"""The licences of the dependencies at run time, direct and indirect, as installed here: docs/licences.md.

    python benchmarks/licences.py            # make licences

What a package says of itself in its metadata is listed, unjudged; `dev` and other extras are left out.
"""

from importlib.metadata import Distribution, PackageNotFoundError, distribution, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).parents[1] / "docs" / "licences.md"
HEAD = """# Licences

This toolkit is under the MIT licence (`LICENSE`). These are the packages that it needs at run time, direct (bold) and
indirect, with the licence that each names in its own metadata. `make licences` writes this page from what is installed;
a PyTorch built for CUDA brings NVIDIA's libraries besides, under NVIDIA's own terms. The licences of models and data
are in the card of each stage (`remix card`) and in `remix data list`.

| package | version | licence |
|---|---|---|
"""


def main() -> None:
    direct = needed(requires("remix-toolkit") or [], set())
    packages: dict[str, Distribution] = {}
    waiting = [(name, extras) for name, extras in direct.items()]
    while waiting:
        name, extras = waiting.pop()
        if name in packages:
            continue
        try:
            packages[name] = distribution(name)
        except PackageNotFoundError:
            continue  # of another system
        waiting += needed(packages[name].requires or [], extras).items()
    rows = [
        f"| {f'**{name}**' if name in direct else name} | {package.version} | {licence(package)} |"
        for name, package in sorted(packages.items())
    ]
    PAGE.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    print(f"written: {PAGE}: {len(rows)} packages")


def needed(requirements: list[str], extras: set[str]) -> dict[str, set[str]]:
    """The packages that some requirements name on this system, under some extras, and the extras of each."""
    found: dict[str, set[str]] = {}
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (extras or {""})):
            found.setdefault(canonicalize_name(requirement.name), set()).update(requirement.extras)
    return found


def licence(package: Distribution) -> str:
    """What a package says of its licence: an SPDX expression, its classifiers, or the first line of its own words."""
    about = package.metadata
    classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    named = [line.rpartition(" :: ")[2] for line in classifiers if line != "License :: OSI Approved"]
    texts = [str(text).strip() for text in about.get_all("License") or []]
    lines = [text.splitlines()[0] for text in texts if text]
    return ", ".join(about.get_all("License-Expression") or named or lines or ["not named"])


if __name__ == "__main__":
    main()
