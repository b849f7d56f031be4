"""Mixing data, D_M: pairs added to a stage that share nothing with its facts (section 4.1), or, for replay, that do.

Every draw is seeded by the run's `seed` and the stage's place in the sequence, so that two stages of one run do not
mix in the same words.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from remix_toolkit.data.tasks import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe import Mix, Passages, RandomWords
from remix_toolkit.yaml_file import read_text

VERSIONS = {"random_words": 1, "passages": 1, "replay": 1, "overlap": 1}

PROMPT = "Complete the following partial passage:\n\n"  # section B.5
MIN_DOCUMENT_WORDS = 100


def draw(mix: Mix, facts: Sequence[Pair], earlier: Mapping[str, list[Pair]], seed: int, position: int) -> list[Pair]:
    """All pairs that a stage's `mix` adds to its `facts`, source by source.

    `earlier` are the facts of the stages before, by name. Ratios count: round(ratio x facts). Raises BadInput for a
    text that has too little, and for an overlap of words or passages with the facts, the earlier ones included:
    that would be replay by another name.
    """
    pairs: list[Pair] = []
    if mix.random_words:
        rng = random.Random(f"random_words {seed} {position}")
        pairs += random_words(mix.random_words, round(mix.random_words.ratio * len(facts)), rng)
    if mix.passages:
        rng = random.Random(f"passages {seed} {position}")
        pairs += passages(mix.passages, round(mix.passages.ratio * len(facts)), rng)
    if pairs:
        refuse_overlap(pairs, [*(fact for stage in earlier.values() for fact in stage), *facts])
    if mix.replay:
        replayed = earlier[mix.replay.stage]
        count = round(mix.replay.ratio * len(replayed))
        if count > len(replayed):
            raise BadInput(f"replay of {mix.replay.stage}: {count} pairs asked, the stage has {len(replayed)} facts")
        drawn = random.Random(f"replay {seed} {position}").sample(replayed, count)
        pairs += [replace(pair, source="replay") for pair in drawn]
    return pairs


def random_words(spec: RandomWords, count: int, rng: random.Random) -> list[Pair]:
    """`count` pairs of uniformly drawn words: `words` in the prompt, as many in the response."""
    words = vocabulary(spec.text)

    def sequence() -> str:
        return " ".join(rng.choices(words, k=spec.words))

    return [Pair(PROMPT + sequence(), sequence(), "random_words") for _ in range(count)]


def vocabulary(text: str) -> list[str]:
    """NLTK's words corpus as it is, or the distinct words (letters only) of pydoc or of a text file."""
    if text != "nltk":
        found = sorted(set(re.findall(r"[A-Za-z]{2,}", "\n".join(documents_of(text)))))
        if not found:
            raise BadInput(f"random_words: {text} holds no words")
        return found
    from nltk.corpus import words

    try:
        return list(words.words("en"))  # not its second file, 850 words of Basic English that are in the first too
    except LookupError:
        raise BadInput(
            "random_words: NLTK's words corpus is not on this machine. Fetch it once with "
            "`python -m nltk.downloader words`, point NLTK_DATA at a copy, or say `text: pydoc` or a text file"
        ) from None


def passages(spec: Passages, count: int, rng: random.Random) -> list[Pair]:
    """`count` passages drawn without replacement; the first `words` words ask for the next `words`.

    A document of a hub's stream gives one passage, its beginning, as in the paper. Local text (pydoc, files) is a few
    long documents: there, every run of 2 x `words` words is a passage.
    """
    size = 2 * spec.words
    if spec.hub:
        runs = [words[:size] for words in map(str.split, _stream(spec)) if len(words) >= max(size, MIN_DOCUMENT_WORDS)]
        source = f"{spec.hub}, its first {spec.documents} documents"
    else:
        texts = [document.split() for document in documents_of(str(spec.text))]
        runs = [words[i : i + size] for words in texts for i in range(0, len(words) - size + 1, size)]
        source = str(spec.text)
    if count > len(runs):
        raise BadInput(f"passages: {count} asked, {source} gives {len(runs)} of {size} words")
    return [
        Pair(PROMPT + " ".join(words[: spec.words]), " ".join(words[spec.words :]), "passages")
        for words in rng.sample(runs, count)
    ]


