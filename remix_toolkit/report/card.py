"""A model card: what a published stage knows, how it came about, how to load it, and how to train it again.

Its text is in card.md.jinja; here are the values that it shows, and the metadata that the hub reads.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from markupsafe import Markup

from remix_toolkit.data import smollm2
from remix_toolkit.data.gguf import ENDING
from remix_toolkit.recipe.catalog import catalog
from remix_toolkit.recipe.remedies import REMEDIES
from remix_toolkit.report.parts import escape_markdown, number, template_environment
from remix_toolkit.report.results import Published, Results, numbers, of_stage, until
from remix_toolkit.report.stage import Stage
from remix_toolkit.report.summary import FLOOR
from remix_toolkit.report.words import known_before, premise

LICENCES = {  # of the profiles' bases
    "meta-llama/Meta-Llama-3-8B": "llama3",
    "mistralai/Mistral-7B-v0.3": "apache-2.0",
    smollm2.HUB: smollm2.LICENCE,
}
# Of a resolved recipe, what is resolved into its stages already or stands elsewhere on the card.
NOT_SHOWN = {"name", "source", "profile", "train", "paths", "accelerate_config"}


def card(folder: Path) -> str:
    """The card of a published stage, as Hugging Face has them: YAML metadata, then Markdown.

    Raises BadInput where the stage is damaged.
    """
    results = of_stage(folder)
    last = results.stages[-1]
    recipe = until(last.recipe, last.stage)
    published = {stage.key: stage for stage in results.stages}
    keys = [*last.ancestors, last.key]
    lineage = [(*stage, key, published.get(key)) for stage, key in zip(recipe["stages"].items(), keys, strict=True)]
    sources = list(_sources(lineage))
    lists = _list_names(results)
    local_files = [source["local"] for source in sources if source["local"] not in (None, "pydoc", "nltk")]
    local_files += [recipe["base"]] if "files" in last.declaration["base"] or recipe["base"].endswith(ENDING) else []
    local_files += [recipe["profile"]] if recipe["profile"].endswith(".yaml") else []
    shown = {"adapter": None, "quantization": None, **recipe}  # a recipe without these two has the profile's
    shown = {key: value for key, value in shown.items() if key not in NOT_SHOWN}
    environment = template_environment(finalize=_escape)
    environment.filters |= {"fenced": fenced, "number": number, "quote": shlex.quote, "repr": repr}
    text = environment.get_template("card.md.jinja").render(
        metadata=_metadata(last, sources, lists).to_yaml(),
        last=last,
        variant=_base_model(last) or (last.base_file or {}).get("name"),
        recipe=recipe,
        lineage=lineage,
        trained_list={stage.key: stage.trained for run in results.runs for stage in run.stages},
        sources=sources,
        lists=lists,
        known=_known(lineage),
        remedies=_remedies,
        harness=numbers({"lm_eval": last.probes.get("lm_eval", {})}),
        of_base=numbers({"lm_eval": last.base.get("lm_eval", {})}),
        example=_example(last, folder),
        recipe_file=yaml.safe_dump(shown, sort_keys=False, allow_unicode=True),
        local_files=local_files,
        floor=FLOOR,
        premise=premise,
    )
    return str(ModelCard(text))  # which raises ValueError if it cannot read the metadata


def _escape(value: object) -> Markup:
    """Everything that the template shows, on one line and escaped, unless it is marked as safe."""
    return value if isinstance(value, Markup) else Markup(escape_markdown(value))


def fenced(text: str, language: str) -> Markup:
    """A block of code that no text can end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markup(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def _list_names(results: Results) -> dict[str, str]:
    """Each list of facts by its id: its label in the run, with the id if several have that label, and its size."""
    labels = {id_: listed.label for run in results.runs for stage in run.stages for id_, listed in stage.lists.items()}
    facts = {id_: one.facts for stage in results.stages for id_, one in stage.recall.items()}
    names = {id_: labels.get(id_, _task(id_)) for id_ in facts}
    lists = Counter(names.values())
    unique = {id_: name if lists[name] == 1 else f"{name} ({id_})" for id_, name in names.items()}
    return {id_: f"{name} ({facts[id_]} facts)" for id_, name in unique.items()}


def _known(lineage: Sequence[tuple[str, Mapping[str, Any], str, Published | None]]) -> list[str]:
    """What the base model knew before, and what each stage left of it, in words."""
    rows = [
        {"arm": "", "stage": name, **known}
        for name, _, _, stage in lineage
        for known in (stage.probes.get("known", {}).values() if stage else ())
    ]
    return known_before(rows)


def _remedies(declared: Mapping[str, Any]) -> str:
    """`kl (weight 10, on prompts)`: what a stage does against forgetting besides mixing."""
    named = {name: declared[name] for name in ("adapter", *REMEDIES) if declared.get(name)}
    knobs = {
        name: ", ".join(f"{knob} {value}" for knob, value in spec.items() if value) for name, spec in named.items()
    }
    return ", ".join(f"{name} ({values})" if values else name for name, values in knobs.items()) or "none"


def _task(list_id: str) -> str:
    return list_id.rpartition("-")[0]


def _metadata(last: Published, sources: Sequence[Mapping[str, Any]], lists: Mapping[str, str]) -> ModelCardData:
    """Only ids that the hub accepts are named as a base or a dataset: it refuses the whole card otherwise."""
    base = _base_model(last)
    by_task = {source["name"]: source for source in sources}
    evaluations = []
    for id_, one in last.recall.items():
        task = _task(id_)
        source = by_task.get(task, {})
        spec = source["spec"] if source.get("hub") else {}
        if one.recall is not None:
            evaluations.append(
                EvalResult(
                    task_type="question-answering",
                    dataset_type=_hub_id(source.get("hub")) or task,
                    dataset_name=task,
                    dataset_config=spec.get("config"),
                    dataset_split=spec.get("split"),
                    metric_type="exact_match",
                    metric_name=f"recall in percent of {lists[id_]}, greedy",
                    metric_value=one.recall,
                )
            )
    return ModelCardData(
        base_model=base,
        library_name="transformers",
        pipeline_tag="text-generation",
        license=(last.base_file or {}).get("licence") or LICENCES.get(base or ""),
        datasets=sorted({dataset for source in sources if (dataset := _hub_id(source["hub"]))}) or None,
        tags=["remix-toolkit", "continual-learning", "factual-recall", "arxiv:2411.07175"],
        model_name=last.name,
        eval_results=evaluations or None,
    )


def _base_model(last: Published) -> str | None:
    """The id on the hub of the model that all training began with, where it has one that is known."""
    packaged = last.base_file is not None and last.base_file.get("sha256") == smollm2.SHA256
    return smollm2.INSTRUCT if packaged else _hub_id(last.declaration["base"].get("hub"))


def _hub_id(name: str | None) -> str | None:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _sources(lineage: Sequence[tuple[str, Mapping[str, Any], str, Published | None]]) -> Iterator[dict[str, Any]]:
    """What each stage trained on, and what it was only asked: how many `rows`, of a hub dataset or a local file."""
    for stage, declared, _, published in lineage:
        built = published.counts if published else {}
        data = declared["data"]
        used = [(data["task"], data, built.get("facts", data.get("size", "all")))]
        for name, spec in declared["mix"].items():
            used.append((name, spec, built.get("mixing", {}).get(name, f"{spec.get('ratio', 1):g} per pair")))
        used += [(spec["task"], spec, f"{spec.get('size', 'all')}, only asked") for spec in declared["recall"]]
        for name, spec, rows in used:
            commit = built.get("commits", {}).get(name) or spec.get("revision")
            local = spec.get("path") or spec.get("text") or (spec["hub"] if commit == "local" else None)
            hub = None if local else spec.get("hub")
            origin = {"spec": spec, "hub": hub, "commit": commit, "local": local}
            yield {"stage": stage, "name": name, "rows": rows, "licence": _licence(name, local, hub)} | origin


def _licence(source: str, local: str | None, hub: str | None) -> str:
    if local == "pydoc":
        return "that of Python's documentation"
    if source in ("pairs", "passages") or (source == "random_words" and local != "nltk"):
        return "as the dataset's page says" if hub else "not known: a local file"
    return catalog()[source].licence


def _example(last: Published, folder: Path) -> Mapping[str, Any]:
    """The first fact that the stage was trained on, unless its facts are the user's."""
    task = last.recipe["stages"][last.stage]["data"]["task"]
    trained = [id_ for id_ in last.recall if _task(id_) == task != "pairs"]
    return Stage(folder).verdicts(trained[0]).slice(0, 1).to_pylist()[0] if trained else {"prompt": "...", "gold": []}
