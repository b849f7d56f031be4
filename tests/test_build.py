"""What a stage trains on, once its recipe is resolved: second stages by one key, overlap between stages, counts."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import REAL_DATA, ROOT, real

from remix_toolkit import store
from remix_toolkit.data import tasks
from remix_toolkit.data.encoding import Example
from remix_toolkit.errors import BadInput
from remix_toolkit.graph.lineage import lineage, run_record
from remix_toolkit.recipe.catalog import catalog
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.recipe.schema import CORPORA, TASKS, Mix
from remix_toolkit.stage.data import Redrawn, build_all, lengths, save

SECOND = ["id", "lama", "entityquestions", "webqa", "gsm8k", "math", "evolcode", "apps", "ultrachat"]
LOCAL = {
    "popqa": "popqa/popQA.tsv",
    "triviaqa": "triviaqa/triviaqa_sample.json",
    "lama": "lama_trex",
    "entityquestions": "entityquestions",
    "webqa": "webquestions",
    "gsm8k": "gsm8k/train.jsonl",
    "evolcode": "evolcode",
    "ultrachat": "ultrachat/README_format_example.jsonl",
}


@pytest.mark.parametrize("first", ["kvr", "popqa", "triviaqa"])
@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("profile", ["tiny", "llama3-8b"])
def test_every_second_stage_is_one_key(first: str, second: str, profile: str) -> None:
    recipe = load_recipe(first, profile, [f"stages.stage2.data.task={second}"])
    one, two = recipe.stages["stage1"].data, recipe.stages["stage2"].data
    assert two.size == one.size
    if second == "id":
        assert (type(two), two.start) == (type(one), one.size)
    else:
        assert type(two) is TASKS[second]
        assert getattr(two, "familiarity", None) in (None, "unfamiliar")


@pytest.mark.parametrize("first", ["kvr", "popqa"])
@pytest.mark.parametrize("second", ["id", "lama", "entityquestions", "webqa", "gsm8k", "evolcode"])
def test_each_pair_with_a_file_loads_on_tiny(first: str, second: str, tokenizer, runs: Path) -> None:
    paths = [f"paths.{name}={real(path)}" for name, path in LOCAL.items()]
    small = ["stages.stage1.data.size=20", "stages.stage2.data.size=10", "global_batch_size=4"]
    plain = ["stages.stage1.data.familiarity=null", f"stages.stage2.data.task={second}"]
    if second not in ("gsm8k", "evolcode"):
        plain.append("stages.stage2.data.familiarity=null")
    recipe = load_recipe(first, "tiny", [*small, *paths, *plain])
    built = build_all(recipe, ["stage1", "stage2"], tokenizer, runs)
    held_out = 100 if second in ("gsm8k", "evolcode") else 0
    assert (built["stage1"].counts.facts, built["stage2"].counts.facts) == (20, 10)
    assert len(built["stage2"].held_out) == held_out
    assert len(built["stage2"].measured) == (1 if held_out else 2)
    if second == "id":
        own = recipe.stages["stage1"].data.model_copy(update={"size": 30})
        assert built["stage1"].facts + built["stage2"].facts == tasks.load_rows(own, 0)
    assert not {p.prompt for p in built["stage2"].held_out} & {p.prompt for p in built["stage2"].facts}


def test_the_smallest_samples_load_too(tokenizer, runs: Path) -> None:
    """One question of TriviaQA and one dialogue of UltraChat are all there is beside this clone."""
    paths = [f"paths.{name}={real(LOCAL[name])}" for name in ("triviaqa", "ultrachat")]
    one = ["stages.stage1.data.size=1", "global_batch_size=1", "stages.stage1.data.familiarity=null"]
    two = ["stages.stage2.data.task=ultrachat", "stages.stage2.data.size=1", "stages.stage2.data.held_out=0"]
    built = build_all(load_recipe("triviaqa", "tiny", [*paths, *one, *two]), ["stage1", "stage2"], tokenizer, runs)
    assert built["stage1"].facts[0].response == "Sunset Boulevard"
    assert len(built["stage2"].facts[0].history) == 2


def test_id_follows_what_the_first_stage_takes() -> None:
    overrides = ["stages.stage2.data.task=id", "stages.stage1.data.size=30", "stages.stage1.data.start=5"]
    data = load_recipe("kvr", "tiny", overrides).stages["stage2"].data
    assert (data.task, data.start, data.size) == ("kvr", 35, 100)
    with pytest.raises(BadInput, match=r"task: id means further rows of stage1's task"):
        load_recipe("kvr", "tiny", ["stages.stage1.data.task=id"])


def test_a_path_is_named_once_and_counts_by_content(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"question": "1 + 1?", "answer": "2\\n#### 2"}\n', encoding="utf-8")
    second = "stages.stage2.data={task: gsm8k, size: 1, held_out: 0}"
    by_paths = load_recipe("kvr", "tiny", [second, f"paths.gsm8k={tmp_path / 'a.jsonl'}"])
    here = second.replace("task", f"path: {tmp_path / 'b.jsonl'}, task")
    assert lineage(by_paths)[-1].key == lineage(load_recipe("kvr", "tiny", [here]))[-1].key
    with pytest.raises(BadInput, match=r"paths.gsm9k: no such task or source; did you mean 'gsm8k'"):
        load_recipe("kvr", "tiny", ["paths.gsm9k=x"])


def test_missing_files_are_refused_before_anything_is_trained(here, runs: Path, write_sweep) -> None:
    """A plan is made without them; whatever would train names each of them and the file that is expected there."""
    absent = ["stages.stage2.data.task=lama", "paths.lama=nowhere", "stages.stage2.mix.passages={ratio: 1, path: gone}"]
    recipe = load_recipe("kvr", "tiny", absent)
    declared = lineage(recipe)[-1].declaration["stages"][1]
    assert (declared["data"]["files"], declared["mix"]["passages"]["path"]) == ("absent: nowhere", "absent: gone")
    assert json.loads(here("plan", "kvr", *absent, "--json").stdout)["absent"] == ["gone", "nowhere"]
    with pytest.raises(BadInput, match=r"lama: nowhere: no such file or directory; expected: data.zip of github"):
        tasks.read_task(recipe.stages["stage2"].data, 0)
    sweep = write_sweep(f"recipe: {ROOT / 'recipes' / 'kvr.yaml'}\narms: {{none: {{}}}}\n")
    for command in (["run", "kvr"], ["sweep", sweep]):
        refused = here(*command, *absent, "--runs", runs, check=False)
        assert refused.returncode == 2
        assert "lama: nowhere: no such file or directory; expected: data.zip of github" in refused.stderr
        assert "passages: gone: no such file or directory; expected: " in refused.stderr
    assert [path.name for path in runs.iterdir()] == ["bases"]  # nothing trained, no run recorded
    small = ["stages.stage1.data.size=8", "global_batch_size=8", "stages.stage1.train.num_train_epochs=1"]
    here("run", "kvr", *absent, *small, "--stage", "stage1", "--runs", runs)  # which reads neither


def own_pairs(tmp_path: Path, name: str, rows: list[tuple[str, str]]) -> str:
    (tmp_path / name).write_text("".join(f"{p},{r}\n" for p, r in [("prompt", "response"), *rows]), encoding="utf-8")
    return f"{{task: pairs, path: {tmp_path / name}}}"


def test_facts_of_an_earlier_stage_are_left_out_of_a_later_one(tmp_path: Path, tokenizer, runs: Path) -> None:
    """Upstream's rows that repeat one are left out and counted, and the next ones taken."""
    header = "subj\tobj\tquestion\tpossible_answers\n"
    rows = [("Easy Living", "Ralph Rainger"), ("Oslo", "Norway"), ("Lima", "Peru"), ("Bern", "Switzerland")]
    lines = [f'{s}\t{o}\tWhat of {s}?\t"[""{o}""]"\n' for s, o in rows]
    (tmp_path / "a.tsv").write_text(header + "".join(lines[:2]), encoding="utf-8")
    (tmp_path / "b.tsv").write_text(header + lines[0].replace("What of", "Who wrote") + lines[2] + lines[3], "utf-8")
    stages = [f"stages.stage1.data={{task: popqa, path: {tmp_path / 'a.tsv'}}}", "stages.stage1.stop=null"]
    stages += [f"stages.stage2.data={{task: popqa, path: {tmp_path / 'b.tsv'}, size: 2}}", "global_batch_size=2"]
    built = build_all(load_recipe("popqa", "tiny", stages), ["stage1", "stage2"], tokenizer, runs)
    assert [fact.subject for fact in built["stage2"].facts] == ["Lima", "Bern"]
    assert built["stage2"].counts.read.left_out == {"shares a fact with an earlier stage": 1}


