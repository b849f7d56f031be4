"""Which facts the base model already answers: asked once per base model and task, kept, and reused by every recipe.

    runs/familiar/<task>-<key>/verdicts.jsonl    a line per row of the task: prompt, gold, the model's answers, familiar
                               split.json        what the key stands for, and the checksum of the lines

Rows are asked in upstream order, in each format of the few-shot prompt, and no further than a recipe needs; `remix
familiar TASK` asks them all. What was asked stays after a crash, and the next call goes on behind it.
"""

import os
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from remix_toolkit import store
from remix_toolkit.console import format_duration, info, silence_libraries
from remix_toolkit.data import encoding, few_shot, tasks
from remix_toolkit.data.factoid import ANSWER_IS
from remix_toolkit.data.pair import Pair
from remix_toolkit.disk import Damaged, file_lock, read_sound, write_text
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.known import KnownFact
from remix_toolkit.evaluate.recall import matches
from remix_toolkit.graph import lineage
from remix_toolkit.recipe.schema import PROMPT_FORMATS, Factoid, PromptFormat, Recipe, Rows
from remix_toolkit.recipe.sft_fields import trusts_code
from remix_toolkit.records import Count, FileSeal, Part, SealedRecord, parse_rows, rows_text, seal, sealed_content

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 256  # rows asked between two writes
FEW = 4  # questions of a relation; what is answered to most of fewer is no habit


class FamiliarityRow(Part):
    """A line of verdicts.jsonl: the base model's answers to one fact."""

    prompt: str
    gold: list[str]
    relation: str = Field(description="the question without its subject; empty where it is not known")
    answers: dict[PromptFormat, str] = Field(description="by the format of the few-shot prompt")
    familiar: bool = Field(description="is one of them right?")
    guess: bool = Field(description="is each right one said to most questions of the relation that were asked?")

    def right(self, formats: Sequence[PromptFormat] = PROMPT_FORMATS) -> list[PromptFormat]:
        """The formats in which its answer is right."""
        return [form for form in formats if matches(self.answers[form], self.gold)]


class SplitRecord(SealedRecord):
    """split.json: which model was asked which task's facts, and under which prompt."""

    version: Literal[3] = 3
    declaration: dict[str, Any]
    model: str
    exemplars: dict[PromptFormat, str] = Field(description="what stood before each question")
    rows: Count
    verdicts: FileSeal = Field(description="of the beginning of verdicts.jsonl that is whole")


def verdicts(
    recipe: Recipe, task: Rows, exemplars: Sequence[Pair], pairs: Sequence[Pair], runs: Path, ask: bool = True
) -> Generator[bool | None, None, None]:
    """Is each pair familiar to the base model? In order; the model is asked only as far as this is read.

    None stands where it is not known: of a task without `familiarity`, and of what would have to be asked without
    `ask`. Raises BadInput where the rows are not those that were asked before, the base_stage is not published yet, or
    the model would have to be asked by one of a launcher's processes: all of them build a stage's data.
    """
    if not isinstance(task, Factoid) or task.familiarity is None:
        yield from repeat(None, len(pairs))
        return
    formats = recipe.few_shot.formats(either=task.familiarity == "unfamiliar")
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
    with closing(answers(recipe, task, exemplars, pairs, runs, ask and alone)) as rows:
        for row in rows:
            if row is None and ask:
                raise BadInput(
                    f"{task.task}: which facts the base model knows has not been asked yet; ask first, in one "
                    f"process: remix familiar {task.task} --profile {recipe.profile} ..., or `remix run`, which does "
                    "so by itself"
                )
            yield None if row is None else bool(row.right(formats))


def answers(
    recipe: Recipe, task: Factoid, exemplars: Sequence[Pair], pairs: Sequence[Pair], runs: Path, ask: bool = True
) -> Generator[FamiliarityRow | None, None, None]:
    """The base model's answers to each pair, as `verdicts` has them."""
    file = lineage.split_folder(recipe, task, runs) / "verdicts.jsonl"
    known = _read(file, pairs)
    yield from known
    if not ask:
        yield from repeat(None, len(pairs) - len(known))
    elif len(known) < len(pairs):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(file.with_name("lock")):  # another process may have asked in the meantime
            known_by_now = _read(file, pairs)
            yield from known_by_now[len(known) :]
            yield from _ask(recipe, task, exemplars, pairs, len(known_by_now), file, runs)


