"""What `remix data` shows, as records: rows kept and dropped, lengths, pairs as text and as tokens."""

from collections.abc import Callable, Sized
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remix_toolkit import store
from remix_toolkit.console import info, silence_libraries, warn
from remix_toolkit.data import encoding, hub, mixing, tasks
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.catalog import catalog
from remix_toolkit.recipe.schema import Recipe, Rows, Source
from remix_toolkit.recipe.sft_fields import device_batch, max_length
from remix_toolkit.recipe.tiny_size import tiny_size
from remix_toolkit.stage import data
from remix_toolkit.stage.take_rows import take_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def show_task(task: Rows, recipe: Recipe, limit: int, tokens: bool, runs: Path) -> dict[str, Any]:
    """`{task, profile, counts, pairs}`: what becomes of a task's rows, how long they are, and the first `limit`."""
    tokenizer = _tokenizer(recipe, runs)
    pairs, held_out, read = take_rows(recipe, task, runs, ask=False)
    examples, dropped = encoding.encode_all(tokenizer, pairs, max_length(recipe.train))
    lengths = data.lengths([e for e in examples if e], recipe.global_batch_size, device_batch(recipe.train))
    counts = {"facts": len(pairs) - sum(dropped.values()), "held_out": len(held_out)}
    return {
        "task": task.task,
        "profile": recipe.profile,
        "counts": {**counts, "dropped": dict(dropped), "read": read.model_dump(), **lengths},
        "pairs": [_pair(pair, tokenizer if tokens else None) for pair in pairs[:limit]],
    }


def show_recipe(recipe: Recipe, limit: int, tokens: bool, runs: Path) -> dict[str, Any]:
    """`{recipe, profile, seed, stages: [{stage, task, counts, pairs}]}`: what each stage trains on, checked."""
    tokenizer = _tokenizer(recipe, runs)
    stages = []
    for name, built in data.build_all(recipe, list(recipe.stages), tokenizer, runs, ask=False).items():
        sample: dict[str, list[Pair]] = {}
        for pair in [*built.facts, *built.mixing]:
            sample.setdefault(pair.source, []).append(pair)
        pairs = [_pair(pair, tokenizer if tokens else None) for kind in sample.values() for pair in kind[:limit]]
        task = tasks.describe(recipe.stages[name].data)
        stages.append({"stage": name, "task": task, "counts": built.counts.model_dump(), "pairs": pairs})
    return {"recipe": recipe.name, "profile": recipe.profile, "seed": recipe.seed, "stages": stages}


def prepare(recipes: list[Recipe]) -> list[dict[str, Any]]:
    """Have on this machine all data that the recipes read; `{name, rows, path}` of each source.

    Datasets of the hub and NLTK's words are downloaded, local files are read once. Raises BadInput with a line for each
    source that cannot be had, RunFailed where a download broke off.
    """
    stages = [stage for recipe in recipes for stage in recipe.stages.values()]
    downloads: dict[tuple[str, str | None], Callable[[], Sized]] = {}  # name and path -> what reads the rows
    sources: dict[tuple[str, str | None], Callable[[], Sized]] = {}
    listed = [task for stage in stages for task in (stage.data, *stage.recall)]
    for task in dict.fromkeys([*listed, *filter(None, (recipe.known for recipe in recipes))]):
        if isinstance(task, Source) and task.path is None:
            selection = tasks.hub_selection(task)
            downloads[task.task, str(selection.folder)] = partial(_download, task.task, selection)
        else:
            sources[tasks.describe(task), getattr(task, "path", None)] = partial(_usable_rows, task)
    for name, corpus in dict.fromkeys(item for stage in stages for item in stage.mix.corpora().items()):
        if path := corpus.path or getattr(corpus, "text", None):
            sources[f"{name} ({path})", path] = partial(mixing.passage_texts, name, corpus)
        else:
            selection = hub.select(name, corpus)
            downloads[name, str(selection.folder)] = partial(_download, name, selection)
    for words in [stage.mix.random_words for stage in stages if stage.mix.random_words]:
        sources[f"random_words ({words.text})", words.text] = partial(mixing.vocabulary, words.text, download=True)
    prepared, errors = [], []
    for (name, path), read in {**sources, **downloads}.items():
        try:
            rows = len(read())
        except BadInput as error:
            errors.append(str(error))
            continue
        prepared.append({"name": name, "rows": rows, "path": path})
        info(f"{name}: {rows:,} usable rows")
    if errors:
        raise BadInput("\n".join(errors))
    return prepared


def _usable_rows(task: Rows) -> list[Pair]:
    return tasks.read_task(task, 0).pairs


def _download(name: str, selection: hub.Selection) -> range:
    """A dataset's rows; what is downloaded, or that it is here already and whether upstream has changed, is printed."""
    about = catalog()[name]
    part = f"the first {selection.first:,} rows of " if selection.first else ""
    state = "here already" if hub.cached_file(selection) else "to download"
    info(f"{name}: {part}{selection.name} ({about.size}; licence {about.licence}): {state}")
    if commit := hub.newer_commit(selection):
        warn(
            f"{selection.hub} is now at {commit[:12]}; the rows on this machine are from an earlier commit and stay in "
            f"use. To use the new ones, set revision: {commit[:12]} or delete {selection.folder}"
        )
    return range(sum(1 for _ in hub.read_rows(selection)))


def _pair(pair: Pair, tokenizer: "PreTrainedTokenizerBase | None") -> dict[str, Any]:
    shown: dict[str, Any] = {"source": pair.source, "prompt": pair.prompt, "response": pair.response}
    if pair.answers:
        shown["answers"] = pair.answers
    if pair.history:
        shown["history"] = pair.history
    if tokenizer:
        example = encoding.encode(tokenizer, pair)
        shown |= {"input_ids": example.input_ids, "labels": example.labels}
        shown["trained"] = tokenizer.decode([label for label in example.labels if label != -100])
    return shown


def _tokenizer(recipe: Recipe, runs: Path) -> "PreTrainedTokenizerBase":
    silence_libraries()
    if tiny_size(recipe.base):
        store.open_store(runs)
    return encoding.load_tokenizer(*store.base_model(recipe, runs))