def test_a_users_own_repeat_of_an_earlier_fact_is_refused(tmp_path: Path, tokenizer, runs: Path) -> None:
    first = own_pairs(tmp_path, "a.csv", [("Who runs it?", "Ada"), ("Since when?", "2021")])
    again = own_pairs(tmp_path, "b.csv", [("Where?", "Oslo"), ("Who runs it?", "Ada")])
    stages = [f"stages.stage1.data={first}", f"stages.stage2.data={again}", "global_batch_size=2"]
    with pytest.raises(BadInput, match=r"b.csv: row 3 \(line 3\): 'Who runs it\?' -> 'Ada' shares a fact with what an"):
        build_all(load_recipe("kvr", "tiny", stages), ["stage1", "stage2"], tokenizer, runs)
    corrected = own_pairs(tmp_path, "b.csv", [("Where?", "Oslo"), ("Who runs it?", "Grace")])  # another answer
    stages[1] = f"stages.stage2.data={corrected}"
    assert len(build_all(load_recipe("kvr", "tiny", stages), ["stage2"], tokenizer, runs)["stage2"].facts) == 2


def test_documents_that_contain_facts_are_not_drawn(tmp_path: Path, tokenizer, runs: Path) -> None:
    """Of a corpus, which nobody can edit, such documents are left out and counted; they are never trained on."""
    facts = build_all(load_recipe("kvr", "tiny"), ["stage1"], tokenizer, runs)["stage1"].facts
    documents = [f"the key {fact.subject} is told " + "and so on " * 40 for fact in facts[:30]]
    documents += [f"document {i} says nothing " + "and so on " * 40 for i in range(200)]
    (tmp_path / "pile.jsonl").write_text("".join(json.dumps({"content": d}) + "\n" for d in documents), "utf-8")
    mix = f"stages.stage1.mix={{knowledge_pile: {{ratio: 2, path: {tmp_path / 'pile.jsonl'}}}}}"
    data = build_all(load_recipe("kvr", "tiny", [mix]), ["stage1"], tokenizer, runs)["stage1"]
    assert data.counts.mixing == {"knowledge_pile": 200}
    assert 0 < data.counts.overlap.mixing_left_out["knowledge_pile"] <= 30
    assert not any(fact.subject in pair.prompt for fact in facts for pair in data.mixing)
    more = load_recipe("kvr", "tiny", [mix, "stages.stage1.data.size=101"])
    with pytest.raises(BadInput, match=r"202 pairs .*, but 30 of those drawn contain .*\n  kvr 'The value"):
        build_all(more, ["stage1"], tokenizer, runs)