def documents_of(text: str) -> list[str]:
    """The documents of a local text: pydoc's topics, one text file, or every .txt file of a folder."""
    if text == "pydoc":
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)]
    path = Path(text)
    if not path.is_dir():
        return [read_text(path)]
    files = sorted(path.glob("*.txt"))
    if not files:
        raise BadInput(f"{path}: holds no .txt file")
    return [read_text(file) for file in files]


def _stream(spec: Passages) -> Iterator[str]:
    from datasets import load_dataset

    try:
        stream = load_dataset(str(spec.hub), spec.config, split=spec.split, revision=spec.revision, streaming=True)
        for number, document in enumerate(stream.take(spec.documents), start=1):
            if not isinstance(document.get(spec.column), str):
                raise BadInput(f"{spec.hub}: document {number} has no text in column {spec.column!r}")
            yield document[spec.column]
    except BadInput:
        raise
    except Exception as error:  # datasets raises a dozen kinds for a missing name, a missing network, a closed door
        raise BadInput(f"hub dataset {spec.hub!r} cannot be streamed ({type(error).__name__}: {error})") from error


# --- overlap -----------------------------------------------------------------------------------------------------


def refuse_overlap(mixing: Sequence[Pair], facts: Sequence[Pair]) -> None:
    """Raise BadInput, naming the rows, where a mixing pair gives a fact away (section B.6).

    That is: it holds a fact's subject (its whole prompt where the subject is not known) and one of its answers, or,
    for key-value recall, a key or a value. Words are compared, without case or punctuation.
    """
    phrases: dict[tuple[str, ...], list[tuple[int, bool]]] = {}  # words -> (fact, is it the subject?)
    for number, fact in enumerate(facts):
        phrases.setdefault(_words(fact.subject or fact.prompt), []).append((number, True))
        for answer in fact.answers:
            phrases.setdefault(_words(answer), []).append((number, False))
    phrases.pop((), None)
    lengths = sorted({len(phrase) for phrase in phrases})

    found: list[str] = []
    rows, numbers = _numbered(mixing), _numbered(facts)
    for pair, row in zip(mixing, rows, strict=True):
        words = _words(f"{pair.prompt} {pair.response}")
        subjects: set[int] = set()
        answers: set[int] = set()
        for n in lengths:
            for start in range(len(words) - n + 1):
                for number, is_subject in phrases.get(words[start : start + n], ()):
                    (subjects if is_subject else answers).add(number)
        for number in sorted(subjects | answers):
            if facts[number].source == "kvr" or (number in subjects and number in answers):
                fact = facts[number]
                at = f"{pair.source} row {row} holds {fact.source} fact {numbers[number]}"
                found.append(f"{at}: {fact.prompt!r} -> {fact.response!r}")
    if found:
        more = f"\n... and {len(found) - 5} more" if len(found) > 5 else ""
        raise BadInput("mixing data overlaps the facts:\n" + "\n".join(found[:5]) + more)


def _numbered(pairs: Sequence[Pair]) -> list[int]:
    """Each pair's number among those of its own source, from 1."""
    counts: Counter[str] = Counter()
    numbers = []
    for pair in pairs:
        counts[pair.source] += 1
        numbers.append(counts[pair.source])
    return numbers


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.casefold()))


def count_by_source(pairs: Iterable[Pair]) -> dict[str, int]:
    """`{"random_words": 200}`: what a plan or a log says of a stage's mixing data."""
    counts: dict[str, int] = {}
    for pair in pairs:
        counts[pair.source] = counts.get(pair.source, 0) + 1
    return counts
