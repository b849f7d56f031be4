"""Overlap of texts with facts (section B.6): what gives a fact away, found with an Aho-Corasick automaton.

A text gives a fact away if it holds the fact's subject (its whole prompt where the subject is not known) and one of its
answers, or, for key-value recall, a key or a value. Whole words are compared, without case or punctuation.
"""

import re
from collections.abc import Sequence

from ahocorasick import Automaton

from remix_toolkit.data.pair import Pair

WORD = re.compile(r"\w+")


NOTHING = "  "  # a phrase without any letter or digit


class FactIndex:
    """The subjects and answers of some facts, searched for in one pass over a text."""

    def __init__(self, facts: Sequence[Pair]) -> None:
        self.facts = facts
        self.answers = [{_words(answer) for answer in fact.answers} - {NOTHING} for fact in facts]
        self.about: dict[str, list[int]] = {}  # phrase -> the facts it is about: their subject; for KVR, key or value
        for number, fact in enumerate(facts):
            if fact.answers:  # an instruction is no fact
                alone = self.answers[number] if fact.source == "kvr" else set()
                for phrase in {_words(fact.subject or fact.prompt), *alone} - {NOTHING}:
                    self.about.setdefault(phrase, []).append(number)
        self.automaton = Automaton()
        for phrase in set(self.about).union(*self.answers):
            self.automaton.add_word(phrase, phrase)
        if len(self.automaton):
            self.automaton.make_automaton()

    def facts_in(self, text: str) -> list[int]:
        """The numbers of the facts that the text gives away, from 0, in order."""
        if not len(self.automaton):
            return []
        found = {phrase for _, phrase in self.automaton.iter(_words(text))}
        facts = {number for phrase in found for number in self.about.get(phrase, ())}
        return sorted(n for n in facts if self.facts[n].source == "kvr" or not found.isdisjoint(self.answers[n]))

    def first_fact_in(self, pair: Pair) -> Pair | None:
        """The first fact that this pair gives away, or None."""
        found = self.facts_in(pair.text)
        return self.facts[found[0]] if found else None


def _words(text: str) -> str:
    """The words, lower-case, a space before and after each: phrases match whole words only."""
    words = " ".join(WORD.findall(text.casefold()))
    return f" {words} "
