"""What `remix data` shows: rows kept and dropped, lengths, pairs as text and as tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from remix_toolkit import store
from remix_toolkit.console import info, silence_libraries
from remix_toolkit.data import hub, mixing, tasks, tulu
from remix_toolkit.data.pair import Pair
from remix_toolkit.errors import BadInput
from remix_toolkit.recipe.catalog import catalog
from remix_toolkit.recipe.schema import Corpus, Recipe, Rows, Source
from remix_toolkit.stage import data

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def show_task(task: Rows, recipe: Recipe, limit: int, tokens: bool, runs: Path) -> dict[str, Any]:
    """`{task, profile, counts, pairs}`: what becomes of a task's rows, how long they are, and the first `limit`."""
    tokenizer = _tokenizer(recipe, runs)
    chosen, rows = data.choose(recipe, task, runs, ask=False)
    pairs = chosen[: len(chosen) - data.held_out(task)]
    examples, dropped = tulu.encode_all(tokenizer, pairs, recipe.train.get("max_length") or data.MAX_LENGTH)
    per_device = recipe.train.get("per_device_train_batch_size", 8)
    lengths = data.lengths([e for e in examples if e], recipe.global_batch_size, per_device)
    counts = {"facts": len(pairs) - sum(dropped.values()), "held_out": data.held_out(task)}
    return {
        "task": tasks.task_name(task),
        "profile": recipe.profile,
        "counts": {**counts, "dropped": dict(dropped), "read": rows, **lengths},
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
        stages.append({"stage": name, "task": task, "counts": built.counts, "pairs": pairs})
    return {"recipe": recipe.name, "profile": recipe.profile, "seed": recipe.seed, "stages": stages}


def list_catalog() -> list[dict[str, Any]]:
    """`{name, kind, about, licence, size, hub, local}` of every task and mixing source."""
    return [{"name": name, **entry.model_dump()} for name, entry in catalog().items()]


def prepare(recipes: list[Recipe], say: Any) -> list[dict[str, Any]]:
    """Have on this machine all that the recipes read; `{name, rows, path}` of each source.

    What is on the hub is fetched, NLTK's words too; what is local is checked. Raises BadInput, a line for each source
    that cannot be had, or RunFailed where a stream broke.
    """
    wanted: dict[hub.Selection, str] = {}
    local: dict[Rows, str] = {}
    texts: dict[tuple[str, Corpus], None] = {}
    vocabularies: dict[str, None] = {}
    for stage in [stage for recipe in recipes for stage in recipe.stages.values()]:
        for rows in (stage.data, *stage.recall):
            if isinstance(rows, Source) and rows.path is None:
                wanted.setdefault(tasks.hub_selection(rows), tasks.task_name(rows))
            else:
                local.setdefault(rows, tasks.describe(rows))
        for name, corpus in stage.mix.corpora().items():
            if corpus.path or getattr(corpus, "text", None):
                texts[name, corpus] = None
            else:
                wanted.setdefault(mixing.hub_selection(name, corpus), name)
        if stage.mix.random_words:
            vocabularies[stage.mix.random_words.text] = None
    for what, name in wanted.items():
        about, kept = catalog()[name], hub.cached_source(what)
        part = f"the first {what.first:,} rows of " if what.first else ""
        state = f"here already, {kept['rows']:,} rows" if kept else "to fetch"
        info(f"{name}: {part}{what.name} ({about.size}; licence {about.licence}): {state}")

    done: list[dict[str, Any]] = []
    missing: list[str] = []

    def have(name: str, path: str | None, rows: int) -> None:
        done.append({"name": name, "rows": rows, "path": path})
        info(f"{name}: {rows:,} usable")

    for task, name in local.items():
        with _collected(missing):
            have(name, getattr(task, "path", None), len(tasks.read_task(task, 0).pairs))
    for name, corpus in texts:
        path = corpus.path or getattr(corpus, "text", None)
        with _collected(missing):
            have(f"{name} ({path})", path, len(mixing.passage_texts(name, corpus)))
    for text in vocabularies:
        with _collected(missing):
            have(f"random_words ({text})", text, len(mixing.vocabulary(text, fetch=True)))
    for what, name in wanted.items():
        if commit := hub.newer_commit(what):
            hub.warn_newer_commit(what, commit)
        with _collected(missing):
            have(name, str(what.folder), sum(1 for _ in hub.read_rows(what)))
    if missing:
        raise BadInput("\n".join(missing))
    return done


@contextmanager
def _collected(missing: list[str]) -> Iterator[None]:
    """Say of each source what it needs, not of the first only."""
    try:
        yield
    except BadInput as error:
        missing.append(str(error))


# --- on the screen -----------------------------------------------------------------------------------------------


def print_data(shown: dict[str, Any]) -> None:
    """`remix data` for a person."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for part in shown.get("stages", [shown]):
        counts = part["counts"]
        title = f"{part['stage']}: {part['task']}" if "stage" in part else part["task"]
        console.print(f"{title}, under profile {shown['profile']}", style="bold")
        for line in _lines(counts):
            console.print(f"  {line}")
        for pair in part["pairs"]:
            for user, assistant in pair.get("history", []):
                console.print(f"  [{pair['source']}] {user!r} -> {assistant!r}, and on:")
            console.print(f"  [{pair['source']}] {pair['prompt']!r} -> {pair['response']!r}")
            if "trained" in pair:
                console.print(f"    trained on: {pair['trained']!r}")
                console.print(f"    input_ids: {pair['input_ids']}\n    labels:    {pair['labels']}")


def _lines(counts: dict[str, Any]) -> list[str]:
    read = counts["read"]
    taken = f"taken {counts['facts']}" + (f" and {counts['held_out']} held out" if counts.get("held_out") else "")
    lines = [f"rows: {read['rows']} read, {read['usable']} usable, {taken}"]
    for what, why in (("dropped", read["dropped"]), ("left out", read["left_out"]), ("kept, with", read["noted"])):
        lines += [f"  {what}: {n}, {reason}" for reason, n in why.items()]
    if read["familiarity_unknown"]:
        lines.append(f"  not asked yet: {read['familiarity_unknown']}, as if they qualified (`remix familiar` asks)")
    if read["exemplars"]:
        lines.append(f"  {read['exemplars']} are the few-shot prompt's exemplars")
    lines += [f"  dropped: {n}, {reason}" for reason, n in counts["dropped"].items()]
    if counts.get("mixing"):
        lines.append("mixing: " + " + ".join(f"{n} {source}" for source, n in counts["mixing"].items()))
        overlap = counts["overlap"]
        found = ", ".join(f"{n} {source}" for source, n in overlap["mixing_left_out"].items())
        lines.append(f"  overlap: {overlap['facts']} facts looked for in it; left out for one: {found or 'none'}")
    for facts, n in counts.get("overlap", {}).get("measured", {}).items():
        lines.append(f"measured too: {facts}; {n} of its facts are in what this stage trains on")
    percentiles = ", ".join(f"{p}%: {n}" for p, n in counts["length_percentiles"].items())
    epoch = counts["tokens_per_epoch"]
    lines.append(f"tokens per example, percentiles: {percentiles}")
    steps = f" in {counts['steps_per_epoch']} steps" if "steps_per_epoch" in counts else ""
    padded = f"{epoch['without_padding']:,} without padding, {epoch['with_padding']:,} with"
    lines.append(f"tokens per epoch{steps}: {padded}")
    return lines


def print_catalog() -> None:
    """`remix data list` for a person."""
    console = Console(width=None if Console().is_terminal else 200)
    table = Table(box=None, header_style="bold")
    for column in ("name", "kind", "about", "licence", "size", "hub", "local format"):
        table.add_column(column, overflow="fold")
    for entry in list_catalog():
        table.add_row(*(entry[key] or "-" for key in ("name", "kind", "about", "licence", "size", "hub", "local")))
    console.print(table)


def _pair(pair: Pair, tokenizer: "PreTrainedTokenizerBase | None") -> dict[str, Any]:
    shown: dict[str, Any] = {"source": pair.source, "prompt": pair.prompt, "response": pair.response}
    if pair.answers:
        shown["answers"] = pair.answers
    if pair.history:
        shown["history"] = pair.history
    if tokenizer:
        example = tulu.encode(tokenizer, pair)
        shown |= {"input_ids": example.input_ids, "labels": example.labels}
        shown["trained"] = tokenizer.decode([label for label in example.labels if label != -100])
    return shown


def _tokenizer(recipe: Recipe, runs: Path) -> "PreTrainedTokenizerBase":
    from remix_toolkit.data.tiny import base_model

    silence_libraries()
    if recipe.base == "tiny":
        store.open_store(runs)
    return tulu.load_tokenizer(*base_model(recipe, runs))
