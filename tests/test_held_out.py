"""What an instruction stage reports: the loss on rows that it never saw, and GSM8K's results."""

import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL
from trained_store import QUESTIONS
from transformers import AutoModelForCausalLM

from remix_toolkit.data import encoding
from remix_toolkit.data.pair import Pair
from remix_toolkit.evaluate import forward, held_out
from remix_toolkit.evaluate.held_out import HeldOut, HeldOutRow
from remix_toolkit.evaluate.perplexity import Perplexity
from remix_toolkit.records import read_rows

ROWS = [Pair(f"What is {n} plus {n}?", f"It is {n} + {n} = {2 * n}.\n#### {2 * n}", "gsm8k") for n in range(40)]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so\n#### 72", "72"),
        ("#### $1,200", "1200"),
        ("#### -3.50 dollars", "-3.5"),
        ("####12.00", "12"),
        ("#### 1,000.", "1000"),
        ("72", None),
        ("#### about ten", None),
    ],
)
def test_results_are_numbers(text: str, number: str | None) -> None:
    assert held_out.final_number(text) == number


def test_loss_is_the_mean_over_trained_tokens_whatever_the_batches(tiny_base: Path, tokenizer, monkeypatch) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    examples = [encoding.encode(tokenizer, pair) for pair in [*ROWS[:6], Pair("a longer one " * 9, "yes", "gsm8k")]]
    losses = forward.example_losses(model, tokenizer, examples)
    assert sum(tokens for _, tokens in losses) == sum(label != -100 for e in examples for label in e.labels)
    with torch.no_grad():  # transformers' own loss, row by row
        rows = [model(input_ids=torch.tensor([e.input_ids]), labels=torch.tensor([e.labels])).loss for e in examples]
    counts = [sum(label != -100 for label in e.labels) for e in examples]
    expected = [float(loss) * n for loss, n in zip(rows, counts, strict=True)]
    assert [loss for loss, _ in losses] == pytest.approx(expected, rel=1e-5)
    monkeypatch.setattr(forward, "LOSS_BATCH", 2)
    assert forward.mean_loss(forward.example_losses(model, tokenizer, examples)) == pytest.approx(
        forward.mean_loss(losses), rel=1e-6
    )


def test_a_stage_reports_what_it_cost_its_own_task(here, trained) -> None:
    """The rows are those behind the trained ones."""
    (rows,) = [e for e in json.loads(here("show", "--runs", trained.runs, "--json").stdout) if e["task"] == "gsm8k"]
    assert (rows["recall"], rows["held_out"]["rows"], rows["stage"]) == (None, 8, "stage2")
    said = [json.loads(line) for line in trained.text("held_out.jsonl").splitlines()]
    assert [row["prompt"] for row in said] == [row["question"] for row in QUESTIONS[16:]]
    assert rows["held_out"]["accuracy"] == 100.0 * sum(row["correct"] for row in said) / 8


@pytest.mark.slow
def test_arms_that_share_a_stage_each_get_the_measurements_that_they_ask_for(here, runs: Path, tmp_path: Path) -> None:
    file, text, sweep = (tmp_path / name for name in ("gsm8k.jsonl", "text.txt", "sweep.yaml"))
    file.write_text("".join(json.dumps({"question": p.prompt, "answer": p.response}) + "\n" for p in ROWS), "utf-8")
    text.write_text("word " * 50)
    data = f"stages.stage2.data: {{task: gsm8k, path: {file}, size: 30, held_out:"
    arms = f"{{five: {{{data} 5}}, evaluate.text: {ROOT}/LICENSE}}, ten: {{{data} 10}}, evaluate.text: {text}}}}}"
    sweep.write_text(f"recipe: {ROOT}/recipes/kvr.yaml\narms: {arms}\n")
    settings = [setting for setting in SMALL if "stage2" not in setting and "evaluate" not in setting]
    done = here("sweep", sweep, "--runs", runs, *settings)
    assert "[4/4]" in done.stdout  # two stages, each trained once and measured once
    (stage,) = runs.glob("stages/*-stage2-*")
    losses = HeldOut().read(stage)
    assert {item: result.rows for item, result in losses.items()} == {"5 rows": 5, "10 rows": 10}
    assert Perplexity().read(stage).keys() == {f"{ROOT}/LICENSE", str(text)}
    rows = [(row.list, row.prompt) for row in read_rows(stage / "held_out.jsonl", HeldOutRow)]
    held_out = [pair.prompt for pair in ROWS[30:]]
    assert sorted(rows) == sorted([("5 rows", prompt) for prompt in held_out[:5]] + [("10 rows", p) for p in held_out])
    assert "/4]" not in here("sweep", sweep, "--runs", runs, *settings).stdout  # nothing is left to do
