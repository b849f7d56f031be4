"""The model card and results.json of a published stage: true, complete, and nothing of the machine in them."""

import json
import re
import shutil
from contextlib import chdir
from pathlib import Path

import made
import pytest
import yaml
from conftest import ROOT
from forged import lens_record
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from sweeps import command

from remix_toolkit import store
from remix_toolkit.data.encoding import prompt_ids
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.records import HarnessRecord, HarnessResult, HeldOutRecord, PerplexityRecord
from remix_toolkit.graph.lineage import lineage
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.report.card import card, fenced
from remix_toolkit.report.results import Results, _public_setting, as_json, json_schema, of_stage, of_store, public

MIX = "stages.stage1.mix={random_words: {ratio: 2}}"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Where stages are made up: no base model is needed."""
    return tmp_path / "runs"


def half(stage: str, task: str, row: int) -> bool:
    """Half of the keys are forgotten in stage2."""
    return not (stage == "stage2" and task == "kvr" and row % 2)


def tables(text: str) -> list[list[list[str]]]:
    """Every table of a Markdown text as GitHub reads it: rows of cells."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and token.level == 4 + found[-1:].count([]):
            found[-1][-1].append("".join(child.content for child in token.children or []))
    return found


def code(text: str, language: str) -> str:
    (block,) = (t.content for t in MarkdownIt().parse(text) if t.type == "fence" and t.info == language)
    return block


def test_a_card_says_what_was_measured_and_where_it_came_from(runs: Path) -> None:
    first, second = made.run(runs, MIX, knows=half)
    text = card(second)
    data = ModelCard(text).data
    assert (data.library_name, data.base_model, data.datasets, data.license) == ("transformers", None, None, None)
    found = {result.dataset_type: (result.metric_type, result.metric_value) for result in data.eval_results}
    assert found == {"kvr": ("exact_match", 50.0), "invented_facts": ("exact_match", 100.0)}
    recall, went, sources = tables(text.split("---\n", 2)[2])
    assert recall == [
        ["after", "kvr (20 facts)", "invented_facts (20 facts)"],
        ["stage1", "100.0", "-"],
        ["stage2", "50.0", "100.0"],
    ]
    assert [row[:4] for row in went[1:]] == [
        ["stage1", first.name[-16:], "kvr", "random_words 2 to 1"],
        ["stage2", second.name[-16:], "invented_facts", "none"],
    ]
    assert [row[1:4] for row in sources[1:]] == [
        ["kvr", "20", "generated"],
        ["random_words", "40", "pydoc"],
        ["invented_facts", "20", "generated"],
    ]
    assert "torch 2.13.0" in text
    assert "knew only" not in text


def test_the_recipe_of_a_card_resolves_to_the_same_stage(runs: Path, tmp_path: Path) -> None:
    """Also where another run of a longer recipe published it, and with everything else that a recipe may say."""
    folders = made.run(runs, MIX, "train.weight_decay=0.1", "adapter={r: 4}", "base_stage=stage2", seed=1)
    for folder in folders:
        text = card(folder)
        said = code(text, "sh").split()
        assert said[:3] == ["remix", "run", "kvr.yaml"]
        options = dict(zip(said[3::2], said[4::2], strict=True))
        (tmp_path / "kvr.yaml").write_text(code(text, "yaml"), encoding="utf-8")
        resolved = load_recipe(tmp_path / "kvr.yaml", options["--profile"], [], int(options["--seed"]))
        assert lineage(resolved, until=options["--stage"])[-1].key == folder.name[-16:]
        assert list(resolved.stages) == ["stage1", "stage2"][: 1 + folders.index(folder)]


def test_the_way_to_load_it_works_and_asks_as_it_was_trained(runs: Path, tokenizer, tiny_base: Path) -> None:
    def model(draft: Path) -> None:
        shutil.copytree(tiny_base, draft, dirs_exist_ok=True)
        tokenizer.save_pretrained(draft)

    folder = made.run(runs, draft=model, prompt="Say '{row}' of {task}", gold='"""\\')[0]
    names: dict = {}
    with chdir(folder.parent):
        exec(code(card(folder), "python"), names)
    assert names["inputs"]["input_ids"][0].tolist() == prompt_ids(tokenizer, "Say '0' of kvr")


def test_hub_ids_and_licences(runs: Path) -> None:
    data = "stages.stage2.data={task: popqa, size: 20, revision: abc}"
    corpus = "stages.stage2.mix={knowledge_pile: {ratio: 2}}"
    text = card(made.run(runs, data, corpus, MIX, profile="llama3-8b")[1])
    found = ModelCard(text).data
    assert (found.base_model, found.license) == ("meta-llama/Meta-Llama-3-8B", "llama3")
    assert found.datasets == ["Query-of-CC/Knowledge_Pile", "akariasai/PopQA"]
    rows = {row[1]: row[2:] for row in tables(text.split("---\n", 2)[2])[2][1:]}
    assert rows["popqa"] == ["20", "akariasai/PopQA at abc", "MIT"]
    assert rows["knowledge_pile"] == ["40", "Query-of-CC/Knowledge_Pile", "Apache-2.0"]
    assert rows["random_words"][1:] == ["nltk", "public domain"]


