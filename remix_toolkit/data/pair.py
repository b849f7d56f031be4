"""A (prompt, response) pair: what every task and mixing source gives."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """One (prompt, response) pair. Recall accepts any of `answers`."""

    prompt: str
    response: str
    source: str
    answers: tuple[str, ...] = ()  # gold answers, the trained response first; none for mixing data
    subject: str = ""  # what the fact is about, else its question; looked for beside an answer
    history: tuple[tuple[str, str], ...] = ()  # a dialogue's turns before: (user, assistant), trained on too
    one_line: bool = False  # under a few-shot prompt: the answer ends at its line's end, as the exemplars' do

    @property
    def text(self) -> str:
        """All that is said in it."""
        return "\n".join([*(turn for turns in self.history for turn in turns), self.prompt, self.response])
