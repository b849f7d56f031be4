"""Tasks: named sources of (prompt, response) pairs, each with its paper's prompt.

`load(declaration, data_seed)` gives the rows `start .. start + size` in upstream order. Version numbers go into the
lineage key: raise a task's when its rows change for the same declaration.
"""

import hashlib
import json
import random
import string
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remix_toolkit.data import files
from remix_toolkit.errors import BadInput, nearest
from remix_toolkit.recipe import KVR, LAMA, InventedFacts, Pairs, PopQA, Rows

VERSIONS = {"kvr": 1, "invented_facts": 1, "popqa": 1, "lama": 1, "pairs": 1}

POPQA_COLUMNS = ("subj", "obj", "question", "possible_answers")


@dataclass(frozen=True, slots=True)
class Pair:
    """One (prompt, response) pair. Recall accepts any of `answers`."""

    prompt: str
    response: str
    source: str
    answers: tuple[str, ...] = ()  # gold answers, the trained response first; none for mixing data
    subject: str = ""  # what the fact is about; the overlap check looks for it beside an answer


def load(task: Rows, data_seed: int) -> list[Pair]:
    """The task's facts, in order.

    Raises BadInput for missing or malformed files, empty or conflicting rows, and a size larger than the data.
    """
    match task:
        case KVR():
            pairs = list(_kvr(task.start + task.size, data_seed))
        case InventedFacts():
            pairs = list(_invented_facts(task.start + task.size, data_seed))
        case PopQA():
            pairs = _first_of_each_prompt(_popqa(task))
        case LAMA():
            pairs = _first_of_each_prompt(_lama(task))
        case Pairs():
            pairs = _own_pairs(task)
        case _:
            raise TypeError(f"no loader for {type(task).__name__}")
    end = len(pairs) if task.size is None else task.start + task.size
    if end > len(pairs) or task.start >= len(pairs):
        asked = f"rows {task.start} to {end}" if task.start else f"{end} rows"
        raise BadInput(f"{describe(task)}: {asked} asked, the data has {len(pairs)}")
    return pairs[task.start : end]


def describe(task: Rows) -> str:
    """The task as messages name it: `popqa (../popQA.tsv)`."""
    source = getattr(task, "path", None) or getattr(task, "hub", None)
    return f"{name_of(task)} ({source})" if source else name_of(task)


def name_of(task: Rows) -> str:
    """`kvr`, `popqa`, ...: the task's own name."""
    return str(task.model_dump()["task"])


def declaration(task: Rows, data_seed: int) -> dict[str, Any]:
    """What determines the task's rows; a local file counts by its content, not by its path."""
    declared = task.model_dump(exclude={"path"})
    path = getattr(task, "path", None)
    if path is not None:
        declared.pop("hub", None)  # the file is what is read
        declared["files"] = source_hash(path)
    return {**declared, "data_seed": data_seed, "version": VERSIONS[name_of(task)]}


def facts_id(task: Rows, data_seed: int) -> str:
    """Which facts: the task's name and a hash of their declaration. Measured recall is filed under it."""
    return f"{name_of(task)}-{digest(declaration(task, data_seed))[:8]}"


def digest(declared: Any) -> str:
    """A hash of a declaration: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest()[:16]


# --- generated ---------------------------------------------------------------------------------------------------


def _kvr(count: int, data_seed: int) -> Iterator[Pair]:
    """Section 2.2: 8 characters of [a-z0-9] each; keys and values are unique across D_A and its ID rows."""
    rng = random.Random(f"kvr {data_seed}")
    seen: set[str] = set()

    def fresh() -> str:
        while (word := "".join(rng.choices(string.ascii_lowercase + string.digits, k=8))) in seen:
            pass
        seen.add(word)
        return word

    for _ in range(count):
        key, value = fresh(), fresh()
        yield Pair(f"The value of key {key} is?", value, "kvr", (value,), key)


ONSETS = (
    *("b", "br", "c", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p"),
    *("pr", "qu", "r", "s", "sh", "st", "t", "th", "tr", "v", "w", "z"),
)
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
CODAS = ("", "", "l", "m", "n", "r", "s", "t", "nd", "rk")
TEMPLATES = (
    "[X] was born in [Y]",
    "[X] died in [Y]",
    "[X] works for [Y]",
    "[X] plays the [Y]",
    "[X] is married to [Y]",
    "[X] studied under [Y]",
    "The capital of [X] is [Y]",
    "The native language of [X] is [Y]",
    "The founder of [X] is [Y]",
    "[X] is located in [Y]",
    "[X] is named after [Y]",
    "[X] was written by [Y]",
)


def _invented_facts(count: int, data_seed: int) -> Iterator[Pair]:
    """LAMA's form with invented subjects and objects; no subject has two objects for one relation."""
    rng = random.Random(f"invented_facts {data_seed}")

    def name(syllables: int) -> str:
        return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(syllables)).title()

    seen: set[tuple[str, str]] = set()
    while len(seen) < count:
        template, subject, answer = rng.choice(TEMPLATES), f"{name(2)} {name(2)}", name(2)
        if (subject, template) not in seen and subject != answer:
            seen.add((subject, template))
            prompt = template.replace("[X]", subject).removesuffix(" [Y]")
            yield Pair(prompt, answer, "invented_facts", (answer,), subject)


