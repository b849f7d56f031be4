"""Records as training and measuring write them, complete, for stores that nobody trained."""

from collections.abc import Mapping, Sequence
from typing import Any

from remix_toolkit.evaluate.records import InterferenceRecord, LensRecord, LensResult, ListRecall, RecallRecord
from remix_toolkit.records import StageRecord

ROWS = {"rows": 8, "usable": 8, "dropped": {}, "noted": {}, "exemplars": 0, "left_out": {}, "familiarity_unknown": 0}
COUNTS = {
    "facts": 8,
    "held_out": 0,
    "mixing": {"random_words": 16},
    "examples": 24,
    "dropped": {},
    "read": ROWS,
    "overlap": {"facts": 8, "mixing_left_out": {}, "measured": {}},
    "commits": {},
    "steps_per_epoch": 2,
    "trained_tokens": 99,
    "tokens": 400,
    "longest": 30,
    "length_percentiles": {"50": 20, "90": 30, "99": 30, "100": 30},
    "tokens_per_epoch": {"without_padding": 400, "with_padding": 440},
}


def stage_record(stage: str, key: str, **changes: Any) -> StageRecord:
    """A stage of 8 facts and 16 mixing pairs, four steps long."""
    counts = {**COUNTS, **changes.pop("counts", {})}
    fields: dict[str, Any] = {
        "stage": stage,
        "key": key,
        "ancestors": [],
        "started_from": "runs/bases/tiny",
        "started_from_commit": None,
        "parent_weights": None,
        "fingerprints": {"facts": "f" * 64, "mixing": "e" * 64},
        "steps": 4,
        "steps_planned": 4,
        "trained_tokens": 198,
        "epochs": 2.0,
        "sweep": None,
        "stop_fired": False,
        "last_loss": 0.01,
        "seconds": 9.0,
        "resumed_from": None,
        "processes": 1,
        "device": "cpu",
        "precision": "fp32",
        "activation_checkpointing": False,
        "memory_estimated": None,
        "memory_peak": None,
        "distributed": "no",
        "attention": "sdpa",
        "python": "3.11.7",
        "libraries": {"torch": "2.13.0", "remix-toolkit": "0.1.0"},
        "declaration": {},
    }
    return StageRecord.model_validate({**fields, "counts": counts, **changes})


def recall_record(outcomes: Mapping[str, Sequence[bool | int]]) -> RecallRecord:
    """Of lists of facts, by id, whether each fact is known; the task is what stands before the dash of the id."""
    return RecallRecord(
        lists={
            id_: ListRecall(
                task=id_.partition("-")[0],
                label=id_.partition("-")[0],
                recall=100 * sum(known) / len(known),
                facts=len(known),
                correct=sum(map(bool, known)),
                settled_by={"scoring": len(known)},
            )
            for id_, known in outcomes.items()
        }
    )


def lens_record(id_: str, **changes: Any) -> LensRecord:
    """The logit lens of a model of two layers on one list of facts."""
    by_layer = {"top10": [25.0, 75.0], "median_rank": [50.0, 3.0], "probability": [0.1, 0.5]}
    result = LensResult.model_validate(
        {
            "facts": 4,
            "tokens": 8,
            "layers": 2,
            **by_layer,
            "occurrence": [0.25, 0.75],
            "first": [0.25, 0.5],
            "first_layer": 1.5,
            "never": 2.0,
            "layers_per_token": 1.2,
            "spread": 1.6,
            "positions": [{"position": 1, "tokens": 8, **by_layer}],
            **changes,
        }
    )
    return LensRecord(lists={id_: result})


def interference_record() -> InterferenceRecord:
    """Gradients that oppose one another, that of the later data no more than noise."""
    return InterferenceRecord.model_validate(
        {
            "sources": {"a": "stage1", "b": "stage2"},
            "parts": 4,
            "examples": {"a": 8, "b": 8},
            "norms": {
                "a": {"norm": 1.0, "signal": 0.9, "noise": False},
                "b": {"norm": 1.0, "signal": 0.0, "noise": True},
            },
            "groups": {"whole": {"a.b": {"cosine": -0.25, "low": -0.5, "high": 0.125, "inner": -1.0}}},
            "displacement": {"whole": {"norm": 1.0, "relative": 0.1}},
            "loss_before": 0.5,
            "loss_after": 2.5,
            "predicted": 1.75,
            "predicted_low": 1.5,
            "predicted_high": 2.0,
        }
    )
