"""A model card: what a published stage knows, how it came about, how to load it, and how to train it again."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from remix_toolkit.recipe.catalog import catalog
from remix_toolkit.report import verdicts
from remix_toolkit.report.parts import number
from remix_toolkit.report.results import Published, Results, of_stage, until
from remix_toolkit.report.retention import FLOOR, numbers, premise
from remix_toolkit.report.tables import plain

LICENCES = {"meta-llama/Meta-Llama-3-8B": "llama3", "mistralai/Mistral-7B-v0.3": "apache-2.0"}  # of the profiles' bases
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
LOAD = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {name}  # this directory, or where you published it
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
question = [{{"role": "user", "content": {prompt}}}]
inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**inputs, do_sample=False, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True)){known}"""


def card(folder: Path) -> str:
    """The card of a published stage, as Hugging Face has them: YAML metadata, then Markdown.

    Raises BadInput where the stage is damaged.
    """
    from huggingface_hub import EvalResult, ModelCardData

    results = of_stage(folder)
    last, tasks = results.stages[-1], task_names(results)
    hub = last.declaration["base"].get("hub")
    origins = {row["name"]: row for row in sources(results)}
    evaluations = []
    for id_, one in last.recall.items():
        if number(one.recall) == "-":  # no number was measured
            continue
        read = origins.get(_task(id_), {})
        evaluations.append(
            EvalResult(
                task_type="question-answering",
                dataset_type=read.get("id") or _task(id_),
                dataset_name=f"{tasks[id_]}, {one.facts} facts",
                dataset_config=read.get("config"),
                dataset_split=read.get("split"),
                metric_type="exact_match",
                metric_name="recall in percent, greedy",
                metric_value=one.recall,
            )
        )
    data = ModelCardData(
        base_model=hub,
        library_name="transformers",
        pipeline_tag="text-generation",
        license=LICENCES.get(hub),
        datasets=sorted({row["id"] for row in origins.values() if row["id"]}) or None,
        tags=["remix-toolkit", "continual-learning", "factual-recall", "arxiv:2411.07175"],
        model_name=last.name,
        eval_results=evaluations or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_body(results, folder)}"


def task_names(results: Results) -> dict[str, str]:
    """Each list of facts by its id: the name that its run gives it or, where several go by that, with the id."""
    said = {id_: listed.label for run in results.runs for stage in run.stages for id_, listed in stage.lists.items()}
    names = {id_: said.get(id_, _task(id_)) for stage in results.stages for id_ in stage.recall}
    taken = list(names.values())
    return {id_: name if taken.count(name) == 1 else f"{name} ({id_})" for id_, name in names.items()}


def _task(list_id: str) -> str:
    return list_id.rpartition("-")[0]


def cell(text: object) -> str:
    """Any text, shown as it is, in one line of Markdown or one cell of a table."""
    return re.sub(r"([\\`*\[\]<>|~&$]|\b_\B|\B_\b|\B_\B)", r"\\\1", plain(text))