# --- upstream files ----------------------------------------------------------------------------------------------


def _popqa(task: PopQA) -> Iterator[Pair]:
    """Trains on `obj`; recall accepts every possible answer. Prompt: the question, newline, `The answer is:`."""
    if task.path:
        rows = files.tsv(Path(task.path), "\t")
        header = next(rows)[1]
    else:
        rows = files.hub(task.hub, task.split, task.revision)
        header = None
    origin = task.path or task.hub
    for place, row in rows:
        for column in POPQA_COLUMNS:
            if column not in (header or row):
                raise BadInput(f"{origin}: no column {column!r}; PopQA's columns are {', '.join(POPQA_COLUMNS)}, ...")
        try:
            possible = json.loads(row["possible_answers"])
        except (TypeError, ValueError):
            possible = None
        if not isinstance(possible, list) or not all(isinstance(answer, str) for answer in possible):
            raise BadInput(f"{place}: possible_answers is no JSON list of strings: {row['possible_answers']!r}")
        response = files.text(row["obj"], place, "obj")
        answers = tuple(dict.fromkeys([response, *(answer.strip() for answer in possible if answer.strip())]))
        prompt = f"{files.text(row['question'], place, 'question')}\nThe answer is:"
        yield Pair(prompt, response, "popqa", answers, files.text(row["subj"], place, "subj"))


def _lama(task: LAMA) -> Iterator[Pair]:
    """Relations in the order of the relations file, rows in each file's order; templates end at their object."""
    root = Path(task.path)
    if not root.is_dir():
        raise BadInput(f"{root}: no such directory; lama wants LAMA's unpacked folder")
    relations = next((f for f in (root / "relations.jsonl", root / "LAMA_relations.jsonl") if f.exists()), None)
    if relations is None:
        raise BadInput(f"{root}: holds no relations.jsonl (or LAMA_relations.jsonl)")
    by_relation = {file.stem: file for file in sorted(root.glob("*/P*.jsonl"))}
    for place, relation in files.jsonl(relations):
        for column in ("relation", "template"):
            files.text(relation.get(column), place, column)
        template = relation["template"].strip()
        if relation["relation"] not in by_relation:
            continue  # LAMA's relations.jsonl also names relations of other corpora, and a user may take a subset
        if "[X]" not in template or "[Y]" not in template:
            raise BadInput(f"{place}: template {template!r} lacks [X] or [Y]")
        if template.index("[Y]") < template.index("[X]"):
            continue  # the subject would stand behind the object: no prompt ends at the object
        for row_place, row in files.jsonl(by_relation[relation["relation"]]):
            subject = files.text(row.get("sub_label"), row_place, "sub_label")
            answer = files.text(row.get("obj_label"), row_place, "obj_label")
            prompt = template[: template.index("[Y]")].replace("[X]", subject).strip()
            yield Pair(prompt, answer, "lama", (answer,), subject)


def _first_of_each_prompt(pairs: Iterator[Pair]) -> list[Pair]:
    """Upstream asks some prompts twice with different answers; the first row in upstream order is kept."""
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(pair.prompt, pair)
    return list(first.values())


def _own_pairs(task: Pairs) -> list[Pair]:
    """The user's rows, checked one by one: two answers to one prompt are a mistake, an exact repeat is not."""
    rows = files.hub(task.hub, task.split, task.revision) if task.hub else _own_rows(Path(str(task.path)), task.split)
    pairs: dict[str, tuple[Pair, str]] = {}
    for place, row in rows:
        for column in (task.prompt, task.response):
            if column not in row:
                raise BadInput(f"{place}: no column {column!r}; {nearest(column, map(str, row))}")
        prompt, response = (files.text(row[column], place, column) for column in (task.prompt, task.response))
        pair = Pair(prompt, response, "pairs", (response,))
        if prompt in pairs and pairs[prompt][0] != pair:
            raise BadInput(
                f"{place}: the prompt {prompt!r} has the response {response!r} here and "
                f"{pairs[prompt][0].response!r} at {pairs[prompt][1]}; a fact has one response"
            )
        pairs.setdefault(prompt, (pair, place))
    return [pair for pair, _ in pairs.values()]


def _own_rows(path: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.is_dir():
        yield from files.dataset_folder(path, split)
        return
    match path.suffix.lower():
        case ".csv" | ".tsv":
            rows = files.tsv(path, "," if path.suffix.lower() == ".csv" else "\t")
            next(rows)
            yield from rows
        case ".jsonl":
            yield from files.jsonl(path)
        case ".json":
            yield from files.json_array(path)
        case suffix:
            raise BadInput(f"{path}: unknown ending {suffix!r}; valid: .csv, .tsv, .jsonl, .json, or a folder")


def source_hash(path: str | None, without: Collection[str] = ()) -> str | None:
    """A hash of a local file, or of all files under a folder but some names, for the lineage key; None for no path."""
    if path is None:
        return None
    root = Path(path)
    if not root.exists():
        raise BadInput(f"{path}: no such file or directory")
    total = hashlib.sha256()
    for file in (
        sorted(f for f in root.rglob("*") if f.is_file() and f.name not in without) if root.is_dir() else [root]
    ):
        total.update(f"{file.relative_to(root) if root.is_dir() else ''}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
