"""The model card and results.json of a published stage: true, complete, and nothing of the machine in them."""

import json
import re
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id
from markdown_it import MarkdownIt

from remix_toolkit import store
from remix_toolkit.data import smollm2
from remix_toolkit.data.encoding import prompt_ids
from remix_toolkit.errors import BadInput
from remix_toolkit.evaluate.harness import Harness, HarnessResult
from remix_toolkit.evaluate.held_out import HeldOut
from remix_toolkit.evaluate.interference import Interference
from remix_toolkit.evaluate.lens import Lens
from remix_toolkit.graph.lineage import lineage
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.report.card import card, fenced
from remix_toolkit.report.results import Results, as_json, json_schema, of_stage, of_store, public

MIX = "stages.stage1.mix={random_words: {ratio: 2}}"


def metadata(text: str) -> ModelCardData:
    """The metadata of a card, read as the hub does, with ids and a licence that it accepts.

    `ModelCard.validate` asks the hub over the network, so that no test can call it.
    """
    data = ModelCard(text).data
    results = data.eval_results or []
    for name in [*filter(None, [data.base_model]), *(data.datasets or []), *(one.dataset_type for one in results)]:
        validate_repo_id(name)
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.license in (None, "apache-2.0", "llama3")  # of the identifiers that the hub knows
    assert all(0 <= one.metric_value <= 100 for one in results)
    return data


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


def test_a_card_says_what_was_measured_and_where_it_came_from(trained, runs: Path) -> None:
    first, second = trained.run(runs, MIX, knows=half)
    text = card(second)
    data = metadata(text)
    assert (data.base_model, data.datasets, data.license) == (None, None, None)
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
    assert "torch 2" in text
    assert "knew only" not in text


def test_the_recipe_of_a_card_resolves_to_the_same_stage(trained, runs: Path, tmp_path: Path) -> None:
    """Also where another run of a longer recipe published it, and with everything else that a recipe may say."""
    folders = trained.run(runs, MIX, "train.weight_decay=0.1", "adapter={r: 4}", "base_stage=stage2", seed=1)
    for folder in folders:
        text = card(folder)
        said = code(text, "sh").split()
        assert said[:3] == ["remix", "run", "kvr.yaml"]
        options = dict(zip(said[3::2], said[4::2], strict=True))
        (tmp_path / "kvr.yaml").write_text(code(text, "yaml"), encoding="utf-8")
        resolved = load_recipe(tmp_path / "kvr.yaml", options["--profile"], [], int(options["--seed"]))
        assert lineage(resolved, until=options["--stage"])[-1].key == folder.name[-16:]
        assert list(resolved.stages) == ["stage1", "stage2"][: 1 + folders.index(folder)]


def test_the_way_to_load_it_works_and_asks_as_it_was_trained(trained, tokenizer) -> None:
    """Of a stage that was trained, with all that is measured."""
    first, second = trained.stages
    names: dict = {}
    with chdir(first.parent):
        exec(code(card(first), "python"), names)
    fact = json.loads((first / "recall.jsonl").read_text(encoding="utf-8").partition("\n")[0])
    assert names["inputs"]["input_ids"][0].tolist() == prompt_ids(tokenizer, fact["prompt"])
    held_out, text = trained.result(HeldOut()), card(second)
    assert f"loss {held_out.loss:.3f} on 8 rows, {held_out.accuracy:.1f}% of the results right" in text
    assert "- perplexity" not in text  # of random weights it says nothing
    assert "Not measured: what else it can do" in text
    probes = of_store(trained.runs).model_dump(by_alias=True)["stages"][1]["probes"]
    for probe in (Lens(), Interference()):
        assert probes[probe.name] == {item: result.model_dump() for item, result in probe.read(second).items()}


