"""No password and no token in a setting: a resolved recipe is written beside every stage, and into reports and logs."""

import re
from collections.abc import Iterator
from typing import Any

from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.yaml_file import Key, Locations, dotted, location_of

SECRET = re.compile(  # each part is bounded, so that a long text takes no longer than its length
    r"(?<=://)[^/?#\s@]+(?=@)"  # https://user:password@host, https://token@host
    r"|(?<![^\s/@])[^\s:/@]{1,99}:[^\s/@]{1,99}(?=@[\w-]+\.)"  # user:password@host.org
    r"|(?<=[?&])(?:token|access_token|api_?key|password|secret|sig|signature|x-amz-\w+)=[^&\s]+"
    r"|\bhf_\w{16,}|\bgh[pousr]_\w{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}|\bsk-[\w-]{16,}|\bxox[abprs]-[\w-]{10,}"
    r"|\bAKIA[A-Z0-9]{16}\b|\bAIza[\w-]{30,}|\beyJ[\w-]{8,400}\.eyJ[\w-]{8}|-----BEGIN [A-Z ]*PRIVATE KEY",
    re.IGNORECASE,
)
NAMED = re.compile(
    r"(?:hub|hf|use_auth|auth|access|api|wandb)?_?token|.*(?:password|secret|api_?key|access_?key)", re.IGNORECASE
)  # keys whose text is a secret, whatever it looks like; eos_token is none
INSTEAD = (
    "holds a password or token, and settings are written beside each stage, into reports and logs; leave it out and "
    "log in: `hf auth login` or HF_TOKEN for the hub, ~/.netrc or the tool's own login for other hosts"
)


def refuse_credentials(tree: Any, locations: Locations, origin: str) -> None:
    """Raise BadInput for every key of some settings that holds a credential, without repeating that."""
    lines = []
    for key in _with_credentials(tree, ()):
        place = re.sub(r"^(override '[^=]*=).*", r"\1***'", location_of(locations, key, origin), flags=re.DOTALL)
        lines.append(f"{place}: {redacted(dotted(key))}: {INSTEAD}")
    if lines:
        raise BadInput("\n".join(lines))


def redacted(text: str) -> str:
    """The text with `***` in place of what looks like a credential."""
    return SECRET.sub("***", text)


def _with_credentials(node: Any, key: Key) -> Iterator[Key]:
    if isinstance(node, str):
        named = key and isinstance(key[-1], str) and NAMED.fullmatch(key[-1])
        if SECRET.search(node) or (named and node):
            yield key
        return
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if isinstance(name, str) and SECRET.search(name):
            yield (*key, name)
        yield from _with_credentials(value, (*key, name))
