"""The hub, when it does not give what it is asked for: patience, and then one line with the remedy."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeVar

from remix_toolkit.console import info
from remix_toolkit.data.files import one_line
from remix_toolkit.errors import BadInput, RunFailed, causes

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

T = TypeVar("T")

WAITS = (1, 2, 4)  # seconds between attempts, where the hub does not name its own
LONGEST_WAIT = 120  # seconds that it may name
UNREACHABLE = {"ConnectError", "ConnectTimeout", "ReadTimeout", "ConnectionError", "RemoteProtocolError"}
LOGIN = "`hf auth login` or HF_TOKEN"


def ask(question: Callable[[], T]) -> T:
    """What the hub answers; where it is busy or in trouble, the question is asked again, as late as it says.

    For downloads of files, huggingface_hub does the same.
    """
    for wait in WAITS:
        try:
            return question()
        except Exception as error:
            refusal = _refusal(error)
            seconds = _retry_after(refusal) or wait
            if refusal is None or not _passes(refusal) or seconds > LONGEST_WAIT:
                raise
            info(f"the hub answers {refusal.response.status_code}; asking again in {seconds} s")
            time.sleep(seconds)
    return question()


def failure(what: str, error: Exception, kind: Literal["model", "dataset"], hub: str, remedy: str = "") -> Exception:
    """The error to raise where something cannot be had from the repository `hub`: RunFailed if time may mend it.

    `what` begins its message, and `remedy` ends it.
    """
    failed = RunFailed if _passes(_refusal(error)) else BadInput
    return failed(f"{what}: {_reason(error, kind, hub)} {remedy}".strip())


def _reason(error: Exception, kind: str, hub: str) -> str:
    """What is wrong, and what would be right, in a sentence or two."""
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    page = f"{endpoint}/{'datasets/' if kind == 'dataset' else ''}{hub}"
    refusal = _refusal(error)
    status = refusal.response.status_code if refusal is not None else 0
    chain = {type(cause).__name__: cause for cause in reversed(causes(error))}
    match refusal:
        case errors.GatedRepoError():
            return f"it is gated ({status}): ask for access at {page}, and log in with {LOGIN}."
        case errors.RepositoryNotFoundError():
            return f"{endpoint} has no such {kind}, or not for you. Is the id right? A private one needs {LOGIN}."
        case errors.RevisionNotFoundError():
            return f"it has no such revision: {page}/commits lists them."
        case errors.EntryNotFoundError():
            return f"it lacks a file: {refusal.response.url.path}."
    if status == 429:
        seconds = _retry_after(refusal)
        return f"the hub has had too many requests (429); try again {f'in {seconds} s' if seconds else 'later'}."
    if status >= 500:
        return f"{endpoint} is in trouble (it answers {status}); try again later."
    if status in (401, 403):
        return f"{endpoint} refuses access ({status}). Is your token valid? Log in with {LOGIN}."
    if "OfflineModeIsEnabled" in chain:
        return "it is not on this machine, and HF_HUB_OFFLINE forbids to download it."
    if "DatasetNotFoundError" in chain:  # which hides the answer: gated, or not there
        return f"{one_line(error).partition(': ')[2]} Log in with {LOGIN}."
    if {"JSONDecodeError", "FileMetadataError"} & set(chain) or "X-Repo-Commit" in str(error):
        return f"{endpoint} answers as no hub does, perhaps with a page of a proxy. Is HF_ENDPOINT right?"
    for name in UNREACHABLE & set(chain):
        return f"{endpoint} cannot be reached ({name}). Is there a network?"
    return one_line(error)


def _refusal(error: Exception) -> "HfHubHTTPError | None":
    """The hub's answer with a status of 400 or more, if one is behind the error."""
    from huggingface_hub.errors import HfHubHTTPError

    return next((cause for cause in causes(error) if isinstance(cause, HfHubHTTPError)), None)


def _passes(refusal: "HfHubHTTPError | None") -> bool:
    """Is it a matter of time?"""
    return refusal is not None and (refusal.response.status_code == 429 or refusal.response.status_code >= 500)


def _retry_after(refusal: "HfHubHTTPError | None") -> int | None:
    value = refusal.response.headers.get("Retry-After", "") if refusal is not None else ""
    return int(value) if value.isdecimal() else None
