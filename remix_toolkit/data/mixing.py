"""Mixing data, D_M: pairs added to a stage that share nothing with its facts (section 4.1), or, for replay, that do.

Every draw is seeded by the run's `seed` and the stage's position, so that two stages of one run mix in different words.

To add a corpus of the hub: a class with its defaults in recipe/schema.py, its name among the fields of `Mix` and in
`Profile.mix` there, and an entry in recipe/catalog.yaml; `passages` reads it. Another kind of source needs a few lines
in `draw` as well, and where its declaration (graph/lineage.py), its tokens (graph/plan.py) and its rows
(cli/inspect_data.py) are worked out.
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
from remix_toolkit.recipe.schema import Corpus, Mix, Passages, RandomWords, Replay
from remix_toolkit.recipe.yaml_file import read_text

VERSIONS = {**dict.fromkeys(Mix.model_fields, 1), "overlap": 2}

PROMPT = "Complete the following partial passage:\n\n"  # section B.5
MIN_DOCUMENT_WORDS = 100
NAMED = 10  # overlaps that a message names, at most


def draw(
    mix: Mix,
    facts: Sequence[Pair],
    earlier: Mapping[str, list[Pair]],
    seed: int,
    position: int,
    others: Sequence[Pair] = (),
    paraphrases: Sequence[Pair] = (),
) -> tuple[list[Pair], Counter[str]]:
    """All pairs that a stage's `mix` adds to its `facts`, and how many were left out for an overlap, by source.

    `earlier` has the facts of the stages before, by name; `others` are the rows from which a format anchor is drawn,
    `paraphrases` the facts in other words.
    A ratio adds round(ratio x facts) pairs. Text that contains a fact, of this stage or an earlier one, would be replay
    by another name: such words and documents are not drawn, and in a text of the user's own they raise BadInput, which
    names them. So does a source that has too little. The facts of a replay come last; all of them do where as many as
    the ratio says are drawn anew for each epoch.
    """
    pairs: list[Pair] = []
    left_out: Counter[str] = Counter()
    index = FactIndex([*(fact for stage in earlier.values() for fact in stage), *facts])
    if words := mix.random_words:
        count, rng = round(words.ratio * len(facts)), random.Random(f"random_words {seed} {position}")
        sequences = islice(random_words(words, rng), 11 * count)  # enough, unless most of them contain a fact
        pairs += _without_facts("random_words", sequences, count, index, left_out)
    for name, corpus in mix.corpora().items():
        count, rng = round(corpus.ratio * len(facts)), random.Random(f"{name} {seed} {position}")
        pairs += _without_facts(name, passages(name, corpus, count, rng), count, index, left_out)
    pairs += [replace(pair, source="paraphrases") for pair in paraphrases]
    if mix.format_anchor:
        count, rng = round(mix.format_anchor.ratio * len(facts)), random.Random(f"format_anchor {seed} {position}")
        drawn = (replace(pair, source="format_anchor") for pair in rng.sample(others, len(others)))
        pairs += _without_facts("format_anchor", drawn, count, index, left_out)
    if mix.replay:
        facts_again, count = earlier[mix.replay.stage], replayed(mix.replay, earlier)
        rng = random.Random(f"replay {seed} {position}")
        candidates = rng.sample(facts_again, len(facts_again) if mix.replay.redraw and count else count)
        pairs += [replace(pair, source="replay") for pair in candidates]
    return pairs, left_out


def replayed(replay: Replay, earlier: Mapping[str, list[Pair]]) -> int:
    """How many facts a replay adds to an epoch. Raises BadInput where the earlier stage has fewer."""
    facts = len(earlier[replay.stage])
    count = round(replay.ratio * facts)
    if count > facts:
        raise BadInput(f"replay of {replay.stage}: {count} pairs requested, but the stage has {facts} facts")
    return count


def count_by_source(pairs: Iterable[Pair]) -> dict[str, int]:
    """`{"random_words": 200}`: a stage's mixing data as plans and logs show it."""
    return dict(Counter(pair.source for pair in pairs))


def random_words(spec: RandomWords, rng: random.Random) -> Iterator[Pair]:
    """Pairs of uniformly drawn words, without end: `words` in the prompt, as many in the response."""
    words = vocabulary(spec.text)

    def sequence() -> str:
        return " ".join(rng.choices(words, k=spec.words))

    while True:
        yield Pair(PROMPT + sequence(), sequence(), "random_words")


