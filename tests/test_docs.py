"""README and docs/: links lead somewhere, commands and recipes on the pages are valid, generated pages are current."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT
from typer.main import get_command

from remix_toolkit.cli.main import command_line
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.launch.slurm import read_options
from remix_toolkit.recipe import shipped
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.recipe.schema import TASKS
from remix_toolkit.recipe.yaml_file import load_mapping

sys.path.insert(0, str(ROOT / "benchmarks"))
import all as benchmarks
import pages
import status

README = ROOT / "README.md"
PAGES = [README, ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN = [page for page in PAGES if page.name not in pages.pages()]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text(encoding="utf-8")) if name == language]


def without_code(page: Path) -> str:
    return re.sub(r"`[^`\n]*`", "code", BLOCK.sub("", page.read_text(encoding="utf-8")))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site's generator make them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), target
        assert page.parent != ROOT / "docs" or linked.parent == page.parent, f"{target} is not part of the site"
        assert not anchor or anchor in anchors(linked), target


def test_every_page_is_in_the_sites_table_of_contents() -> None:
    def files(entry: object) -> Iterator[str]:
        for part in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from [part] if isinstance(part, str) else files(part)

    listed = list(files({"": load_mapping(ROOT / "mkdocs.yml")[0]["nav"]}))
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_readme_is_short() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) < 900
    assert {"make stage1 RECIPE=kvr", "make test"} <= {line.partition("#")[0].strip() for line in text.splitlines()}


@pytest.mark.parametrize("name", pages.pages())
def test_generated_pages_are_current(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == pages.pages()[name], "run: make pages"


def test_the_performance_page_says_what_was_measured() -> None:
    kept = json.loads(benchmarks.KEPT.read_text(encoding="utf-8"))
    assert benchmarks.page(kept) == benchmarks.PAGE.read_text(encoding="utf-8")


def test_the_status_box_is_current() -> None:
    text, kept = README.read_text(encoding="utf-8"), json.loads(status.KEPT.read_text(encoding="utf-8"))
    assert "\n| GPU | " in text
    assert status.with_table(text, kept) == text, "run: python benchmarks/status.py"


def lines(page: Path) -> list[str]:
    """The command lines of a page, those that go on over several lines joined."""
    return [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def remix_commands(line: str) -> list[list[str]]:
    """The arguments of the `remix` commands behind a line: of those of `make`, what make says that it would run."""
    name, *words = shlex.split(line, comments=True)
    if name == "remix":
        return [words]
    if name == "accelerate":
        assert (ROOT / words[words.index("--config_file") + 1]).is_file()
        return [["stage", *words[words.index("remix_toolkit.stage") + 1 :]]]
    if name == "make":
        run = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, f"{line}: {run.stderr}"
        return [shlex.split(text)[1:] for text in run.stdout.splitlines() if text.startswith(".venv/bin/remix ")]
    if name == "python" and words[0] != "-m":
        assert (ROOT / words[0]).is_file(), line
    return []


def check(words: list[str]) -> None:
    """The command exists, with these options; the recipe that it names can be loaded, with these settings."""
    command = get_command(command_line())
    while hasattr(command, "commands"):
        name = words[0] if words[0] in command.commands else "show"  # of `remix data`
        command, words = command.commands[name], words[words[0] in command.commands :]
    given = command.make_context(command.name, list(words)).params
    recipe = given.get("recipe") or given.get("sweep") or given.get("name")
    if "overrides" in given and recipe and (recipe not in TASKS or "." in "".join(given["overrides"] or [])):
        if shipped.locate(recipe, "recipes"):
            seeds = given["seed"] if isinstance(given["seed"], list | tuple) else []
            load_sweep(recipe, given["profile"], list(seeds), list(given["overrides"] or []))
        else:
            assert recipe in ("mine", "FILE"), f"{recipe}: no such recipe"


@pytest.mark.parametrize("page", [page for page in WRITTEN if lines(page)], ids=lambda page: page.name)
def test_commands_are_those_that_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("remix_toolkit.data.smollm2.cached_commit", lambda: "0123abc")  # as if it were downloaded
    for line in lines(page):
        for words in remix_commands(line):
            check(words)


def test_recipes_and_code_on_the_pages(tmp_path: Path) -> None:
    found = []
    for page in WRITTEN:
        for number, text in enumerate(blocks(page, "yaml")):
            file = tmp_path / f"{page.stem}{number}.yaml"
            file.write_text(text.replace("../kvr.yaml", str(ROOT / "recipes" / "kvr.yaml")), encoding="utf-8")
            if text.startswith("partition:"):
                assert len(read_options(file)[0]) == 5
                continue
            found.append(len(load_sweep(str(file))[1]) if "\narms:" in text else len(load_recipe(file).stages))
        for text in blocks(page, "python"):
            compile(text, str(page), "exec")
    assert sorted(found) == [2, 2, 4 * 3, (2 * 3 - 1) * 3]  # the stages of each recipe, the runs of each sweep


def test_the_readmes_commands_that_train_nothing(here, runs: Path) -> None:
    """They are run one after the other, as they stand there, in an empty folder."""
    commands = [words for line in lines(README) if line.startswith("remix") for words in remix_commands(line)]
    outputs = [here(*words, folder=runs.parent).stdout for words in commands if words[0] in ("recipes", "new", "data")]
    assert len(outputs) == 3
    assert "Who maintains the billing service?" in outputs[2]