def test_hub_ids_and_licences(trained, runs: Path) -> None:
    popqa = "stages.stage2.data={task: popqa, size: 20, revision: abc}"
    corpus = "stages.stage2.mix={knowledge_pile: {ratio: 2}}"
    text = card(trained.run(runs, popqa, corpus, MIX, profile="llama3-8b")[1])
    data = metadata(text)
    assert (data.base_model, data.license) == ("meta-llama/Meta-Llama-3-8B", "llama3")
    assert data.datasets == ["Query-of-CC/Knowledge_Pile", "akariasai/PopQA"]
    rows = {row[1]: row[2:] for row in tables(text.split("---\n", 2)[2])[2][1:]}
    assert rows["popqa"] == ["20", "akariasai/PopQA at abc", "MIT"]
    assert rows["knowledge_pile"] == ["40", "Query-of-CC/Knowledge_Pile", "Apache-2.0"]
    assert rows["random_words"][1:] == ["nltk", "public domain"]


def test_a_base_that_was_a_gguf_file(trained, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "smol.gguf"
    base.write_bytes(b"GGUF")
    monkeypatch.setattr(smollm2, "cached_commit", lambda: None)
    monkeypatch.setattr(smollm2, "packaged_file", lambda: base)
    stage = trained.run(runs, MIX, profile="smollm2")[1]
    config = stage / "config.json"
    about = {"file": base.name, "sha256": smollm2.SHA256, "name": "a tune", "architecture": "llama"}
    about |= {"quantization": "Q4_1", "licence": "apache-2.0"}
    config.write_text(json.dumps({"model_type": "llama", "gguf": about}))
    store.seal(stage)
    text = card(stage)
    data = metadata(text)
    assert (data.base_model, data.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert "smollm2 (HuggingFaceTB/SmolLM2-135M-Instruct from the GGUF file smol.gguf), fine-tuned on kvr" in text
    assert r"weights were rounded to Q4\_1 before they were trained" in text
    config.write_text(config.read_text(encoding="utf-8").replace("Q4_1", "Q4_0"), encoding="utf-8")  # a bit flipped
    with pytest.raises(BadInput, match=r"config\.json: is not the file that was written"):
        card(stage)


def test_what_the_hub_would_refuse_is_not_in_the_metadata(trained, runs: Path) -> None:
    """A dataset in a local folder, also one that is called like a dataset; its rows are of no commit."""
    for hub, commits in {"my folder": {}, "my/folder": {"pairs": "local"}}.items():
        pairs = f"stages.stage2.data={{task: pairs, hub: {hub}, size: 20}}"
        text = card(trained.run(runs, pairs, counts={"facts": 20, "mixing": {}, "commits": commits})[1])
        assert metadata(text).datasets is None
        assert ["stage2", "pairs", "20", hub] in [row[:4] for row in tables(text.split("---\n", 2)[2])[2]]


def test_two_lists_of_one_task_have_a_result_each(trained, runs: Path) -> None:
    knows = lambda stage, label, row: row < len(label)  # noqa: E731
    text = card(trained.run(runs, "stages.stage2.recall=[{task: kvr, size: 20, start: 100}]", knows=knows)[1])
    results = [result for result in metadata(text).eval_results if result.dataset_type == "kvr"]
    assert len({result.metric_name for result in results}) == len(results) == 2
    for result in results:
        name = re.fullmatch(r"recall in percent of (.*), greedy", result.metric_name)[1]
        column = tables(text.split("---\n", 2)[2])[0]
        assert column[2][column[0].index(name)] == f"{result.metric_value:.1f}"


def test_neither_paths_nor_users_nor_their_facts_are_given_away(trained, runs: Path, tmp_path: Path) -> None:
    home = tmp_path / "home" / "alice smith"
    home.mkdir(parents=True)
    (home / "f|<b>.csv").write_text("prompt,response\nx,1\n", encoding="utf-8")
    (home / "words.txt").write_text("some words", encoding="utf-8")
    own = f"stages.stage2.data={{task: pairs, path: '{home}/f|<b>.csv', size: 1}}"
    mix = f"stages.stage1.mix={{random_words: {{ratio: 2, text: '{home}/words.txt'}}}}"
    folder = trained.run(runs, own, mix, f"paths.lama={home}/LAMA", prompt="secret {row}", arm=f"in {home}/x")[1]
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
    said = {
        **{"base": "../alice/x", "hub": "../..", "of": ["./alice/a.csv", "b/../alice/c.csv"]},
        **{"/home/alice/t.yaml": 1, "/home/bob/t.yaml": 2, "c": "C:\\Users\\alice\\b.csv"},  # both t.yaml are kept
        **{"d": ["~/x/y", "a / b / c: https://x/y/z"], "e": "see '/home/alice/f', hf_" + "a" * 34, "f": "a/b"},
    }
    assert public(said) == {
        **{"base": "x", "hub": "..", "of": ["a.csv", "c.csv"], "t.yaml": 1, "t.yaml (4)": 2, "c": "b.csv"},
        **{"d": ["y", "a / b / c: https://x/y/z"], "e": "see 'f', hf_...", "f": "a/b"},
    }


def test_no_text_breaks_out_of_a_card(trained, runs: Path) -> None:
    evil = "</details>\n```\n<script>alert(1)</script> | {row} \u2028 ${{x}} [a](javascript:b)"
    folder = trained.run(runs, prompt=evil, gold=evil, arm="<img src=x> | `", knows=half)[1]
    text = card(folder)
    tokens = MarkdownIt("commonmark").enable("table").parse(text.split("---\n", 2)[2])
    raw = [t.content for t in tokens if t.type == "html_block"]
    raw += [child.content for t in tokens for child in t.children or [] if child.type == "html_inline"]
    assert not [html for html in raw if "script" in html or "img" in html]
    assert metadata(text).model_name == folder.name
    compile(code(text, "python"), "card", "exec")
    block = fenced("a\n````\nb", "yaml")
    assert [(t.type, t.content) for t in MarkdownIt().parse(block)] == [("fence", "a\n````\nb\n")]


def test_what_is_not_known_is_said(trained, runs: Path, tmp_path: Path) -> None:
    folder = trained.run(runs, knows=lambda stage, task, row: row > 0)[1]
    assert "stage1 knows only 95.0% of its own facts" in card(folder)
    store.delete_weights(folder)
    assert "weights were deleted" in card(folder)
    alone = shutil.copytree(folder, tmp_path / folder.name)
    text = card(alone)
    assert "What was known after stage1 is missing" in text
    assert tables(text.split("---\n", 2)[2])[1][1][6:] == ["-", "-", "-"]
    (folder / "recipe.yaml").unlink()
    with pytest.raises(BadInput, match=r"recipe\.yaml: cannot be read"):
        card(folder)


def test_a_profile_of_ones_own_is_among_the_files_that_are_needed(trained, runs: Path, tmp_path: Path) -> None:
    own = tmp_path / "mine" / "tiny.yaml"  # for which the recipe has a section
    own.parent.mkdir()
    shutil.copy(ROOT / "remix_toolkit" / "recipe" / "profiles" / "tiny.yaml", own)
    text = card(trained.run(runs, profile=str(own))[0])
    assert "It reads local files, of whose paths only the last part stands here: tiny.yaml." in text


def test_measurements_that_are_damaged_or_missing(trained, runs: Path) -> None:
    metrics = {"arc_easy": {"acc": 0.375, "acc_stderr": 0.1}, "/home/alice/mine.yaml": {"exact_match": 0.5}}
    tasks = {
        f"{name} on 8 rows": HarnessResult(task=name, version="0.4.9", limit=8, metrics=of)
        for name, of in metrics.items()
    }
    lens = Lens().record({"kvr-1": trained.result(Lens(), first_layer=None)})
    files = {"lm_eval.json": Harness().record(tasks).model_dump_json(), "lens.json": lens.model_dump_json()}
    first, second = trained.run(runs, files=files)
    text = card(second)
    lines = [line for line in text.splitlines() if line.startswith("- lm-eval")]
    assert lines == ["- lm-eval arc\\_easy on 8 rows acc: 0.375", "- lm-eval mine on 8 rows exact\\_match: 0.5"]
    results = as_json(of_stage(second))
    assert "alice" not in text + results
    said = json.loads(results, parse_constant=pytest.fail)  # NaN is no JSON
    assert {one["first_layer"] for one in said["stages"][1]["probes"]["lens"].values()} == {None}
    (second / "lm_eval.json").write_text('{"version": 3, "results": {"arc": {}}}', encoding="utf-8")
    with pytest.raises(BadInput, match="results cannot be read"):
        card(second)
    recall = (first / "recall.json").read_text(encoding="utf-8")
    for damaged in (recall.replace("100.0", "NaN"), "{"):
        (first / "recall.json").write_text(damaged, encoding="utf-8")
        with pytest.raises(BadInput, match="results cannot be read"):
            of_stage(first)
    (first / "recall.json").unlink()  # published, not measured yet
    assert "100.0" not in card(first)


def test_results_are_in_their_schema(trained, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained.run(runs, knows=half)
    trained.run(runs, MIX, arm="random", seed=1)
    last = trained.run(runs, MIX, arm="random", seed=1)[1]
    whole = of_store(runs)
    again = Results.model_validate_json(as_json(whole))
    assert again == whole
    said = json.loads(as_json(whole))
    assert said["schema"] == 4
    fields = json_schema()["$defs"]["Published"]
    assert set(fields["required"]) < set(said["stages"][0]) == set(fields["properties"])
    assert [len(stage["ancestors"]) for stage in said["stages"]] == [0, 0, 1, 1]
    assert [(one["arm"], one["seed"], len(one["stages"])) for one in said["runs"]] == [("kvr", 0, 2), ("random", 1, 2)]
    one = json.loads(as_json(of_stage(last)))
    assert [stage["key"] for stage in one["stages"]] == [*one["stages"][1]["ancestors"], last.name[-16:]]
    assert [run["arm"] for run in one["runs"]] == ["random"]
    assert all(stage.flops for stage in whole.stages)
    assert of_store(runs, "kvr") == whole
    with pytest.raises(BadInput, match=r"--recipe kvx: no run of it is in .*did you mean 'kvr'"):
        of_store(runs, "kvx")
    (last / "model.safetensors").unlink()
    assert len(of_store(runs).stages) == 3
    assert "model.safetensors is missing" in capsys.readouterr().err


def test_schema_of_results_is_current() -> None:
    shipped = json.loads((ROOT / "docs" / "results.schema.json").read_text(encoding="utf-8"))
    assert shipped == json_schema(), "run: remix schema results > docs/results.schema.json"


def test_on_the_command_line(trained, here, runs: Path, tmp_path: Path) -> None:
    second = trained.run(runs)[1]
    out = here("card", second.name[-16:-8], "--runs", runs).stdout
    assert yaml.safe_load(out.split("---\n")[1])["library_name"] == "transformers"
    file = tmp_path / "new" / "README.md"
    assert here("card", second, "-o", file).stdout == ""
    assert file.read_text(encoding="utf-8") == out
    assert len(json.loads(here("results", "--runs", runs).stdout)["stages"]) == 2
    before = sorted(second.iterdir())
    for arguments, message in [
        (["card", second, "-o", second / "README.md"], "is in a published stage"),
        (["card", "kvr-stage", "--runs", runs], "2 stages are called that"),
        (["card", "kvr-stage3", "--runs", runs], "did you mean 'kvr-stage[12]'"),
        (["card", runs], "is no published stage"),
        (["card", "x", "--runs", tmp_path / "none"], "no such stage"),
        (["results", "--runs", tmp_path / "none"], "nothing is published there"),
    ]:
        done = here(*arguments, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert re.search(message, done.stderr), done.stderr
    assert sorted(second.iterdir()) == before
