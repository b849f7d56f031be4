"""Overlap of texts with facts (section B.6), found with an Aho-Corasick automaton.

A text contains a fact if it contains the fact's subject (its whole prompt where the subject is not known) and one of
its answers; for key-value recall, a key or a value alone. Whole words are compared, without case or punctuation.
"""

import re
from collections.abc import Sequence

from ahocorasick import Automaton

from remix_toolkit.data.pair import Pair

WORD = re.compile(r"\w+")
EMPTY = "  "  # a phrase without any letter or digit


class FactIndex:
    """The subjects and answers of some facts, searched for in one pass over a text."""

    def __init__(self, facts: Sequence[Pair]) -> None:
        self.facts = facts
        self.answers = [{_phrase(answer) for answer in fact.answers} - {EMPTY} for fact in facts]
        self.subjects: dict[str, list[int]] = {}  # phrase -> the facts it is the subject of; for KVR, the key or value
        for number, fact in enumerate(facts):
            if fact.answers:  # an instruction is not a fact
                alone = self.answers[number] if fact.source == "kvr" else set()
                for phrase in {_phrase(fact.subject or fact.prompt), *alone} - {EMPTY}:
                    self.subjects.setdefault(phrase, []).append(number)
        self.automaton = Automaton()
        for phrase in set(self.subjects).union(*self.answers):
            self.automaton.add_word(phrase, phrase)
        if len(self.automaton):
            self.automaton.make_automaton()

    def facts_in(self, text: str) -> list[int]:
        """The indices of the facts that the text contains, in order."""
        if not len(self.automaton):
            return []
        phrases = {phrase for _, phrase in self.automaton.iter(_phrase(text))}
        candidates = {number for phrase in phrases for number in self.subjects.get(phrase, ())}
        return sorted(
            number
            for number in candidates
            if self.facts[number].source == "kvr" or not phrases.isdisjoint(self.answers[number])
        )

    def first_fact_in(self, pair: Pair) -> Pair | None:
        """The first fact that the pair's text contains, or None."""
        numbers = self.facts_in(pair.text)
        return self.facts[numbers[0]] if numbers else None


def _phrase(text: str) -> str:
    """The words, lower-case, with a space before and after each, so that phrases match whole words only."""
    words = " ".join(WORD.findall(text.casefold()))
    return f" {words} "
