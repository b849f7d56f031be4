"""The pages of the site that are generated: commands, keys of a recipe, gallery.

    python benchmarks/pages.py            # make pages: writes docs/commands.md, docs/keys.md, docs/gallery.md

Nothing in these pages is written by hand: they are the help texts of the commands, the descriptions of the keys, and
the first comment of each recipe. tests/test_docs.py checks that they are current.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from remix_toolkit.cli.main import command_line
from remix_toolkit.graph.sweep import Sweep, is_sweep
from remix_toolkit.recipe import schema, setup, shipped
from remix_toolkit.recipe.catalog import catalog
from remix_toolkit.recipe.strict import Strict

DOCS = Path(__file__).parents[1] / "docs"
TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "array": "list",
    "object": "mapping",
}
GROUPS = {  # keys that several tasks have: the classes in which the schema declares them
    schema.Rows: "Rows",
    schema.Factoid: "Facts",
    schema.Instruction: "Instructions",
    schema.Source: "Files and the hub",
    schema.Corpus: "Generic text",
}


def main() -> None:
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
        print(f"written: {DOCS / name}")


def pages() -> dict[str, str]:
    """File name -> its text."""
    return {"commands.md": commands(), "keys.md": keys(), "gallery.md": gallery()}


def commands() -> str:
    """Every command's help, by typer's own generator; its lists of subcommands, which are cut off, are left out."""
    command = get_command(command_line())
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="remix", title="Commands")
    text = text.replace("* `--help`: Show this message and exit.\n", "")
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+|\*\*Options\*\*:\n\n(?!\*)", "", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def keys() -> str:
    """The keys of a recipe and of a sweep, from the pydantic models that check them."""
    lines = ["# Keys", "", "The keys of a recipe and of a sweep, with their types, defaults and descriptions."]
    lines += ["A key marked † is not part of a stage's key: changing it trains nothing again."]
    lines += ["Where the default is given as *profile*, the profile sets the key.", ""]
    lines += section("## A recipe", schema.Recipe, but=("name", "source", "profile"))  # which the command line sets
    lines += section("## A stage: `stages.NAME`", schema.Stage)
    lines += ["## Tasks: `stages.NAME.data`", ""]
    for group in (schema.Rows, schema.Factoid, schema.Instruction, schema.Source):
        lines += section(f"### {GROUPS[group]}", group, own_only=True)
    lines += ["### Which task takes which keys", "", *additions(schema.TASKS)]
    lines += ["## Mixing data: `stages.NAME.mix`", ""]
    lines += section("### `random_words`", schema.RandomWords) + section("### `replay`", schema.Replay)
    lines += section(f"### {GROUPS[schema.Corpus]}", schema.Corpus, own_only=True)
    lines += ["### Which text takes which keys", "", *additions(schema.CORPORA)]
    shown = {schema.Stage, schema.Mix, schema.RandomWords, schema.Replay}
    shown |= {*schema.TASKS.values(), *schema.CORPORA.values()}
    reached = dict(reachable(schema.Recipe))
    for model in sorted(reached.keys() - shown, key=reached.__getitem__):
        lines += section(f"## `{reached[model]}`", model)
    return "\n".join([*lines, *section("## A sweep", Sweep)]).strip() + "\n"


def reachable(model: type[Strict], path: str = "") -> Iterator[tuple[type[Strict], str]]:
    """The models of nested mappings, each with the key that holds it."""
    for name, field in model.model_fields.items():
        for nested in nested_models(field.annotation):
            here = f"{path}.{name}".strip(".") + (".NAME" if name == "stages" else "")
            yield nested, here
            yield from reachable(nested, here)


def nested_models(annotation: Any) -> Iterator[type[Strict]]:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for argument in get_args(annotation):
        yield from nested_models(argument)


def section(title: str, model: type[Strict], own_only: bool = False, but: tuple[str, ...] = ()) -> list[str]:
    """A heading, what the model says of itself, and its keys but some; `own_only`: of those that it declares itself."""
    properties = model.model_json_schema()["properties"]
    about = " ".join(vars(model)["__doc__"].split("\n\n")[0].split()) if vars(model).get("__doc__") else ""
    lines = [title, "", *([about, ""] if about else []), "| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in properties.items():
        if name in but or (own_only and name not in model.__annotations__):
            continue
        declared = model.model_fields[name]
        mark = " †" if setup.OUTSIDE_KEY in declared.metadata else ""
        default = "required" if declared.is_required() else f"`{shown}`" if (shown := plain(field)) else ""
        default = "*profile*" if issubclass(model, setup.Setup) and name in setup.Setup.model_fields else default
        assert "description" in field, f"{model.__name__}.{name} needs a description"
        lines.append(f"| `{name}`{mark} | {type_of(field)} | {default} | {field['description']} |")
    return [*lines, ""]


def additions(models: Mapping[str, type[Strict]]) -> list[str]:
    """A table of tasks or texts: the groups of keys that each has, and those that it declares itself."""
    lines = ["| | what it is | the keys of | and, with these defaults |", "|---|---|---|---|"]
    for name, model in models.items():
        properties = model.model_json_schema()["properties"]
        own = [key for key in properties if key in model.__annotations__ and key != "task"]
        texts = [f"`{key}: {shown}`" if (shown := plain(properties[key])) else f"`{key}`" for key in own]
        groups = ", ".join(text for group, text in GROUPS.items() if issubclass(model, group))
        lines.append(f"| `{name}` | {catalog()[name].about} | {groups} | {', '.join(texts)} |")
    return [*lines, ""]


def type_of(field: dict[str, Any]) -> str:
    """The type of a key in words, from its JSON Schema."""
    if "const" in field or "enum" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    options = [type_of(option) for option in field.get("anyOf", []) if option.get("type") != "null"]
    return " or ".join(dict.fromkeys(options)) or TYPES[field.get("type", "object")]


def plain(field: dict[str, Any]) -> str:
    """A key's default as a recipe has it; nothing if there is none, or if it is empty or a mapping."""
    default = field.get("default")
    if isinstance(default, str) or default in (None, [], {}) or "$ref" in field:
        return default if isinstance(default, str) else ""
    return json.dumps(default)


def gallery() -> str:
    """The recipes and sweeps of the package."""
    lines = ["# Gallery", "", "The recipes and sweeps that come with the package, and the command that runs each one."]
    lines += ["`remix recipes` prints this list, and `remix new NAME` copies one for you to edit.", ""]
    titles = {"": "Recipes", "ablations": "Ablations: one question each", "paper": "The paper's tables and figures"}
    titles |= {"arena": "The arena: remedies against forgetting, each with three values of its knob"}
    for folder, title in titles.items():
        lines += [f"## {title}", "", "| command | what it shows |", "|---|---|"]
        for name, file in shipped.names().items():
            if folder == name.rpartition("/")[0]:
                command = f"remix {'sweep' if is_sweep(str(file)) else 'run'} {name}"
                lines.append(f"| `{command}` | {shipped.summary(file)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
