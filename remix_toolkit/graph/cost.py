"""What each job of a sweep takes: steps, tokens and FLOPs, from its declaration, before anything is loaded.

Tokens are estimated from the mean length of a task's pairs. FLOPs are 6 for each weight and trained token, or 4 under
an adapter, and 2 for each token of a question.
"""

import math
import os
from dataclasses import dataclass

from remix_toolkit.data import tasks
from remix_toolkit.errors import BadInput
from remix_toolkit.graph import memory
from remix_toolkit.graph.hours import passes
from remix_toolkit.graph.jobs import Job
from remix_toolkit.recipe.catalog import catalog
from remix_toolkit.recipe.remedies import KL
from remix_toolkit.recipe.schema import Capitals, Factoid, Pairs, Recipe, Rows, Stage
from remix_toolkit.recipe.sft_fields import device_batch
from remix_toolkit.recipe.tiny_size import tiny_size

CHARACTERS_PER_TOKEN, OF_TINY = 4.0, 2.4
RANDOM_PER_TOKEN = 1.3  # characters of which no vocabulary has words
FORMAT, FORMAT_OF_TINY = 17, 12  # tokens of the Tulu format around a pair, counted with SmolLM2's tokenizer and tiny's
EOS = 1  # the token that ends a response
WORD = {"nltk": 10.6, "text": 6.0}  # characters of a word and its space: NLTK's words are long
INSTRUCTION = 42  # characters of the prompt before a passage
FEW_SHOT_PAIRS = 6  # pairs in a few-shot prompt


@dataclass
class Cost:
    """What one job takes. None: the declaration does not say."""

    steps: int | None
    tokens: float | None  # of the sequences, without padding; of a split, those of its questions
    flops: float | None
    trained_tokens: float = 0.0  # those with a loss


def costs(jobs: dict[str, Job]) -> dict[str, Cost]:
    """Each job's cost, in the graph's order."""
    by_job: dict[str, Cost] = {}
    for key, job in jobs.items():
        by_job[key] = _training_cost(job, by_job) if job.kind == "train" else _asking_cost(job)
    return by_job


