"""Mixing data, D_M: pairs added to a stage that share nothing with its facts (section 4.1), or, for replay, that do.

Every draw is seeded by the run's `seed` and the stage's place in the sequence, so that two stages of one run do not
mix in the same words.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from remix_toolkit.data import files, hub
from remix_toolkit.data.overlap import FactIndex
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.catalog import local_alternative
from remix_toolkit.recipe.schema import Corpus, Mix, Passages, RandomWords
from remix_toolkit.recipe.yaml_file import read_text

VERSIONS = {**dict.fromkeys(Mix.model_fields, 1), "overlap": 2}

PROMPT = "Complete the following partial passage:\n\n"  # section B.5
MIN_DOCUMENT_WORDS = 100


def draw(
    mix: Mix, facts: Sequence[Pair], earlier: Mapping[str, list[Pair]], seed: int, position: int
) -> tuple[list[Pair], Counter[str]]:
    """All pairs that a stage's `mix` adds to its `facts`, source by source, and how many were left out for an overlap.

    `earlier` are the facts of the stages before, by name. Ratios count: round(ratio x facts). What gives a fact away,
    an earlier one included, would be replay by another name: such words and documents are not drawn; in a text of
    the user's own they raise BadInput, which names the rows. BadInput too for a source that has too little.
    """
    pairs: list[Pair] = []
    left_out: Counter[str] = Counter()
    if mix.random_words or mix.corpora():
        index = FactIndex([*(fact for stage in earlier.values() for fact in stage), *facts])
    if mix.random_words:
        rng = random.Random(f"random_words {seed} {position}")
        pairs += random_words(mix.random_words, round(mix.random_words.ratio * len(facts)), rng, index, left_out)
    for name, spec in mix.corpora().items():
        rng = random.Random(f"{name} {seed} {position}")
        pairs += passages(name, spec, round(spec.ratio * len(facts)), rng, index, left_out)
    if mix.replay:
        replayed = earlier[mix.replay.stage]
        count = round(mix.replay.ratio * len(replayed))
        if count > len(replayed):
            raise BadInput(f"replay of {mix.replay.stage}: {count} pairs asked, the stage has {len(replayed)} facts")
        drawn = random.Random(f"replay {seed} {position}").sample(replayed, count)
        pairs += [replace(pair, source="replay") for pair in drawn]
    return pairs, left_out


def random_words(
    spec: RandomWords, count: int, rng: random.Random, index: FactIndex, left_out: Counter[str]
) -> list[Pair]:
    """`count` pairs of uniformly drawn words: `words` in the prompt, as many in the response."""
    words = vocabulary(spec.text)

    def sequence() -> str:
        return " ".join(rng.choices(words, k=spec.words))

    pairs: list[Pair] = []
    while len(pairs) < count:
        pair = Pair(PROMPT + sequence(), sequence(), "random_words")
        if (fact := index.first_fact_in(pair)) is None:
            pairs.append(pair)
            continue
        left_out["random_words"] += 1
        if left_out["random_words"] > 10 * count:
            raise BadInput(f"random_words: most sequences of {spec.text}'s words hold a fact, such as {_shown(fact)}")
    return pairs


def vocabulary(text: str, fetch: bool = False) -> list[str]:
    """NLTK's words corpus as it is, or the distinct words (letters only) of pydoc or of a text file.

    A corpus that is not on this machine is fetched if asked. Raises BadInput where it cannot be had.
    """
    if text != "nltk":
        found = sorted(set(re.findall(r"[A-Za-z]{2,}", "\n".join(local_documents(text)))))
        if not found:
            raise BadInput(f"random_words: {text} holds no words")
        return found
    import nltk
    from nltk.corpus import words

    try:
        return list(words.words("en"))  # not its second file, 850 words of Basic English that are in the first too
    except LookupError:
        if fetch and nltk.download("words", quiet=True):
            return vocabulary(text)
        raise BadInput(
            "random_words: NLTK's words corpus is not on this machine. Fetch it once with `remix data prepare RECIPE` "
            "or `python -m nltk.downloader words`, point NLTK_DATA at a copy, or say `text: pydoc` or a text file"
        ) from None


def passages(
    name: str, spec: Corpus, count: int, rng: random.Random, index: FactIndex, left_out: Counter[str]
) -> list[Pair]:
    """`count` passages drawn without replacement; the first `words` words ask for the next `words`.

    A document of a corpus gives one passage, its beginning, if it has 100 words or more, as in the paper. A text of
    the user's own (pydoc, files) is a few long documents: there, every run of 2 x `words` words is a passage.
    """
    size = 2 * spec.words
    runs = passage_texts(name, spec)
    own = isinstance(spec, Passages) and spec.text
    source = own or f"{spec.path or spec.hub}, its first {spec.documents:,} documents"
    if count > len(runs):
        raise BadInput(f"{name}: {count} asked, {source} gives {len(runs)} of {size} words")
    if own:
        pairs = [_passage(name, text, spec.words) for text in rng.sample(runs, count)]
        _refuse(pairs, index)
        return pairs
    pairs = []
    shown = ""
    for at in rng.sample(range(len(runs)), len(runs)):
        if len(pairs) == count:
            break
        pair = _passage(name, runs[at], spec.words)
        if (fact := index.first_fact_in(pair)) is None:
            pairs.append(pair)
        else:
            left_out[name] += 1
            shown = _shown(fact)
    if len(pairs) < count:
        raise BadInput(
            f"{name}: {count} asked; of {len(runs)} passages of {size} words, {left_out[name]} hold a fact, "
            f"such as {shown}"
        )
    return pairs


def passage_texts(name: str, spec: Corpus) -> list[str]:
    """Every run of 2 x `words` words that a passage can be made of."""
    size = 2 * spec.words
    if isinstance(spec, Passages) and spec.text:
        texts = [document.split() for document in local_documents(spec.text)]
        return [" ".join(words[i : i + size]) for words in texts for i in range(0, len(words) - size + 1, size)]
    least = max(size, MIN_DOCUMENT_WORDS)
    beginnings = (document.split(maxsplit=least)[:least] for document in _documents(name, spec))
    return [" ".join(words[:size]) for words in beginnings if len(words) == least]


def _passage(name: str, text: str, half: int) -> Pair:
    words = text.split()
    return Pair(PROMPT + " ".join(words[:half]), " ".join(words[half:]), name)


def _refuse(pairs: Sequence[Pair], index: FactIndex) -> None:
    """Raise BadInput, naming the rows, where a text of the user's own gives facts away."""
    numbers = _numbered(index.facts)
    found = [
        f"{pair.source} row {row} holds {index.facts[i].source} fact {numbers[i]}: {_shown(index.facts[i])}, in "
        f"{pair.text.removeprefix(PROMPT)[:80]!r}..."
        for row, pair in enumerate(pairs, start=1)
        for i in index.facts_in(pair.text)
    ]
    if found:
        more = f"\n... and {len(found) - 5} more" if len(found) > 5 else ""
        raise BadInput("mixing data overlaps the facts:\n" + "\n".join(found[:5]) + more)