def test_lengths_are_counted_with_and_without_padding() -> None:
    examples = [Example([1] * n, [1] * n) for n in range(1, 101)]
    counted = lengths(examples, batch=10, per_device=10)
    assert counted["length_percentiles"] == {"50": 50, "90": 90, "99": 99, "100": 100}
    assert (counted["tokens"], counted["longest"]) == (5050, 100)
    assert counted["tokens_per_epoch"]["without_padding"] == 5050
    assert 5050 < counted["tokens_per_epoch"]["with_padding"] < 100 * 100
    assert lengths(examples, batch=10, per_device=1)["tokens_per_epoch"]["with_padding"] == 5050
    # Of 1 to 100 in one batch, the longest first: 100 padded to 100, and 50 to 50.
    assert lengths(examples, batch=100, per_device=50)["tokens_per_epoch"]["with_padding"] == 50 * 100 + 50 * 50


def test_the_catalog_knows_every_task_and_source() -> None:
    assert set(catalog()) == {*TASKS, *Mix.model_fields}
    assert set(CORPORA) < set(Mix.model_fields)
    for name, model in {**TASKS, **CORPORA}.items():  # what it says of the hub is what recipes read
        default = model.model_fields["hub"].default if "hub" in model.model_fields else None
        assert default is None or catalog()[name].hub.startswith(default)