def passages(name: str, spec: Corpus, count: int, rng: random.Random) -> Iterator[Pair]:
    """Passages drawn without replacement, `count` at least: `words` words are the prompt, as many more the response.

    A document of a corpus makes one passage, its beginning, if it has 100 words or more, as in the paper. A text of the
    user's own (pydoc, files) is a few long documents: there, every run of 2 x `words` words is a passage, and no more
    than `count` are drawn, so that one which contains a fact is an error. Raises BadInput where there are too few.
    """
    texts = passage_texts(name, spec)
    own_text = spec.text if isinstance(spec, Passages) else None
    if count > len(texts):
        source = own_text or f"{spec.path or spec.hub}, its first {spec.documents:,} documents"
        raise BadInput(f"{name}: {count} passages requested, but {source} gives {len(texts)} of {2 * spec.words} words")
    drawn = map(str.split, rng.sample(texts, count if own_text else len(texts)))
    return (Pair(PROMPT + " ".join(words[: spec.words]), " ".join(words[spec.words :]), name) for words in drawn)


def _without_facts(
    source: str, drawn: Iterable[Pair], count: int, index: FactIndex, left_out: Counter[str]
) -> list[Pair]:
    """The first `count` of the drawn pairs that contain no fact. Raises BadInput where there are not so many."""
    pairs: list[Pair] = []
    overlaps: list[str] = []
    for pair in drawn:
        if len(pairs) == count:
            break
        if fact := index.first_fact_in(pair):
            text = pair.text.removeprefix(PROMPT)
            overlaps.append(f"\n  {fact.source} {fact.prompt!r} -> {fact.response!r}: in {text[:80]!r}...")
            left_out[source] += 1
        else:
            pairs.append(pair)
    if len(pairs) < count:
        raise BadInput(
            f"{source}: {count} pairs requested, but {len(overlaps)} of those drawn contain a fact:"
            + "".join(overlaps[:NAMED])
            + (f"\n  and {len(overlaps) - NAMED} more" if len(overlaps) > NAMED else "")
        )
    return pairs


def passage_texts(name: str, spec: Corpus) -> list[str]:
    """Every run of 2 x `words` words that can become a passage."""
    size = 2 * spec.words
    if isinstance(spec, Passages) and spec.text:
        documents = map(str.split, local_documents(spec.text))
        return [" ".join(words[i : i + size]) for words in documents for i in range(0, len(words) - size + 1, size)]
    rows = files.read_corpus(Path(spec.path)) if spec.path else hub.read_rows(hub.select(name, spec))
    texts = (row.value(spec.column, str) for row in islice(rows, spec.documents))
    least = max(size, MIN_DOCUMENT_WORDS)
    beginnings = (text.split(maxsplit=least)[:least] for text in texts)
    return [" ".join(words[:size]) for words in beginnings if len(words) == least]


def vocabulary(text: str, download: bool = False) -> list[str]:
    """NLTK's words corpus as it is, or the distinct words (letters only) of pydoc or of a text file.

    With `download`, a corpus that is not on this machine is downloaded. Raises BadInput where it cannot be had.
    """
    if text != "nltk":
        distinct = sorted(set(re.findall(r"[A-Za-z]{2,100}", "\n".join(local_documents(text)))))
        if not distinct:
            raise BadInput(f"random_words: {text} contains no words")
        return distinct
    import nltk
    from nltk.corpus import words

    try:
        return list(words.words("en"))  # without the second file, 850 words of Basic English that the first has too
    except LookupError:
        if download and nltk.download("words", quiet=True):
            return vocabulary(text)
        raise BadInput(
            "random_words: NLTK's words corpus is not on this machine. Get it once with `remix data prepare RECIPE` "
            "or `python -m nltk.downloader words`, point NLTK_DATA at a copy, or set `text`: pydoc or a text file"
        ) from None


def local_documents(text: str) -> list[str]:
    """The documents of a local text: pydoc's topics, one text file, or every .txt file of a folder."""
    if text == "pydoc":
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)]
    path = Path(text)
    paths = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not paths:
        raise BadInput(f"{path}: has no .txt file")
    return [read_text(file) for file in paths]
