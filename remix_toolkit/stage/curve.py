"""The retention curve: recall of the earlier stages' facts while a later stage trains, by scoring passes.

retention.jsonl gets a line for each list of facts at each measured step. A fact counts as known if greedy decoding
gives the trained answer, token by token: where a task has several right answers, recall after the stage may be higher.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState

from remix_toolkit.data.encoding import Example, encode
from remix_toolkit.data.pair import Pair
from remix_toolkit.evaluate.recall import BATCH, batches, trained_logits
from remix_toolkit.evaluate.records import RetentionPoint
from remix_toolkit.stage.trackers import Trackers


class RetentionCurve(TrainerCallback):
    """Measures before the first step, every so many steps and after the last one; training does not change by a bit."""

    def __init__(
        self,
        lists: Mapping[str, Sequence[Pair]],
        names: Mapping[str, str],
        tokenizer: PreTrainedTokenizerBase,
        every: int,
        file: Path,
    ) -> None:
        self.lists = {id_: [encode(tokenizer, fact) for fact in facts] for id_, facts in lists.items()}
        self.names, self.tokenizer, self.every, self.file = names, tokenizer, every, file
        self.trackers: Trackers | None = None  # set once there is a trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        lines: list[str] = []
        if state.global_step and self.file.exists():
            text = self.file.read_text(encoding="utf-8")  # what was measured after the checkpoint is measured again
            lines = [line for line in text.splitlines() if _step(line) <= state.global_step]
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        if not lines:
            self._measure(state, kwargs["model"])

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self._measure(state, kwargs["model"])

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.every:
            self._measure(state, kwargs["model"])

    def _measure(self, state: TrainerState, model: PreTrainedModel) -> None:
        training = model.training
        model.eval()
        for id_, examples in self.lists.items():
            right = right_by_scoring(model, self.tokenizer, examples)
            recall = 100.0 * sum(right) / len(right)
            point = RetentionPoint(
                step=state.global_step,
                epoch=round(state.epoch or 0, 4),
                list=id_,
                recall=recall,
                facts=len(right),
                right="".join("1" if known else "0" for known in right),
            )
            if state.is_world_process_zero:
                with self.file.open("a", encoding="utf-8") as out:
                    out.write(point.model_dump_json() + "\n")
            if self.trackers:
                self.trackers.log(state, {f"retention_{self.names[id_]}": recall})
        model.train(training)


def _step(line: str) -> float:
    """A line's step; infinity for one that a crash has cut off."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return float("inf")


@torch.no_grad()
def right_by_scoring(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> list[bool]:
    """Is every trained token of each example the most likely one? In order.

    Each process scores its share. All score as many batches: under FSDP, all processes take part in a forward pass.
    """
    state = PartialState()
    by_length = sorted(range(len(examples)), key=lambda i: (len(examples[i].input_ids), i))
    shares = batches(by_length, BATCH)
    shares += [shares[-1]] * (-len(shares) % state.num_processes)
    scored: list[tuple[int, bool]] = []
    for rows in shares[state.process_index :: state.num_processes]:
        logits, targets = trained_logits(model, tokenizer, [examples[i] for i in rows])
        matches = ((logits.argmax(dim=-1) == targets) | (targets == -100)).all(dim=-1)
        scored += zip(rows, matches.tolist(), strict=True)
    right = dict(gather_object(scored))
    return [right[i] for i in range(len(examples))]