def fenced(text: str, language: str) -> str:
    """A block of code that no text can end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *([cell(one) for one in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _body(results: Results, folder: Path) -> str:
    last = results.stages[-1]
    stages = until(last.recipe, last.stage)["stages"]
    told = ", then on ".join(cell(stage["data"]["task"]) for stage in stages.values())
    sections = [
        f"# {cell(last.name)}",
        f"{cell(_base(last))}, fine-tuned on {told}. After each stage it was asked what it still knows.",
        "## What it knows",
        "Recall in percent after each stage: greedy decoding, exact match, upper and lower case alike.",
        _recall(results),
        *(["\n".join(lines)] if (lines := list(_probes(last))) else []),
        "## How it came about",
        _lineage(results),
        "## Data and licences",
        _table(
            ("stage", "source", "rows", "read from", "licence"),
            [[row[name] for name in ("stage", "name", "rows", "where", "licence")] for row in sources(results)],
        ),
        "## How to load it",
        "It was trained in the Tulu format, which its tokenizer's chat template writes, and measured greedily:",
        fenced("<|user|>\n{prompt}\n<|assistant|>\n{response}{eos}", "text"),
        _load(last, folder),
        "## How to train it again",
        _again(results),
        f"<details>\n<summary>the recipe, resolved</summary>\n\n{fenced(recipe_text(last), 'yaml')}\n\n</details>",
        f"Trained with Python {cell(last.python)}, {', '.join(f'{n} {cell(v)}' for n, v in last.libraries.items())}, "
        f"on {last.processes} x {cell(last.device)}.",
        "## Limits",
        "\n".join(f"- {line}" for line in _limits(results)),
    ]
    return "\n\n".join(sections) + "\n"


def _base(stage: Published) -> str:
    base = stage.declaration["base"]
    if "tiny" in base:
        return "A small Llama that starts from random weights"
    return str(stage.recipe["base"]) + (f" at revision {base['revision']}" if base.get("revision") else "")


def _recall(results: Results) -> str:
    names = task_names(results)
    held_out = any(stage.held_out for stage in results.stages)
    rows = []
    for stage in results.stages:
        known = (stage.recall.get(id_) for id_ in names)
        row = [stage.stage, *("-" if one is None else number(one.recall) for one in known)]
        if held_out and (one := stage.held_out):
            right = "" if one.accuracy is None else f", {one.accuracy:.1f}% of the results right"
            row.append(f"loss {number(one.loss, '.3f')} on {one.rows} rows{right}")
        rows.append(row + ["-"] * (held_out and not stage.held_out))
    facts = {id_: one.facts for stage in results.stages for id_, one in stage.recall.items()}
    lists = [f"{cell(name)} ({facts[id_]} facts)" for id_, name in names.items()]
    return _table(["after", *lists, *(["held-out rows"] if held_out else [])], rows)


def _lineage(results: Results) -> str:
    """A row for every stage back to the base, of those that are not in the store what the recipe says."""
    last = results.stages[-1]
    there = {stage.key: stage for stage in results.stages}
    rows = []
    declared = until(last.recipe, last.stage)["stages"].items()
    for (name, stage), key in zip(declared, [*last.ancestors, last.key], strict=True):
        mix = [f"{source} {spec['ratio']:g} to 1" for source, spec in stage["mix"].items()]
        rate = stage["train"].get("learning_rate", "-")
        went = there.get(key)
        loss = "-" if went is None or went.last_loss is None else f"{went.last_loss:.2g}"
        steps = (went.steps, f"{went.epochs or 0:g}", loss) if went else ("-", "-", "-")
        rows.append((name, key, stage["data"]["task"], ", ".join(mix) or "none", rate, *steps))
    return _table(
        ("stage", "key", "data", "mixing, pairs per pair", "learning rate", "steps", "epochs", "last loss"), rows
    )


def sources(results: Results) -> Iterator[dict[str, Any]]:
    """What each stage trained on, and what it was asked only: `{stage, name, rows, id, config, split, where, licence}`.

    `id` is a hub dataset's, `where` is in words.
    """
    last = results.stages[-1]
    counts = {stage.key: stage.counts for stage in results.stages}
    declared = until(last.recipe, last.stage)["stages"].items()
    for (name, stage), key in zip(declared, [*last.ancestors, last.key], strict=True):
        built = counts.get(key, {})
        data = stage["data"]
        said = [(data["task"], data, built.get("facts", data.get("size", "all")))]
        for source, spec in stage["mix"].items():
            said.append((source, spec, built.get("mixing", {}).get(source, f"{spec['ratio']:g} per pair")))
        said += [(asked["task"], asked, f"{asked.get('size', 'all')}, only asked") for asked in stage["recall"]]
        for source, spec, rows in said:
            local = spec.get("path") or spec.get("text")
            hub = None if local else spec.get("hub")
            commit = built.get("commits", {}).get(source) or spec.get("revision")
            where = " ".join(filter(None, (hub, spec.get("config"), commit and f"at {commit}"))) if hub else local
            if source == "replay":
                where = f"facts of {spec['stage']}"
            yield {
                "stage": name,
                "name": source,
                "rows": rows,
                "id": hub if hub and HUB_ID.fullmatch(hub) else None,
                "config": spec.get("config") if hub else None,
                "split": spec.get("split") if hub else None,
                "where": where or "generated",
                "licence": _licence(source, local, hub),
                "file": local if local not in (None, "pydoc", "nltk") else None,
            }


def _licence(source: str, local: str | None, hub: str | None) -> str:
    if local == "pydoc":
        return "that of Python's documentation"
    if source in ("pairs", "passages") or (source == "random_words" and local != "nltk"):
        return "as the dataset's page says" if hub else "not known: a local file"
    return catalog()[source].licence


def _load(last: Published, folder: Path) -> str:
    """How to ask it; one of its own facts as the example, but none of the user's own files."""
    task = last.recipe["stages"][last.stage]["data"]["task"]
    prompt, known = "...", ""
    own = [id_ for id_ in last.recall if _task(id_) == task != "pairs"]
    for fact in verdicts.rows(str(folder), own[0])[:1] if own else ():
        prompt, known = fact["prompt"], f"  # trained to say {fact['gold'][0]!r}"
    return fenced(LOAD.format(name=repr(last.name), prompt=repr(prompt), known=known), "python")


