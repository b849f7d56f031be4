"""Recall by scoring equals recall by generation, row by row, on models that know all, half and none of the facts."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from trained_store import once
from transformers import AutoModelForCausalLM

from remix_toolkit.data import encoding, few_shot, tasks
from remix_toolkit.data.pair import Pair
from remix_toolkit.evaluate import forward
from remix_toolkit.evaluate.recall import can_match, matches, max_new_tokens, percent, recall
from remix_toolkit.recipe.load import load_task

FACTS = [
    *tasks.load_rows(load_task("kvr", ["size=5"]), 0),
    *tasks.load_rows(load_task("invented_facts", ["size=5"]), 0),
]


def teach(tiny_base, tokenizer, facts: list[Pair], steps: dict[int, Path]) -> None:
    """Save a tiny model after so many steps on the facts, by a bare loop: recall does not depend on how it was made."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    examples = [encoding.encode(tokenizer, fact) for fact in facts]
    width = max(len(e.input_ids) for e in examples)
    ids = torch.tensor([e.input_ids + [tokenizer.pad_token_id] * (width - len(e.input_ids)) for e in examples])
    labels = torch.tensor([e.labels + [-100] * (width - len(e.labels)) for e in examples])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(1, max(steps) + 1):
        model(input_ids=ids, attention_mask=(ids != tokenizer.pad_token_id).long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in steps:
            model.save_pretrained(steps[step])


@pytest.fixture(scope="module")
def models(tiny_base, tokenizer, tmp_path_factory) -> dict[str, object]:
    """By how much they know: taught once, for the tests of all processes."""

    def make(folder: Path) -> None:
        AutoModelForCausalLM.from_pretrained(tiny_base).save_pretrained(folder / "none")
        teach(tiny_base, tokenizer, FACTS, {14: folder / "unsure", 70: folder / "all"})
        teach(tiny_base, tokenizer, FACTS[::2], {70: folder / "half"})

    folder = once(tmp_path_factory.getbasetemp(), "taught", make)
    return {path.name: AutoModelForCausalLM.from_pretrained(path) for path in folder.iterdir()}


@torch.no_grad()
def plainly_generated(model, tokenizer, facts: list[Pair]) -> list[bool]:
    """The reference: each prompt alone, `generate`, decode, compare."""
    limit = max_new_tokens(tokenizer, facts)
    verdicts = []
    for fact in facts:
        ids = torch.tensor([encoding.prompt_ids(tokenizer, fact.prompt)])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        verdicts.append(matches(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True), fact.answers))
    return verdicts


@pytest.mark.parametrize(("known", "expected"), [("all", 100.0), ("half", 50.0), ("unsure", None), ("none", 0.0)])
def test_scoring_equals_generation(models, tokenizer, known: str, expected: float | None) -> None:
    verdicts = recall(models[known], tokenizer, FACTS, batch_size=7)
    assert [verdict.prompt for verdict in verdicts] == [fact.prompt for fact in FACTS]
    assert [verdict.correct for verdict in verdicts] == plainly_generated(models[known], tokenizer, FACTS)
    assert expected is None or percent(verdicts) == expected


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("form", ["tulu", "qa"])
def test_what_few_shot_prompts_have_in_common_is_computed_once(models, tokenizer, monkeypatch, form, bos) -> None:
    """The answers are those to each prompt alone, near ties aside, with a BOS and without."""
    tokenizer = deepcopy(tokenizer)
    if not bos:
        tokenizer.bos_token = None
    asked = [few_shot.with_exemplars(FACTS[:3], fact, form) for fact in FACTS[3:]]
    begins = [tokenizer.bos_token_id] * bos + tokenizer("Q:" if form == "qa" else "<|user|>")["input_ids"]
    assert encoding.prompt_ids(tokenizer, asked[0].prompt, asked[0].plain)[: len(begins)] == begins
    once_computed = [recall(models["unsure"], tokenizer, asked, batch_size=3, whole=whole) for whole in (False, True)]
    monkeypatch.setattr(forward, "shared_prefix", lambda *_: forward.NO_PREFIX)
    for verdicts, whole in zip(once_computed, (False, True), strict=True):
        assert verdicts == recall(models["unsure"], tokenizer, asked, batch_size=3, whole=whole)


@pytest.mark.parametrize("known", ["all", "half", "unsure", "none"])
def test_generating_every_row_gives_the_same_verdicts(models, tokenizer, known, monkeypatch) -> None:
    settled = recall(models[known], tokenizer, FACTS)
    monkeypatch.setitem(forward.NEAR_TIE, torch.float32, float("inf"))  # now no row is settled by scoring
    generated = recall(models[known], tokenizer, FACTS)
    assert all(verdict.settled_by == "generation, near tie" for verdict in generated)
    assert any(verdict.settled_by == "scoring" for verdict in settled)
    assert [v.correct for v in settled] == [v.correct for v in generated]
    for a, b in zip(settled, generated, strict=True):
        assert a.prediction == b.prediction or not (a.prediction_complete and b.prediction_complete)


def test_any_gold_answer_counts(models, tokenizer) -> None:
    """A model that answers with an alias is right, though scoring the trained response says otherwise."""
    renamed = [
        Pair(fact.prompt, "Zzz", fact.source, ("Zzz", fact.response.upper()), fact.subject) for fact in FACTS[:6]
    ]
    verdicts = recall(models["all"], tokenizer, renamed)
    assert percent(verdicts) == 100.0
    assert [verdict.prediction for verdict in verdicts] == [fact.response for fact in FACTS[:6]]


def test_in_bf16_near_ties_are_generated(models, tokenizer) -> None:
    import copy

    model = copy.deepcopy(models["unsure"]).to(torch.bfloat16)
    assert any(verdict.settled_by == "generation, near tie" for verdict in recall(model, tokenizer, FACTS))


@pytest.mark.parametrize(
    ("text", "answers", "match", "possible"),
    [
        (" Paris\n", ["paris"], True, True),
        ("par", ["Paris"], False, True),
        ("", ["Paris"], False, True),
        ("Paris is", ["Paris"], False, False),
        ("lon", ["Paris", "London"], False, True),
        ("T\ufffd", ["Tōkyō"], False, True),
        ("ΟΔΟς", ["οδοσα"], False, True),
    ],
)
def test_matching(text: str, answers: list[str], match: bool, possible: bool) -> None:
    assert matches(text, answers) == match
    assert can_match(text, answers) == possible