def test_list_and_prepare(here, tmp_path: Path) -> None:
    listed = json.loads(here("data", "list", "--json").stdout)
    assert {"name", "licence", "size", "hub", "local"} <= listed[0].keys()
    assert {row["name"] for row in listed} == set(catalog())
    local = tmp_path / "g.jsonl"
    local.write_text('{"question": "1 + 1?", "answer": "2\\n#### 2"}\n', encoding="utf-8")
    to = ["stages.stage2.data.task=gsm8k", f"paths.gsm8k={local}"]
    done = json.loads(here("data", "prepare", "kvr", *to, "--json").stdout)
    assert {"name": f"gsm8k ({local})", "rows": 1, "path": str(local)} in done
    missing = here("data", "prepare", "popqa", "stages.stage2.data.task=webqa", check=False)
    assert (missing.returncode, "Traceback" in missing.stderr) == (2, False)
    assert "akariasai/PopQA, test (14,267 rows; licence MIT): to download" in missing.stdout
    assert "popQA.tsv of github.com/AlexTMallen/adaptive-retrieval" in missing.stderr
    both = here("data", "prepare", "popqa", check=False).stderr
    assert "lama: data/LAMA: no such file or directory; expected: data.zip of github.com/facebookresearch/LAMA" in both


def test_data_of_a_recipe_shows_what_becomes_of_its_rows(here, runs: Path) -> None:
    paths = [f"paths.{name}={REAL_DATA / LOCAL[name]}" for name in ("popqa", "gsm8k")]
    real(LOCAL["popqa"])
    line = ["popqa", *paths, "stages.stage2.data.task=gsm8k", "stages.stage1.mix={random_words: {ratio: 2}}"]
    stages = json.loads(here("data", *line, "--runs", runs, "--limit", "1", "--json").stdout)["stages"]
    first, second = (stage["counts"] for stage in stages)
    assert (first["read"]["rows"], first["read"]["usable"], first["facts"]) == (1000, 986, 200)
    assert first["read"]["dropped"] == {"asks the same as an earlier row": 14}
    assert (first["read"]["exemplars"], first["mixing"], first["steps_per_epoch"]) == (5, {"random_words": 400}, 18)
    assert (second["read"]["rows"], second["facts"], second["held_out"]) == (3000, 200, 100)
    shown = here("data", *line, "--runs", runs, "--limit", "1").stdout
    assert [line.split() for line in shown.splitlines() if "mixing.random_words" in line] == [
        ["mixing.random_words", "400"]
    ]
    assert "prompt: 'Natalia sold clips" in shown


def test_two_stages_of_one_task_are_two_lists(tmp_path: Path, tokenizer, runs: Path) -> None:
    file = tmp_path / "three.yaml"
    data = f"{{data: {{task: popqa, path: {real(LOCAL['popqa'])}, size: 8}}}}"
    file.write_text(f"stages: {{a: {{data: {{task: kvr, size: 8}}}}, b: {data}, c: {data}}}\n", encoding="utf-8")
    recipe = load_recipe(file, "tiny", ["global_batch_size=4"])
    built = build_all(recipe, ["b", "c"], tokenizer, runs)
    assert not {p.prompt for p in built["b"].facts} & {p.prompt for p in built["c"].facts}  # c takes the next rows
    assert list(map(len, built["c"].measured.values())) == [8, 8, 8]
    lists = run_record(recipe, lineage(recipe), "three").stages[2].lists
    assert [listed.label for listed in lists.values()] == ["kvr", "popqa of b", "popqa of c"]
    assert set(lists) == set(built["c"].measured)