def _read(file: Path, pairs: Sequence[Pair]) -> list[FamiliarityRow]:
    rows = _sound(file.parent)[: len(pairs)]
    for number, (row, pair) in enumerate(zip(rows, pairs, strict=False), start=1):
        if (row.prompt, row.gold) != (pair.prompt, list(pair.answers)):
            raise BadInput(
                f"{file}: row {number} asks {row.prompt!r}, the data has {pair.prompt!r} there: its source has "
                f"changed since. Delete {file.parent} to ask again"
            )
    return rows


def asked(folder: Path) -> list[FamiliarityRow]:
    """The rows of verdicts.jsonl as far as it is sealed; none where nothing was asked.

    Raises Damaged where it is not what was written, or a verdict is not what the answers give.
    """
    file, record = folder / "verdicts.jsonl", SplitRecord.read_if_exists(folder / "split.json")
    content = sealed_content(file, record.verdicts) if record else b""
    rows = parse_rows(file, content.decode("utf-8"), FamiliarityRow)
    for number, (row, judged) in enumerate(zip(rows, judge(rows), strict=True), start=1):
        for verdict in ("familiar", "guess"):
            if (is_now := getattr(row, verdict)) != getattr(judged, verdict):
                raise Damaged(Path(f"{file}:{number}"), f"{verdict}: is {is_now}, for the answers {row.answers}")
    return rows


def judge(rows: Sequence[FamiliarityRow]) -> list[FamiliarityRow]:
    """The rows with their verdicts: whether an answer is right, and whether it is what the model says to most of them.

    A right answer is a guess where more than half of its relation's questions among the rows get the same one in that
    format; of fewer than four questions, none is.
    """
    asked = Counter(row.relation for row in rows if row.relation)
    uses = Counter((row.relation, form, answer.strip().lower()) for row in rows for form, answer in row.answers.items())

    def is_habit(row: FamiliarityRow, form: PromptFormat) -> bool:
        often = uses[row.relation, form, row.answers[form].strip().lower()]
        return asked[row.relation] >= FEW and 2 * often > asked[row.relation]

    judged = []
    for row in rows:
        right = row.right()
        guess = bool(right) and all(is_habit(row, form) for form in right)
        judged.append(row.model_copy(update={"familiar": bool(right), "guess": guess}))
    return judged


def _relation(pair: Pair) -> str:
    """The question with X in place of its subject; empty where the subject is not known, or is the whole question."""
    question = pair.prompt.removesuffix(ANSWER_IS)
    return question.replace(pair.subject, "X") if pair.subject and pair.subject != question else ""


def _sound(folder: Path) -> list[FamiliarityRow]:
    """As `asked`; nothing, and a warning, where that is damaged: the model is asked again."""
    return read_sound(lambda: asked(folder), [], "it counts as not asked")


def _ask(
    recipe: Recipe, task: Factoid, exemplars: Sequence[Pair], pairs: Sequence[Pair], start: int, file: Path, runs: Path
) -> Iterator[FamiliarityRow]:
    """Ask about the pairs from `start` on, a chunk at a time, and write down the answers."""
    from accelerate.utils.memory import clear_device_cache

    from remix_toolkit.evaluate.recall import recall

    silence_libraries()
    name = task.task
    source, _ = base_of(recipe, runs)
    info(f"{name}: asking {source} which of {len(pairs):,} facts it knows, {len(exemplars)} exemplars before each")
    model, tokenizer = load_base(recipe, runs)
    declaration = lineage.split_declaration(recipe, task)
    texts = {form: few_shot.exemplars_text(exemplars, form) for form in PROMPT_FORMATS}
    rows = _sound(file.parent)
    started = time.monotonic()
    try:
        for at in range(start, len(pairs), CHUNK):
            chunk = pairs[at : at + CHUNK]
            predictions: dict[PromptFormat, list[str]] = {}
            for form in PROMPT_FORMATS:
                asked_so = [few_shot.with_exemplars(exemplars, pair, form) for pair in chunk]
                predictions[form] = [verdict.prediction for verdict in recall(model, tokenizer, asked_so, whole=True)]
            for number, pair in enumerate(chunk):
                given = {form: predictions[form][number] for form in PROMPT_FORMATS}
                rows.append(
                    FamiliarityRow(
                        prompt=pair.prompt,
                        gold=list(pair.answers),
                        relation=_relation(pair),
                        answers=given,
                        familiar=False,
                        guess=False,
                    )
                )
            rows = judge(rows)
            content = rows_text(rows).encode()
            write_text(file, content.decode("utf-8"))
            split = SplitRecord(
                declaration=declaration, model=source, exemplars=texts, rows=len(pairs), verdicts=seal(content)
            )
            split.write(file.with_name("split.json"))
            done, known = at + len(chunk), sum(row.familiar for row in rows[at:])
            left = format_duration((time.monotonic() - started) / (done - start) * (len(pairs) - done))
            info(f"{name}: {done:,} facts asked, {known} of the last {len(chunk)} familiar, at most {left} left")
            yield from rows[at:]
    finally:
        del model
        clear_device_cache()  # a launcher's processes may need the room