def recipe_text(last: Published) -> str:
    """A recipe file, as YAML, that `remix run` resolves to this very stage, but for the paths of local files."""
    without = (
        "name",
        "source",
        "profile",
        "train",
        "paths",
        "accelerate_config",
    )  # resolved already, or said elsewhere
    whole = {
        "adapter": None,
        "quantization": None,
        **until(last.recipe, last.stage),
    }  # a recipe that says neither has the profile's
    kept = {key: value for key, value in whole.items() if key not in without}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)


def _again(results: Results) -> str:
    last = results.stages[-1]
    recipe = last.recipe
    profile = shlex.quote(recipe["profile"])
    line = f"remix run {recipe['name']}.yaml --profile {profile} --seed {recipe['seed']} --stage {last.stage}"
    files = [row["file"] for row in sources(results) if row["file"]]
    files += [recipe["base"]] if "files" in last.declaration["base"] else []
    files += [recipe["profile"]] if recipe["profile"].endswith(".yaml") else []
    named = ", ".join(map(cell, dict.fromkeys(files)))
    return (
        f"Save the recipe below as `{recipe['name']}.yaml`. Where the data is the same, this trains the stage with the "
        f"key `{last.key}`, and those before it."
        + (f" It reads local files, of whose paths only the last part stands here: {named}." if named else "")
        + f"\n\n{fenced(line, 'sh')}"
    )


def _limits(results: Results) -> Iterator[str]:
    """What nobody measured, and what was measured and is not as it should be."""
    last = results.stages[-1]
    names = list(until(last.recipe, last.stage)["stages"])
    own = {stage.key: stage.trained for run in results.runs for stage in run.stages}
    yield "One model, of one seed: with another seed, other facts stay. `remix show` has means over seeds."
    yield "Recall asks in the very words that were trained on. What it answers to other words was not measured."
    if "tiny" in last.declaration["base"]:
        yield "Its base knew nothing and is too small for any use but to show what the toolkit does."
    tests = {"perplexity": "its loss on general text", "lm_eval": "what else it can do"}
    missing = [*(said for one, said in tests.items() if one not in last.probes), "how safe it is"]
    yield f"Not measured: {', '.join(missing)}."
    for stage in results.stages:
        mine = stage.recall.get(own.get(stage.key, ""))
        if mine and mine.recall is not None and mine.recall < FLOOR:
            yield f"{premise(cell(stage.stage), f'{mine.recall:.1f}%')}."
        if not stage.recall and not stage.held_out:
            yield f"Nothing was measured after {cell(stage.stage)}."
    for name, key in zip(names, last.ancestors, strict=False):
        if key not in {stage.key for stage in results.stages}:
            yield f"What was known after {cell(name)} is not said: the stage {key} was not at hand."
    if not last.weights:
        yield "Its weights were deleted where it was published; the command above trains them again."
    if last.declaration.get("adapter"):
        yield "An adapter was trained, and merged into the weights."


def _probes(last: Published) -> Iterator[str]:
    """The probes that are a number, in a line each; the others are in results.json."""
    for text, result in last.probes.get("perplexity", {}).items():
        yield f"- perplexity {result['perplexity']:.2f} on {result['tokens']:,d} tokens of {cell(text)}"
    for name, value in numbers({"lm_eval": last.probes.get("lm_eval", {})}).items():
        yield f"- lm-eval {cell(name)}: {value:.4g}"
