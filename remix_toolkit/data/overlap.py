"""Overlap of texts with facts (section B.6): what gives a fact away, found with an Aho-Corasick automaton.

A text gives a fact away if it holds the fact's subject (its whole prompt where the subject is not known) and one of its
answers, or, for key-value recall, a key or a value. Whole words are compared, without case or punctuation.
"""

import re
from collections.abc import Sequence

from ahocorasick import Automaton

from remix_toolkit.data.pair import Pair

WORD = re.compile(r"\w+")


class Index:
    """The subjects and answers of some facts, searched for in one pass over a text."""

    def __init__(self, facts: Sequence[Pair]) -> None:
        self.facts = facts
        phrases: dict[str, list[tuple[int, bool]]] = {}  # phrase -> (fact, is it the subject?)
        for number, fact in enumerate(facts):
            if not fact.answers:
                continue  # an instruction is no fact
            phrases.setdefault(_words(fact.subject or fact.prompt), []).append((number, True))
            for answer in fact.answers:
                phrases.setdefault(_words(answer), []).append((number, False))
        phrases.pop("  ", None)  # an answer without any letter or digit
        self.automaton = Automaton()
        for phrase, of in phrases.items():
            self.automaton.add_word(phrase, of)
        if phrases:
            self.automaton.make_automaton()

    def given_away(self, text: str) -> list[int]:
        """The numbers of the facts that the text gives away, from 0, in order."""
        if not len(self.automaton):
            return []
        subjects: set[int] = set()
        answers: set[int] = set()
        hits = {id(of): of for _, of in self.automaton.iter(_words(text))}
        for of in hits.values():
            for number, is_subject in of:
                (subjects if is_subject else answers).add(number)
        alone = {number for number in subjects | answers if self.facts[number].source == "kvr"}
        return sorted(alone | (subjects & answers))

    def first(self, pair: Pair) -> Pair | None:
        """The first fact that this pair gives away, or None."""
        found = self.given_away(pair.text)
        return self.facts[found[0]] if found else None


def _words(text: str) -> str:
    """The words, lower-case, a space before and after each: phrases match whole words only."""
    words = " ".join(WORD.findall(text.casefold()))
    return f" {words} "
