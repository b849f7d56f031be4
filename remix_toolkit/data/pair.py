"""A (prompt, response) pair: what every task and every mixing source produces."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """One (prompt, response) pair. Recall accepts any of `answers`."""

    prompt: str
    response: str
    source: str  # the task or mixing source that it comes from
    answers: tuple[
        str, ...
    ] = ()  # the gold answers, the trained response first; empty for instructions and mixing data
    subject: str = ""  # what the fact is about, if known; the search for overlaps looks for it beside an answer
    history: tuple[tuple[str, str], ...] = ()  # the earlier turns of a dialogue, (user, assistant), trained on as well
    one_line: bool = False  # under a few-shot prompt the answer ends with its line, as the exemplars' answers do

    @property
    def text(self) -> str:
        """All of its text: earlier turns, prompt and response, a line each."""
        return "\n".join([*(turn for turns in self.history for turn in turns), self.prompt, self.response])
