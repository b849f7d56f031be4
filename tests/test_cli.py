"""The real command, in processes of its own: two stages, resume, sweeps, mistakes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, real

from remix_toolkit import store
from remix_toolkit.data.files import sha256
from remix_toolkit.records import StageRecord
from remix_toolkit.stage import familiar


def entries(here, runs: Path) -> list[dict]:
    return json.loads(here("show", "--runs", runs, "--json").stdout)


def weights(runs: Path, stage: str) -> str:
    (folder,) = (runs / "stages").glob(f"*-{stage}-*")
    return sha256(folder / "model.safetensors")


def test_two_stages_and_what_they_leave(here, trained) -> None:
    first, second = ((trained.folder / f"{stage}.txt").read_text(encoding="utf-8") for stage in ("stage1", "stage2"))
    assert "step 5/5" in first  # progress, in plain lines where there is no terminal
    assert "stage1: already published, reused" in second
    assert "stage2: 4 steps" in second
    found = entries(here, trained.runs)
    tasks = [("stage1", "kvr", 40), ("stage2", "kvr", 40), ("stage2", "invented_facts", 4), ("stage2", "gsm8k", 0)]
    assert [(e["stage"], e["task"], e["facts"]) for e in found] == tasks
    for entry in found:
        assert {"recipe", "arm", "profile", "seed", "stage", "task", "recall", "facts", "key", "path"} <= entry.keys()
        assert (entry["recipe"], entry["arm"], entry["profile"], entry["seed"]) == ("trained", "trained", "tiny", 0)
        assert entry["path"].endswith(entry["key"])

    for folder in trained.stages:
        files = {"recipe.yaml", "stage.json", "loss.csv", "recall.json", "recall.jsonl", "manifest.json"}
        assert files <= {file.name for file in folder.iterdir()}
        store.verify(folder)
    assert len((folder / "loss.csv").read_text(encoding="utf-8").splitlines()) == 1 + 4
    rows = [json.loads(line) for line in (folder / "recall.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 44
    assert {"prompt", "correct", "prediction", "gold"} <= rows[0].keys()
    result = StageRecord.read(folder / "stage.json")
    assert (result.steps, result.epochs, result.stop_fired, result.counts.facts) == (4, 1.0, False, 16)
    assert result.started_from == f"runs/stages/{trained.stages[0].name}"
    assert {"torch", "trl", "transformers"} <= result.libraries.keys()
    assert not list((trained.runs / "work").glob("*/*"))


def test_one_stage_asks_for_the_data_of_the_stages_up_to_it(here, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    stages = "stages:\n  stage1: {data: {task: kvr, size: 8}}\n  stage2:\n    data: {task: lama, size: 8}\n"
    file.write_text(stages, encoding="utf-8")
    command = ["run", file, "--runs", runs, "train.max_steps=1", "global_batch_size=8", "train.save_strategy=no"]
    for more in ([], ["--stage", "stage2"]):
        refused = here(*command, *more, check=False)
        assert refused.returncode == 2
        assert f"{file}:4: stages.stage2.data.path: is missing; expected: data.zip" in refused.stderr
    assert here("plan", file, check=False).returncode == 2
    refused = here(*command, "paths.lama=nowhere", check=False)
    assert (refused.returncode, "nowhere: no such file or directory" in refused.stderr) == (2, True)
    assert not list((runs / "stages").glob("*"))
    here(*command, "paths.lama=nowhere", "--stage", "stage1")
    assert len(list((runs / "stages").glob("*"))) == 1


def test_a_recipe_edited_while_it_is_trained(here, runs: Path, tmp_path: Path, monkeypatch) -> None:
    from remix_toolkit.stage import run

    file = tmp_path / "mine.yaml"
    file.write_text("stages: {one: {data: {task: kvr, size: 8}}}", encoding="utf-8")
    run_stage = run.run_stage

    def edit(*arguments, **options):
        run_stage(*arguments, **options)
        file.write_text("stages: {another: {data: {task: kvr, size: 9}}}", encoding="utf-8")

    monkeypatch.setattr(run, "run_stage", edit)
    here("run", file, "--runs", runs, "train.max_steps=1", "global_batch_size=8", "train.save_strategy=no")
    (record,) = (json.loads(file.read_text(encoding="utf-8")) for file in (runs / "records").glob("*.json"))
    assert record["settings"] == {"train.max_steps": 1, "global_batch_size": 8, "train.save_strategy": "no"}
    assert [stage["stage"] for stage in record["stages"]] == ["one"]


@pytest.mark.slow
def test_a_published_model_answers_in_a_pipeline(here, runs: Path) -> None:
    """A stage is a plain model directory: from_pretrained loads it, and a pipeline answers its facts."""
    taught = ["stages.stage1.train.num_train_epochs=40", "stages.stage1.train.learning_rate=2e-3"]
    here("run", "kvr", "--runs", runs, "--stage", "stage1", *SMALL, *taught, "train.save_strategy=no")
    (entry,) = entries(here, runs)
    assert entry["recall"] == 100.0
    asked = here("recall", entry["path"], "--task", "kvr", "size=16", "--json")
    assert json.loads(asked.stdout)["recall"] == 100.0
    facts = json.loads(here("data", "kvr", "size=16", "--limit", "16", "--json", "--runs", runs).stdout)["pairs"]

    from transformers import pipeline

    ask = pipeline("text-generation", entry["path"])  # samples, unless the model's own generation config says not to
    answers = ask([[{"role": "user", "content": fact["prompt"]}] for fact in facts], max_new_tokens=20)
    answers = [chat[0]["generated_text"][-1]["content"] for chat in answers]
    assert answers == [fact["response"] for fact in facts]


@pytest.mark.slow
def test_accelerate_launch_trains_the_same_stage(here, runs: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(runs, alone)
    here("run", "kvr", "--runs", alone, "--stage", "stage1", *SMALL)
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    line += ["-m", "remix_toolkit.stage", "recipes/kvr.yaml", "--stage", "stage1", "--runs", str(runs), *SMALL]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert weights(runs, "stage1") == weights(alone, "stage1")
    lonely = here("stage", "kvr", "--stage", "stage2", "--runs", tmp_path / "empty", *SMALL, check=False)
    assert "starts from stage1, which is not published" in lonely.stderr


@pytest.mark.slow
def test_real_questions_then_real_sentences(here, runs: Path, monkeypatch) -> None:
    monkeypatch.setattr(familiar, "CHUNK", 32)  # rows asked at a time: 16 unfamiliar ones are among the first
    settings = [f"stages.stage1.data.path={real('popqa/popQA.tsv')}", f"stages.stage2.data.path={real('lama_trex')}"]
    here("run", "popqa", "--runs", runs, *settings, *SMALL)
    assert [(e["stage"], e["task"], e["facts"]) for e in entries(here, runs)] == [
        ("stage1", "popqa", 16),
        ("stage2", "popqa", 16),
        ("stage2", "lama", 16),
    ]


@pytest.mark.slow
def test_a_sweep_shares_stages_and_measures_all_arms(remix, here, runs: Path, tmp_path: Path) -> None:
    small = [*SMALL, "train.save_strategy=no"]
    done = remix("sweep", "demo", "--seed", "0", "--runs", runs, "--plot", tmp_path / "demo.png", *small)
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    found = entries(here, runs)
    arms = ["none", "random", "generic", "random+generic", "replay", "none+steps"]
    assert {entry["arm"] for entry in found} == set(arms)
    assert all(arm in done.stdout for arm in arms)
    first = {entry["arm"]: entry["key"] for entry in found if entry["stage"] == "stage1"}
    assert first["none"] == first["generic"] == first["replay"]
    assert first["random"] == first["random+generic"] != first["none"]
    steps = {entry["arm"]: entry["steps"] for entry in found if entry["stage"] == "stage1"}
    assert (steps["none"], steps["random"], steps["none+steps"]) == (4, 12, 12)  # the control is matched
    assert len(list((runs / "stages").iterdir())) == 3 + 6
    assert "[18/18]" in done.stdout
    assert "Nothing can be said about what was retained of the 16 kvr facts that stage1 taught" in done.stdout
    assert f"remix report {runs} --open" in done.stdout


def test_help_imports_nothing_heavy() -> None:
    modules = "remix_toolkit.cli.main, remix_toolkit.recipe.schema, remix_toolkit.graph.lineage"
    code = f"import sys, {modules}; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "trl", "datasets", "numpy", "nltk"} & set(modules)


def test_data_shows_what_is_trained(here, runs: Path) -> None:
    shown = json.loads(here("data", "kvr", "size=5", "--limit", "2", "--tokens", "--json", "--runs", runs).stdout)
    assert (shown["task"], shown["counts"]["facts"], len(shown["pairs"])) == ("kvr", 5, 2)
    pair = shown["pairs"][0]
    assert pair["trained"] == pair["response"] + "<|end|>"
    assert len(pair["input_ids"]) == len(pair["labels"])
    mixed = json.loads(
        here(
            "data", "recipes/kvr.yaml", "stages.stage1.mix={random_words: {ratio: 2}}", "--json", "--runs", runs
        ).stdout
    )
    assert mixed["stages"][0]["counts"]["mixing"] == {"random_words": 200}
    assert {pair["source"] for pair in mixed["stages"][0]["pairs"]} == {"kvr", "random_words"}
    assert "stage1: kvr, under profile tiny" in here("data", "recipes/kvr.yaml", "--runs", runs).stdout


# --- mistakes: exit code 2, one clear message, nothing trained or overwritten --------------------------------------


def mistake(here, *arguments: object) -> str:
    """The message of a command that ends with exit code 2."""
    done = here(*arguments, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    return done.stderr


QLORA = ["adapter={r: 4}", "quantization={load_in_4bit: true}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "kvrr"], "no such recipe; did you mean 'kvr'"),
        (["run", "kvr", "--stage", "stage3"], "no stage 'stage3'"),
        (["run", "kvr", "--sed", "1"], "No such option"),
        (["run", "kvr", "train.max_length=5"], "max_length 5 drops all 100 pairs"),
        (["run", "kvr", "stages.stage2.mix={replay: {stage: stage1, ratio: 3}}"], "300 pairs"),
        (["run", "kvr", "stages.stage2.data={task: pairs, path: nowhere.csv}"], "nowhere.csv: no such file"),
        (["run", "kvr", "train.report_to=nonesuch"], "SFTTrainer refuses"),
        (["run", "kvr", "adapter={r: 4, target_modules: [nonesuch]}"], "SFTTrainer refuses"),
        (["run", "kvr", "train.optim=nonesuch"], "SFTConfig refuses"),
        (["run", "kvr", "stages.stage2.train.lr_scheduler_type=cosin"], "SFTConfig refuses"),
        (["run", "kvr", *QLORA, "accelerate_config=accelerate_configs/fsdp_2gpu.yaml"], "fsdp_2gpu.yaml"),
        (["run", "kvr", QLORA[1]], "trains nothing without an `adapter`"),
        (["run", "kvr", "--accelerate", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["run", "kvr", "--accelerate", "accelerate_configs/fsdp_multinode.yaml"], "start accelerate on each of them"),
        (["data", "kvrr"], "no such task or recipe; did you mean 'kvr'"),
        (["recall", "recipes", "--task", "kvr", "size=3"], "not a model directory"),
        (["recall", "x", "--task", "kv"], "no task 'kv'; did you mean 'kvr'"),
    ],
)
def test_mistakes_on_the_command_line(here, runs, arguments: list[str], message: str) -> None:
    place = ["--runs", runs] if arguments[0] in ("run", "data", "sweep") else []
    assert message in mistake(here, *arguments, *place)
    assert not (runs / "stages").exists() or not list((runs / "stages").iterdir())


def test_a_runs_directory_that_is_a_file(here, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "runs directory" in mistake(here, "run", "kvr", "--runs", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_base_that_is_half_written(here, runs: Path, tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:5000])
    message = mistake(here, "run", "kvr", "--runs", runs, f"base={base}")
    assert f"model {str(base)!r} cannot be loaded" in message
    (base / "tokenizer.json").unlink()
    assert "tokenizer" in mistake(here, "run", "kvr", "--runs", runs, f"base={base}")
    assert not list((runs / "stages").iterdir())


def test_a_failed_run_exits_with_1_and_publishes_nothing(here, runs: Path) -> None:
    done = here("run", "kvr", "--runs", runs, *SMALL, "stages.stage1.train.learning_rate=1e30", check=False)
    assert (done.returncode, "failed: the loss became nan" in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr
    assert not list((runs / "stages").iterdir())


def test_a_damaged_parent_is_not_built_upon(here, runs: Path) -> None:
    here("run", "kvr", "--runs", runs, "--stage", "stage1", *SMALL)
    (folder,) = (runs / "stages").iterdir()
    damaged = bytearray((folder / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (folder / "model.safetensors").write_bytes(damaged)
    done = here("run", "kvr", "--runs", runs, *SMALL, check=False)
    assert (done.returncode, "not the file that was published" in done.stderr) == (2, True)
