"""What a launcher's processes do one after the other."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import PartialState

from remix_toolkit.errors import RunFailed
from remix_toolkit.stage import private_api

POLL = 0.2  # seconds between two looks at whether the main process is done
_turns = itertools.count()  # in all processes the same: all come to each turn


@contextmanager
def main_process_first() -> Iterator[bool]:
    """Let the main process do what is inside, and the others after it. Yields whether this is the main process.

    The others wait at the launcher's rendezvous, not in a collective operation: the time-out of those (`ddp_timeout`)
    would end them where the main process takes long, such as until another run has published its stage.

    Raises RunFailed in the others where the main process failed.
    """
    if "LOCAL_RANK" not in os.environ or (state := PartialState()).num_processes == 1:
        yield True
        return
    rendezvous, key = private_api.rendezvous(), f"remix_toolkit/turn/{next(_turns)}"
    if not state.is_main_process:
        while not rendezvous.check([key]):
            time.sleep(POLL)
        if rendezvous.get(key) != b"done":
            raise RunFailed("the main process failed")
        yield False
        return
    outcome = "failed"
    try:
        yield True
        outcome = "done"
    finally:
        rendezvous.set(key, outcome)