def test_neither_paths_nor_users_nor_their_facts_are_given_away(runs: Path, tmp_path: Path) -> None:
    home = tmp_path / "home" / "alice smith"
    home.mkdir(parents=True)
    (home / "f|<b>.csv").write_text("prompt,response\nx,1\n", encoding="utf-8")
    (home / "words.txt").write_text("some words", encoding="utf-8")
    own = f"stages.stage2.data={{task: pairs, path: '{home}/f|<b>.csv', size: 1}}"
    mix = f"stages.stage1.mix={{random_words: {{ratio: 2, text: '{home}/words.txt'}}}}"
    folder = made.run(runs, own, mix, f"paths.lama={home}/LAMA", prompt="secret {row}", arm=f"in {home}/x")[1]
    results = as_json(of_stage(folder))
    text = card(folder)
    for said in (results, text):
        assert "alice" not in said
        assert "smith" not in said
        assert str(tmp_path.parts[1]) + "/" not in said
        assert "words.txt" in said
    assert "secret" not in text  # a fact of one's own is nobody's example
    assert ["stage2", "pairs", "20", "f|<b>.csv", "not known: a local file"] in tables(text.split("---\n", 2)[2])[2]


def test_paths_are_known_wherever_they_stand() -> None:
    relative = {
        "base": "../alice/x",
        "hub": "../..",
        "of": ["./alice/a.csv", "b/../alice/c.csv"],
        "/home/alice/t.yaml": 1,
    }
    assert public(relative) == {"base": "x", "hub": "..", "of": ["a.csv", "c.csv"], "t.yaml": 1}
    assert _public_setting("base", "../alice/x") == "x"
    assert _public_setting("stages.stage1.data.path", ["a/b.csv", "../alice/c.csv"]) == ["b.csv", "c.csv"]
    assert public({"/a/t.yaml": 1, "/b/t.yaml": 2}) == {"t.yaml": 1, "t.yaml (1)": 2}  # both are kept
    said = {
        "path": "../alice/a.csv",
        "hub": "a/b",
        "c": "C:\\Users\\alice\\b.csv",
        "d": ["~/x/y", "a / b / c: https://x/y/z"],
    }
    left = {"path": "a.csv", "hub": "a/b", "c": "b.csv", "d": ["y", "a / b / c: https://x/y/z"]}
    assert public({**said, "e": "see '/home/alice/f', hf_" + "a" * 34}) == {**left, "e": "see 'f', hf_..."}


def test_no_text_breaks_out_of_a_card(runs: Path) -> None:
    evil = "</details>\n```\n<script>alert(1)</script> | {row} \u2028 ${{x}} [a](javascript:b)"
    folder = made.run(runs, prompt=evil, gold=evil, arm="<img src=x> | `", knows=half)[1]
    text = card(folder)
    tokens = MarkdownIt("commonmark").enable("table").parse(text.split("---\n", 2)[2])
    raw = [t.content for t in tokens if t.type == "html_block"]
    raw += [child.content for t in tokens for child in t.children or [] if child.type == "html_inline"]
    assert not [html for html in raw if "script" in html or "img" in html]
    compile(code(text, "python"), "card", "exec")
    block = fenced("a\n````\nb", "yaml")
    assert [(t.type, t.content) for t in MarkdownIt().parse(block)] == [("fence", "a\n````\nb\n")]


def test_what_is_not_known_is_said(runs: Path, tmp_path: Path) -> None:
    folder = made.run(runs, knows=lambda stage, task, row: row > 0)[1]
    assert "stage1 knows only 95.0% of its own facts" in card(folder)
    store.delete_weights(folder)
    assert "weights were deleted" in card(folder)
    alone = shutil.copytree(folder, tmp_path / folder.name)
    text = card(alone)
    assert "What was known after stage1 is not said" in text
    assert tables(text.split("---\n", 2)[2])[1][1][5:] == ["-", "-", "-"]
    (folder / "loss.csv").unlink()
    with pytest.raises(BadInput, match=r"loss\.csv is missing"):
        card(folder)


