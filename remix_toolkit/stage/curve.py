"""The retention curve: recall of the earlier stages' facts while a later stage trains, by scoring passes.

retention.jsonl gets a line for each list of facts at each measured step. A fact counts as known if greedy decoding
gives the trained answer, token by token: where a task has several right answers, recall after the stage may be higher.
"""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState

from remix_toolkit.data.encoding import Example, encode
from remix_toolkit.data.identity import facts_ids
from remix_toolkit.evaluate.budget import batches
from remix_toolkit.evaluate.forward import reduce_logits
from remix_toolkit.evaluate.recall import BATCH
from remix_toolkit.graph.lineage import fact_lists
from remix_toolkit.records import RetentionPoint, read_rows, write_rows
from remix_toolkit.stage.callbacks import Trackers
from remix_toolkit.stage.prepare import PreparedStage

CURVE = "retention.jsonl"


class RetentionCurve(TrainerCallback):
    """Measures before the first step, every so many steps and after the last one; training does not change by a bit."""

    def __init__(self, prepared: PreparedStage, tokenizer: PreTrainedTokenizerBase, trackers: Trackers) -> None:
        recipe, node, curve = prepared.recipe, prepared.node, prepared.stage.curve
        assert curve
        self.every = curve.steps or int(curve.epochs or 0) * prepared.data.counts.steps_per_epoch
        trained = facts_ids(recipe)[node.stage]
        self.labels = {id_: listed.label for id_, listed in fact_lists(recipe, node.position).items() if id_ != trained}
        facts = prepared.data.measured
        self.lists = {id_: [encode(tokenizer, fact) for fact in facts[id_]] for id_ in self.labels}
        self.tokenizer, self.trackers, self.file = tokenizer, trackers, prepared.work / CURVE
        self.points: list[RetentionPoint] = []

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step:  # what was measured after the checkpoint is measured again
            kept = read_rows(self.file, RetentionPoint)
            self.points = [point for point in kept if point.step <= state.global_step]
        if not self.points:
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
            point = RetentionPoint(
                step=state.global_step,
                epoch=round(state.epoch or 0, 4),
                list=id_,
                recall=100.0 * sum(right) / len(right),
                facts=len(right),
                right="".join("1" if known else "0" for known in right),
            )
            self.points.append(point)
            self.trackers.log({f"retention_{self.labels[id_]}": point.recall})
        if state.is_world_process_zero:
            write_rows(self.file, self.points)
        model.train(training)


@torch.no_grad()
def right_by_scoring(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> list[bool]:
    """Is every trained token of each example the most likely one? In order.

    Each process scores its share. All score as many batches: under FSDP, all processes take part in a forward pass.
    """

    def best(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (logits.argmax(dim=-1) == targets) | (targets == -100)

    state = PartialState()
    lengths = [len(example.input_ids) for example in examples]
    by_length = sorted(range(len(examples)), key=lambda i: (lengths[i], i))
    shares = list(batches(by_length, lengths.__getitem__, most=BATCH))
    shares += [shares[-1]] * (-len(shares) % state.num_processes)
    scored: list[tuple[int, bool]] = []
    for rows in shares[state.process_index :: state.num_processes]:
        matches, _ = reduce_logits(model, tokenizer, [examples[i] for i in rows], best)
        scored += zip(rows, matches.all(dim=-1).tolist(), strict=True)
    right = dict(gather_object(scored))
    return [right[i] for i in range(len(examples))]