def _training_cost(job: Job, before: dict[str, Cost]) -> Cost:
    recipe = job.cells[0].recipe.of_stage(job.name)
    stage = recipe.stages[job.name]
    if stage.as_trained:  # it is made of a stage that is trained in a job of its own
        return Cost(0, 0.0, 0.0)
    pairs = pairs_of(recipe, stage)
    if pairs is None:
        return Cost(None, None, None)
    examples = sum(n for n, _, _ in pairs)
    length = sum(n * tokens for n, tokens, _ in pairs) / examples
    trained = sum(n * tokens for n, _, tokens in pairs) / examples
    batch = recipe.global_batch_size
    if problem := recipe.too_few(examples):
        raise BadInput(f"{recipe.name}: {job.name}: {problem}")
    steps: int | None = math.ceil(stage.train.get("num_train_epochs", 3) * (examples // batch))
    if stage.match:
        other = before.get(stage.match.other, Cost(None, None, None))  # nothing is known here of another sweep's stage
        steps = other.steps
        if stage.match.tokens_of and other.tokens is not None:
            steps = round(other.trained_tokens / (batch * trained))
    elif stage.train.get("max_steps", -1) > 0:
        steps = stage.train["max_steps"]
    tokens = None if steps is None else round(steps * batch * length)
    return Cost(steps, tokens, training_flops(recipe, job.name, steps, tokens), (steps or 0) * batch * trained)


def training_flops(recipe: Recipe, name: str, steps: int | None, tokens: float | None) -> float | None:
    """What training a stage on so many tokens takes; None where these, or how large the model is, are not known."""
    recipe, stage = recipe.of_stage(name), recipe.stages[name]
    if recipe.parameters is None or steps is None or tokens is None:
        return None
    operations = passes(recipe) * (2.0 if stage.sam else 1.0) * tokens
    if stage.kl:  # forward in two models and backward in one, of a device's share of a batch
        if stage.kl.on == "generated":
            operations += 2 * KL.TEXTS * KL.TOKENS
            tokens = steps * recipe.global_batch_size * KL.TOKENS
        operations += (passes(recipe) + 2) * min(1.0, device_batch(stage.train) / recipe.global_batch_size) * tokens
    return recipe.parameters * operations


def _asking_cost(job: Job) -> Cost:
    """The cost of a split if all rows qualify, or of a measurement: one pass over all facts, and interference."""
    recipe = job.cells[0].recipe
    tokens: float | None
    if job.task:
        rows = _size(job.task) if job.rows is None else job.rows
        # All prompts begin with the same exemplars, which are run through once.
        tokens = None if rows is None else (rows + FEW_SHOT_PAIRS - 1) * _lengths(recipe, job.task)[0]
    else:
        stages = list(recipe.stages.values())[: recipe.position(job.name) + 1]
        lists = [stage.data for stage in stages if isinstance(stage.data, Factoid)] + stages[-1].recall
        tokens = sum((rows.size or 0) * _lengths(recipe, rows)[0] for rows in lists)
    flops = tokens and recipe.parameters and 2 * recipe.parameters * tokens + _interference_flops(recipe, job)
    return Cost(None, tokens, flops)


def _interference_flops(recipe: Recipe, job: Job) -> float:
    """Of a probe, if asked for: each pass goes forward and back to the activations, all of them to the weights."""
    needed = None if job.task else memory.measuring(recipe, job.name)
    if not needed or not needed.gradient_passes:
        return 0.0
    first = next(iter(recipe.stages.values()))
    rows = [(first.data.size or 0, *_lengths(recipe, first.data)), *(pairs_of(recipe, recipe.stages[job.name]) or [])]
    return (4 * needed.gradient_passes + 2) * (recipe.parameters or 0.0) * sum(n * tokens for n, tokens, _ in rows)


def pairs_of(recipe: Recipe, stage: Stage) -> list[tuple[int, float, float]] | None:
    """(how many, tokens of each, trained ones): the stage's own pairs and each mixing source. None: not declared."""
    if (size := _size(stage.data)) is None:
        return None
    pairs = [(size, *_lengths(recipe, stage.data))]
    halves = [(corpus.ratio, corpus.words * WORD["text"]) for corpus in stage.mix.corpora().values()]
    if words := stage.mix.random_words:  # the words of a vocabulary are longer than those of its text
        halves.insert(0, (words.ratio, words.words * WORD.get(words.text, 8.0)))
    pairs += [(round(ratio * size), *_tokens(recipe, INSTRUCTION + half, half)) for ratio, half in halves]
    if stage.mix.paraphrases:
        pairs.append(pairs[0])
    if anchor := stage.mix.format_anchor:
        pairs.append((round(anchor.ratio * size), *_lengths(recipe, recipe.stages[anchor.stage].data)))
    if stage.mix.replay:
        replayed = recipe.stages[stage.mix.replay.stage].data
        if (facts := _size(replayed)) is None:
            return None
        pairs.append((round(stage.mix.replay.ratio * facts), *_lengths(recipe, replayed)))
    return pairs


def _size(rows: Rows) -> int | None:
    """How many pairs; of a local file of one's own, or of the package, as many as it has."""
    is_here = isinstance(rows, Capitals) or (isinstance(rows, Pairs) and rows.path and os.path.exists(rows.path))
    if rows.size is None and is_here:
        return len(tasks.load_rows(rows, 0))
    return rows.size


def _lengths(recipe: Recipe, rows: Rows) -> tuple[float, float]:
    entry = catalog()[rows.task]
    return _tokens(recipe, *entry.characters, *entry.random)


def _tokens(
    recipe: Recipe, prompt: float, response: float, prompt_random: float = 0, response_random: float = 0
) -> tuple[float, float]:
    """The tokens of a pair with so many characters, some of them random, and how many of them are trained on."""
    tiny = tiny_size(recipe.base) is not None
    per_token = OF_TINY if tiny else CHARACTERS_PER_TOKEN
    trained = response / per_token + response_random / RANDOM_PER_TOKEN
    asked = prompt / per_token + prompt_random / RANDOM_PER_TOKEN
    return (FORMAT_OF_TINY if tiny else FORMAT) + asked + trained, EOS + trained