def test_a_profile_of_ones_own_is_among_the_files_that_are_needed(runs: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine" / "tiny.yaml"  # for which the recipe has a section
    own.parent.mkdir()
    shutil.copy(ROOT / "remix_toolkit" / "recipe" / "profiles" / "tiny.yaml", own)
    text = card(made.run(runs, profile=str(own))[0])
    assert "It reads local files, of whose paths only the last part stands here: tiny.yaml." in text


def test_probes_and_held_out_rows(runs: Path) -> None:
    beside = {
        "held_out.json": HeldOutRecord(rows=20, loss=1.25, tokens=400, accuracy=55.0).model_dump_json(),
        "perplexity.json": PerplexityRecord(perplexity=12.5, tokens=1000, text="pydoc").model_dump_json(),
        "lens.json": lens_record("kvr-1", first_layer=None).model_dump_json(),
        "lm_eval.json": HarnessRecord(
            tasks={
                "arc_easy": HarnessResult(version="0.4.9", limit=8, metrics={"acc": 0.375, "acc_stderr": 0.1}),
                "/home/alice/mine.yaml": HarnessResult(version="0.4.9", limit=None, metrics={"exact_match": 0.5}),
            }
        ).model_dump_json(),
    }
    first, second = made.run(runs, beside=beside)
    text = card(second)
    assert tables(text.split("---\n", 2)[2])[0][2][3] == "loss 1.250 on 20 rows, 55.0% of the results right"
    assert "perplexity 12.50 on 1,000 tokens of pydoc" in text
    lines = [line for line in text.splitlines() if line.startswith("- lm-eval")]
    assert lines == ["- lm-eval arc\\_easy acc: 0.375", "- lm-eval mine exact\\_match: 0.5"]
    assert "Not measured: how safe it is." in text
    assert "alice" not in text + as_json(of_stage(second))
    for damaged in ('{"arc": 1}', "[]", '{"version": 1, "tasks": {"arc": {}}}'):
        (second / "lm_eval.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(BadInput, match="results cannot be read"):
            card(second)
    (second / "lm_eval.json").write_text(beside["lm_eval.json"], encoding="utf-8")
    said = json.loads(as_json(of_stage(second)), parse_constant=pytest.fail)  # NaN is no JSON
    assert said["stages"][1]["probes"]["lens"]["lists"]["kvr-1"]["first_layer"] is None
    assert said["stages"][0]["held_out"]["loss"] == 1.25
    recall = (first / "recall.json").read_text(encoding="utf-8")
    for damaged in (recall.replace("100.0", "null"), recall.replace("100.0", "NaN"), "{"):
        assert damaged != recall
        (first / "recall.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(BadInput, match="results cannot be read"):
            of_stage(first)
    (first / "recall.json").unlink()  # published, not measured yet
    assert tables(card(first).split("---\n", 2)[2])[0][1][1] != "100.0"


def test_results_are_in_their_schema(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.run(runs, knows=half)
    made.run(runs, MIX, arm="random", seed=1)
    last = made.run(runs, MIX, arm="random", seed=1)[1]
    whole = of_store(runs)
    again = Results.model_validate_json(as_json(whole))
    assert again == whole
    said = json.loads(as_json(whole))
    assert said["schema"] == 2
    fields = json_schema()["$defs"]["Published"]
    assert set(fields["required"]) < set(said["stages"][0]) == set(fields["properties"])
    assert [len(stage["ancestors"]) for stage in said["stages"]] == [0, 0, 1, 1]
    assert [(one["arm"], one["seed"], len(one["stages"])) for one in said["runs"]] == [("kvr", 0, 2), ("random", 1, 2)]
    one = json.loads(as_json(of_stage(last)))
    assert [stage["key"] for stage in one["stages"]] == [*one["stages"][1]["ancestors"], last.name[-16:]]
    assert [run["arm"] for run in one["runs"]] == ["random"]
    (last / "model.safetensors").unlink()
    assert len(of_store(runs).stages) == 3
    assert "model.safetensors is missing" in capsys.readouterr().err


def test_schema_of_results_is_current() -> None:
    shipped = json.loads((ROOT / "docs" / "results.schema.json").read_text(encoding="utf-8"))
    assert shipped == json_schema(), "run: remix schema results > docs/results.schema.json"


def test_on_the_command_line(monkeypatch, capsys, runs: Path, tmp_path: Path) -> None:
    second = made.run(runs)[1]
    code, out, _ = command(monkeypatch, capsys, "card", second.name[-16:-8], "--runs", runs)
    assert (code, yaml.safe_load(out.split("---\n")[1])["library_name"]) == (0, "transformers")
    file = tmp_path / "new" / "README.md"
    assert command(monkeypatch, capsys, "card", second, "-o", file) == (0, "", "")
    assert file.read_text(encoding="utf-8") == out
    code, out, _ = command(monkeypatch, capsys, "results", "--runs", runs)
    assert len(json.loads(out)["stages"]) == 2
    before = sorted(second.iterdir())
    for arguments, message in [
        (["card", second, "-o", second / "README.md"], "is in a published stage"),
        (["card", "kvr-stage", "--runs", runs], "2 stages are called that"),
        (["card", "kvr-stage3", "--runs", runs], "did you mean 'kvr-stage[12]'"),
        (["card", runs], "is no published stage"),
        (["card", "x", "--runs", tmp_path / "none"], "no such stage"),
        (["results", "--runs", tmp_path / "none"], "nothing is published there"),
        (["schema", "result"], "recipe or results"),
    ]:
        code, out, err = command(monkeypatch, capsys, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert re.search(message, err), err
    assert sorted(second.iterdir()) == before