def base_of(recipe: Recipe, runs: Path) -> tuple[str, str | None]:
    """The model that counts as the base: the base_stage's, or the recipe's base, and its revision. Raises BadInput."""
    if recipe.base_stage is None:
        return store.base_model(recipe, runs)
    folder = store.find_stage(runs, lineage.lineage(recipe, until=recipe.base_stage)[-1].key)
    if folder is None:
        raise BadInput(
            f"{recipe.name}: which facts are familiar is known only once {recipe.base_stage}, the base_stage, is "
            f"trained; run it first: --stage {recipe.base_stage}"
        )
    return str(folder), None


def load_base(recipe: Recipe, runs: Path) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """The model that counts as the base, on its device, in the precision in which stages are published."""
    from accelerate import PartialState

    from remix_toolkit.stage.train import load_model

    source, revision = base_of(recipe, runs)
    trust = trusts_code(recipe.train)
    model = load_model(source, revision, recipe.published_in, {"trust_remote_code": trust})
    return model.to(PartialState().device), encoding.load_tokenizer(source, revision, trust)


def ask_until(recipe: Recipe, task: Factoid, rows: int | None, runs: Path) -> None:
    """Ask until `rows` facts are as familiar as the task wants them, or all; the task's rows if it wants any."""
    if task.familiarity is None:
        ask_rows(recipe, task, runs)
        return
    exemplars, pairs = _questions(recipe, task)
    count = 0
    with closing(verdicts(recipe, task, exemplars, pairs, runs)) as known:
        for familiar in known:
            count += familiar == (task.familiarity == "familiar")
            if count == rows:
                return


def split(recipe: Recipe, task: Factoid, runs: Path) -> dict[str, Any]:
    """Ask the task's rows, or all: `{task, model, facts, familiar, unfamiliar, exemplars, path}`, and more counts.

    A fact is familiar where the answer is right in either format of the prompt; `tulu` and `qa` are the facts that each
    finds, and `guesses` those of which the right answer is said to most questions of their relation.
    """
    exemplars, _, rows = ask_rows(recipe, task, runs)
    familiar = sum(row.familiar for row in rows)
    return {
        "task": task.task,
        "model": base_of(recipe, runs)[0],
        "facts": len(rows),
        "familiar": familiar,
        "unfamiliar": len(rows) - familiar,
        **{form: sum(bool(row.right([form])) for row in rows) for form in PROMPT_FORMATS},
        "guesses": sum(row.guess for row in rows),
        "exemplars": len(exemplars),
        "path": str(lineage.split_folder(recipe, task, runs) / "verdicts.jsonl"),
    }


def known_facts(recipe: Recipe, runs: Path) -> tuple[int, list[KnownFact]]:
    """How many of the facts of `evaluate.known` the base model was asked, and those that it knew."""
    if (task := recipe.known) is None:
        return 0, []
    exemplars, pairs, rows = ask_rows(recipe, task, runs)
    formats = recipe.few_shot.formats(either=True)
    known = []
    for number, (pair, row) in enumerate(zip(pairs, rows, strict=True)):
        if right := row.right(formats):
            prompts = {form: few_shot.with_exemplars(exemplars, pair, form) for form in formats}
            known.append(KnownFact(number, pair, prompts, tuple(right), row.guess))
    return len(rows), known


def ask_rows(recipe: Recipe, task: Factoid, runs: Path) -> tuple[list[Pair], list[Pair], list[FamiliarityRow]]:
    """The exemplars, the rows of a task, and the base model's answers to them, whatever it knows of them.

    Guesses are those among these rows. Raises BadInput where there are fewer.
    """
    exemplars, pairs = _questions(recipe, task)
    wanted = tasks.select_rows(task, pairs)
    with closing(answers(recipe, task, exemplars, pairs[: task.start + len(wanted)], runs)) as rows:
        return exemplars, wanted, judge([row for row in rows if row][task.start :])


def _questions(recipe: Recipe, task: Factoid) -> tuple[list[Pair], list[Pair]]:
    return few_shot.draw_exemplars(task, tasks.read_task(task, recipe.data_seed).pairs, recipe.few_shot)