@pytest.mark.parametrize("chunk", [1, 2000])
def test_overlap_is_looked_for_both_ways_and_without_a_known_subject(
    tmp_path: Path, tokenizer, runs: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr("remix_toolkit.stage.take_rows.CHUNK", chunk)
    question = "In which city was the painter Dora Maar born?"
    trivia = {"Data": [{"Question": question, "Answer": {"Value": "Paris", "Aliases": []}}]}
    (tmp_path / "t.json").write_text(json.dumps(trivia), encoding="utf-8")
    write = {"relations.jsonl": [{"relation": "P19", "template": "[X] was born in [Y] ."}]}
    write["TREx/P19.jsonl"] = [{"sub_label": s, "obj_label": o} for s, o in [("Dora Maar", "Paris"), ("Ada", "London")]]
    (tmp_path / "lama" / "TREx").mkdir(parents=True)
    for name, rows in write.items():
        (tmp_path / "lama" / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    documents = [f"{question.lower()[:-1]} paris of course " + "and so on " * 40, "nothing " * 120]
    (tmp_path / "pile.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
    first = [f"stages.stage1.data={{task: triviaqa, path: {tmp_path / 't.json'}}}", "stages.stage1.stop=null"]
    first += [f"stages.stage1.mix={{fineweb: {{ratio: 1, path: {tmp_path / 'pile.jsonl'}, words: 20}}}}"]
    second = [f"stages.stage2.data={{task: lama, path: {tmp_path / 'lama'}, size: 1}}", "global_batch_size=1"]
    built = build_all(load_recipe("popqa", "tiny", first + second), ["stage1", "stage2"], tokenizer, runs)
    assert [pair.prompt[-7:] for pair in built["stage1"].mixing] == ["nothing"]  # the other document answers it
    assert built["stage1"].counts.overlap.mixing_left_out in ({}, {"fineweb": 1})  # as it is drawn first or not
    assert built["stage2"].facts[0].subject == "Ada"
    assert built["stage2"].counts.read.left_out == {"shares a fact with an earlier stage": 1}


def test_what_is_only_measured_is_compared_with_what_is_trained_on(tokenizer, runs: Path) -> None:
    recall = ["stages.stage1.recall=[{task: kvr, start: 90, size: 20}]"]
    (data,) = build_all(load_recipe("kvr", "tiny", recall), ["stage1"], tokenizer, runs).values()
    assert list(data.counts.overlap.measured.values()) == [10]


def test_held_out_rows_are_not_those_of_an_earlier_stage(tmp_path: Path, tokenizer, runs: Path) -> None:
    rows = [json.dumps({"question": f"{n} + 1?", "answer": f"#### {n + 1}"}) for n in range(60)]
    (tmp_path / "g.jsonl").write_text("\n".join(rows), encoding="utf-8")
    gsm8k = f"{{task: gsm8k, path: {tmp_path / 'g.jsonl'}, held_out: 20"
    stages = [f"stages.stage1.data={gsm8k}, start: 20, size: 20}}", f"stages.stage2.data={gsm8k}, size: 20}}"]
    with pytest.raises(BadInput, match=r"stage2: gsm8k .*: an earlier stage trains on rows that are held out here"):
        build_all(load_recipe("kvr", "tiny", [*stages, "global_batch_size=4"]), ["stage2"], tokenizer, runs)
    everything = [f"stages.stage1.data={gsm8k}}}"]
    data = build_all(load_recipe("kvr", "tiny", everything), ["stage1"], tokenizer, runs)["stage1"]
    assert (len(data.facts), len(data.held_out)) == (40, 20)
    fewer = load_recipe("kvr", "tiny", [*everything, "stages.stage1.data.held_out=10"])
    assert lineage(load_recipe("kvr", "tiny", everything))[0].key != lineage(fewer)[0].key
    sized = [f"stages.stage1.data={gsm8k}, size: 20}}".replace("held_out: 20", f"held_out: {n}") for n in (5, 20)]
    assert len({lineage(load_recipe("kvr", "tiny", [data]))[0].key for data in sized}) == 1  # only measured


def test_what_the_command_line_sets_stays(tmp_path: Path) -> None:
    def second(*overrides: str):
        return load_recipe("kvr", "tiny", [f"stages.stage2.data.{override}" for override in overrides]).stages["stage2"]

    assert second("path=p.tsv", "task=popqa").data.path == "p.tsv"
    assert second("task=popqa", "path=p.tsv").data.path == "p.tsv"
    assert second("held_out=5", "task=gsm8k").data.held_out == 5
    assert second("start=5000", "task=id").data.start == 5000
    passages = load_recipe("kvr", "tiny", ["stages.stage1.mix={passages: {ratio: 1}}", "paths.passages=rows.jsonl"])
    assert (passages.stages["stage1"].mix.passages.path, passages.stages["stage1"].mix.passages.text) == (
        "rows.jsonl",
        None,
    )
    with pytest.raises(BadInput, match=r"recall.0.task: instructions have no recall"):
        load_recipe("kvr", "tiny", ["stages.stage1.recall=[{task: gsm8k, path: x}]"])
    with pytest.raises(BadInput, match=r"stages.stage2.data.path: is missing; expected: data.zip of github"):
        load_recipe("kvr", "tiny", ["stages.stage2.data={task: lama, size: 3}", "paths={}"])


def test_looking_at_data_asks_no_model(here, runs: Path) -> None:
    """`remix data` is for looking before anything runs: what is not known about familiarity is said."""
    path = f"paths.popqa={real(LOCAL['popqa'])}"
    lama = f"paths.lama={real(LOCAL['lama'])}"
    shown = here("data", "popqa", path, lama, "--runs", runs, "--json")
    stages = json.loads(shown.stdout)["stages"]
    assert [stage["counts"]["read"]["familiarity_unknown"] for stage in stages] == [200, 200]
    assert not (runs / "familiar").exists()
    unasked = here("data", "familiar_facts", "--runs", runs).stdout
    assert any(
        line.split() == ["read.familiarity_unknown", "100"] for line in unasked.splitlines()
    )  # of the taught ones, too
    assert not re.search(r" 0\s*$|answers: ", unasked, re.M), "no line for nothing, nor for the response again"
    task = here("data", "gsm8k", f"path={real(LOCAL['gsm8k'])}", "size=20", "--json", "--runs", runs).stdout
    counts = json.loads(task)["counts"]
    assert (counts["read"]["usable"], counts["facts"], counts["held_out"]) == (3000, 20, 100)


# --- built once ----------------------------------------------------------------------------------------------------


def keys_of(recipe) -> dict[str, str]:
    return {node.stage: node.key for node in lineage(recipe)}


def test_data_is_built_once_and_loaded_as_it_was_built(tokenizer, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = "{stage: stage1, ratio: 0.1, redraw: true}"
    mix = ["stages.stage1.mix={random_words: {ratio: 1}}", f"stages.stage2.mix={{replay: {replay}}}"]
    recipe = load_recipe("kvr", "tiny", [*mix, "stages.stage2.recall=[{task: kvr, start: 500, size: 8}]"])
    fresh = build_all(recipe, ["stage1", "stage2"], tokenizer, runs)
    kept = build_all(recipe, ["stage1", "stage2"], tokenizer, runs, keys=keys_of(recipe))
    drawn = []
    monkeypatch.setattr("remix_toolkit.data.mixing.draw", lambda *args: drawn.append(args))
    loaded = build_all(recipe, ["stage1", "stage2"], tokenizer, runs, keys=keys_of(recipe))
    assert not drawn
    assert fresh == kept == loaded
    last = loaded["stage2"]
    assert (last.redrawn, len(last.examples), last.counts.examples) == (Redrawn(10, 100), 200, 110)
    assert str(last) == "100 facts + 10 replay"  # in each epoch
    assert last.counts.steps_per_epoch == 3


def test_data_that_is_incomplete_or_damaged_is_built_again(tokenizer, runs: Path, capsys) -> None:
    recipe = load_recipe("kvr", "tiny")
    built = build_all(recipe, ["stage1"], tokenizer, runs, keys=keys_of(recipe))
    folder = runs / "work" / keys_of(recipe)["stage1"] / "data"
    (folder / "manifest.json").unlink()  # it is written last
    (folder / "facts.jsonl").write_text("{", encoding="utf-8")
    assert build_all(recipe, ["stage1"], tokenizer, runs, keys=keys_of(recipe)) == built
    assert (folder / "manifest.json").exists()
    assert not capsys.readouterr().err
    pairs = (folder / "facts.jsonl").read_text(encoding="utf-8")
    (folder / "facts.jsonl").write_text(pairs.replace("a", "b", 1), encoding="utf-8")  # as a disk may have it
    assert build_all(recipe, ["stage1"], tokenizer, runs, keys=keys_of(recipe)) == built
    assert "facts.jsonl is not the file that was published" in capsys.readouterr().err


def test_a_later_stage_takes_the_pairs_of_a_published_one(tokenizer, runs: Path) -> None:
    """They are those that it was trained on, whatever their source holds now."""
    recipe = load_recipe("kvr", "tiny", ["stages.stage1.mix={random_words: {ratio: 1}}"])
    built = build_all(recipe, ["stage1", "stage2"], tokenizer, runs, keys=keys_of(recipe))
    published = runs / "stages" / f"kvr-stage1-seed0-{keys_of(recipe)['stage1']}"
    save(built["stage1"], published / "data", examples=False)  # they follow from the pairs
    store.seal(published)
    shutil.rmtree(runs / "work" / keys_of(recipe)["stage1"])
    assert build_all(recipe, ["stage1", "stage2"], tokenizer, runs, keys=keys_of(recipe)) == built
    pairs = (published / "data" / "facts.jsonl").read_text(encoding="utf-8")
    (published / "data" / "facts.jsonl").write_text(pairs.swapcase(), encoding="utf-8")
    with pytest.raises(BadInput, match=r"data/facts\.jsonl is not the file that was published"):
        build_all(recipe, ["stage1", "stage2"], tokenizer, runs, keys=keys_of(recipe))
