"""Seconds and memory of building a stage's data, and of looking for facts in passages.

    python benchmarks/data.py                               # a table
    python benchmarks/data.py --json --popqa popQA.tsv      # with PopQA's facts in the overlap check

Built: 2,000 key-value facts + 4,000 mixing pairs of 50 + 50 words (random words; passages of a generated corpus).
Checked: 20,000 passages of 100 words against 2,000 facts in PopQA's form (its file's, as far as they go, then invented
ones), beside nested loops over a hundredth of the passages, which must find the same. Each row is a process of its own,
run several times: seconds are those after its imports, memory is its peak, imports included.
"""

import argparse
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from remix_toolkit.console import silence_libraries
from remix_toolkit.data import generated, mixing, overlap, tasks
from remix_toolkit.data.pair import Pair
from remix_toolkit.recipe.load import load_recipe, load_task

FACTS, PASSAGES, SAMPLE = 2000, 20_000, 100  # nested loops take every hundredth passage
MIX = {
    "random words": "{random_words: {ratio: 2, words: 50, text: pydoc}}",
    "passages": "{fineweb: {ratio: 2, words: 50, path: FOLDER/corpus.jsonl}}",
}
SECONDS, MEGABYTES = {"random words": 5, "passages": 5, "overlap": 10}, 1024  # the targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument("--rounds", type=int, default=3, help="processes per row [3]")
    parser.add_argument("--popqa", help="PopQA's tsv file")
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)  # what such a process runs, and its folder
    options = parser.parse_args()
    if options.part:
        part, folder = options.part[0], Path(options.part[1])
        if part != "overlap":
            import remix_toolkit.stage.run  # noqa: F401  what a stage has imported by then: torch, TRL and datasets too
        imports = {"imports_cpu_s": time.process_time(), "imports_mb": peak_mb()}  # the interpreter's start included
        print(json.dumps({**(check(options.popqa) if part == "overlap" else build(part, folder)), **imports}))
        return
    command = [sys.executable, __file__, *(["--popqa", options.popqa] if options.popqa else []), "--part"]
    runs: dict[str, list[Any]] = {part: [] for part in SECONDS}
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([*command, "prepare", made], check=True, stdout=subprocess.DEVNULL)
        for part in [*SECONDS] * options.rounds:
            output = subprocess.run([*command, part, made], check=True, stdout=subprocess.PIPE).stdout
            runs[part].append(json.loads(output.splitlines()[-1]))
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "targets": {**SECONDS, "mb": MEGABYTES}, "runs": runs}, indent=1))
        return
    table = Table(title=f"{FACTS:,} facts, {os.cpu_count()} cores, rounds: {options.rounds}")
    for column in ("what", "least s", "median s", "target", "peak MB", "target", "of it imports"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for part, rounds in {**runs, "nested loops": runs["overlap"]}.items():
        times = [run["seconds" if part in SECONDS else "nested_loops_extrapolated"] for run in rounds]
        cells = [part, f"{min(times):.2f}", f"{statistics.median(times):.2f}"]
        if part in SECONDS:
            cells += [str(SECONDS[part]), f"{max(run['mb'] for run in rounds):.0f}", f"{MEGABYTES:,}"]
            cells += [f"{rounds[0]['imports_mb']:.0f} ({min(run['imports_cpu_s'] for run in rounds):.1f} s)"]
        table.add_row(*cells)
    Console().print(table)
    print(f"overlap: {PASSAGES:,} passages, {runs['overlap'][0]['facts']}; nested loops: extrapolated from 1%")


def peak_mb() -> float:
    """The process's peak memory so far; ru_maxrss is in KiB on Linux, in bytes on macOS."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return run(), time.perf_counter() - started


def build(part: str, folder: Path) -> dict[str, Any]:
    """The data of a stage; to prepare for it, the tiny base model for its tokenizer, and the corpus."""
    from remix_toolkit.data.encoding import load_tokenizer
    from remix_toolkit.stage.data import build_all
    from remix_toolkit.store import base_model

    silence_libraries()
    mix = MIX.get(part, "{}").replace("FOLDER", str(folder))
    recipe = load_recipe("kvr", "tiny", [f"stages.stage1.data.size={FACTS}", f"stages.stage1.mix={mix}"])
    (folder / "bases").mkdir(exist_ok=True)
    tokenizer = load_tokenizer(*base_model(recipe, folder))
    if part == "prepare":
        rows = [json.dumps({"text": text}) + "\n" for text in random_texts(20_000, 120)]
        (folder / "corpus.jsonl").write_text("".join(rows), encoding="utf-8")
        return {}
    data, seconds = timed(lambda: build_all(recipe, ["stage1"], tokenizer, folder)["stage1"])
    assert (len(data.facts), len(data.mixing), len(data.examples)) == (FACTS, 2 * FACTS, 3 * FACTS)
    return {"seconds": seconds, "mb": peak_mb()}


def check(popqa: str | None) -> dict[str, Any]:
    """The overlap check. A tenth of the passages hold a fact's subject, another tenth its subject and its answer."""
    known = tasks.load_rows(load_task("popqa", [f"path={popqa}"]), 0)[:FACTS] if popqa else []
    facts = [*known, *generated.invented_facts(FACTS - len(known), 0)]
    rng = random.Random(0)
    held = [(fact.subject, fact.response)[: rng.choice([0] * 8 + [1, 2])] for fact in rng.choices(facts, k=PASSAGES)]
    texts = [" ".join([text, *planted]) for text, planted in zip(random_texts(PASSAGES, 100), held, strict=True)]
    index, indexing = timed(lambda: overlap.FactIndex(facts))
    found, checking = timed(lambda: [index.facts_in(text) for text in texts])
    result = {"seconds": indexing + checking, "of_it_index": indexing, "mb": peak_mb()}
    by_loops, looping = timed(lambda: nested_loops(facts, texts[::SAMPLE]))
    assert by_loops == found[::SAMPLE]
    assert any(by_loops)
    which = f"{len(known):,} facts of PopQA, {FACTS - len(known):,} invented"
    return {"facts": which, **result, "nested_loops_extrapolated": looping * SAMPLE}


def nested_loops(facts: Sequence[Pair], texts: Sequence[str]) -> list[list[int]]:
    """Every text against every fact; the words of each are found once."""

    def spaced(text: str) -> str:
        return " ".join(["", *re.findall(r"\w+", text.casefold()), ""])

    facts_spaced = [(spaced(fact.subject), [spaced(answer) for answer in fact.answers]) for fact in facts]
    return [
        [i for i, (subject, answers) in enumerate(facts_spaced) if subject in text and any(a in text for a in answers)]
        for text in map(spaced, texts)
    ]


def random_texts(count: int, words: int) -> list[str]:
    rng, vocabulary = random.Random(0), mixing.vocabulary("pydoc")
    return [" ".join(rng.choices(vocabulary, k=words)) for _ in range(count)]


if __name__ == "__main__":
    main()
