"""Every answer of every published stage as one tidy pandas frame: a row for each fact that a stage was asked."""

import json
from pathlib import Path

import pandas as pd

from remix_toolkit import store
from remix_toolkit.console import warn
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.recall import VerdictRow
from remix_toolkit.report import verdicts

RUN = ["recipe", "arm", "profile", "seed", "run", "settings"]  # what identifies a run
STAGE = ["stage", "key", "task", "list"]  # which of its stages was asked which list of facts
ANSWER = ["fact", "correct", "prediction", "gold"]
COLUMNS = [*RUN, *STAGE, *ANSWER]


def results(runs: str | Path = "runs") -> pd.DataFrame:
    """One row for each fact, list of facts, stage, arm, seed and run in a runs directory, with these columns:

    recipe, arm, profile, seed; `run`, the key of the run's last stage; `settings`, JSON of the dotted keys in which the
    run differs from its recipe file; stage, key, task; `list`, the id of the list of facts, and `fact`, the index in
    it: the same list and index are the same fact in every row; correct (bool); `prediction`, the model's answer; and
    `gold`, the list of right answers.

    Recall in percent is `100 * frame.groupby(["arm", "seed", "stage", "task"]).correct.mean()`. Instruction tasks have
    no recall and so no rows. A stage that several runs share has its rows under each of them. A damaged stage is left
    out with a warning.
    """
    answers: dict[tuple[str, str], pd.DataFrame] = {}  # by stage directory and list: runs share stages
    frames = []
    for entry in store.entries(Path(runs)):
        if entry["recall"] is None:
            continue
        path, list_id = entry["path"], entry["list"]
        if (path, list_id) not in answers:
            answers[path, list_id] = _answers(path, list_id)
        settings = json.dumps(entry["settings"], sort_keys=True)
        constant = {name: entry[name] for name in (*RUN, *STAGE) if name != "settings"} | {"settings": settings}
        frames.append(answers[path, list_id].assign(**constant))
    return pd.concat(frames, ignore_index=True)[COLUMNS] if frames else pd.DataFrame(columns=COLUMNS)


def _answers(path: str, list_id: str) -> pd.DataFrame:
    """A stage's answers to one list of facts; no rows, and a warning, if they cannot be read."""
    rows: list[VerdictRow] = []
    try:
        rows = verdicts.rows(path, list_id)
    except BadInput as error:
        warn(str(error))
    return pd.DataFrame([(row.fact, row.correct, row.prediction, list(row.gold)) for row in rows], columns=ANSWER)