def _shown(fact: Pair) -> str:
    return f"{fact.prompt!r} -> {fact.response!r}"


def _numbered(pairs: Sequence[Pair]) -> list[int]:
    """Each pair's number among those of its own source, from 1."""
    counts: Counter[str] = Counter()
    numbers = []
    for pair in pairs:
        counts[pair.source] += 1
        numbers.append(counts[pair.source])
    return numbers


def hub_selection(name: str, spec: Corpus) -> hub.Selection:
    """What is read of the hub for this source."""
    return hub.Selection(
        str(spec.hub),
        spec.config,
        spec.split,
        spec.revision,
        (spec.column,),
        spec.documents,
        instead=local_alternative(name),
    )


def _documents(name: str, spec: Corpus) -> Iterator[str]:
    if spec.path:
        yield from islice(files.read_documents(Path(spec.path), spec.column), spec.documents)
        return
    for place, row in hub.read_rows(hub_selection(name, spec)):
        if not isinstance(row[spec.column], str):
            raise BadInput(f"{place}: {spec.column} is {row[spec.column]!r}; a text is expected")
        yield row[spec.column]


def local_documents(text: str) -> list[str]:
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


def count_by_source(pairs: Iterable[Pair]) -> dict[str, int]:
    """`{"random_words": 200}`: what a plan or a log says of a stage's mixing data."""
    counts: dict[str, int] = {}
    for pair in pairs:
        counts[pair.source] = counts.get(pair.source, 0) + 1
    return counts
