"""The real command, in processes of its own: two stages, resume, sweeps, mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, real

from remix_toolkit import store
from remix_toolkit.cli.main import main
from remix_toolkit.data.files import sha256
from remix_toolkit.records import StageRecord
from remix_toolkit.stage import familiar


def entries(remix, runs: Path) -> list[dict]:
    return json.loads(remix("show", "--runs", runs, "--json").stdout)


def weights(runs: Path, stage: str) -> str:
    (folder,) = (runs / "stages").glob(f"*-{stage}-*")
    return sha256(folder / "model.safetensors")


@pytest.mark.slow
def test_two_stages_and_what_they_leave(remix, runs: Path) -> None:
    first = remix("run", "kvr", "--runs", runs, "--stage", "stage1", *SMALL)
    assert [entry["stage"] for entry in entries(remix, runs)] == ["stage1"]

    second = remix("run", "kvr", "--runs", runs, *SMALL)
    assert "stage1: already published, reused" in second.stdout
    assert "stage2: 4 steps" in second.stdout
    found = entries(remix, runs)
    assert [(e["stage"], e["task"]) for e in found] == [
        ("stage1", "kvr"),
        ("stage2", "kvr"),
        ("stage2", "invented_facts"),
    ]
    for entry in found:
        assert {"recipe", "arm", "profile", "seed", "stage", "task", "recall", "facts", "key", "path"} <= entry.keys()
        assert (entry["recipe"], entry["arm"], entry["profile"], entry["seed"]) == ("kvr", "kvr", "tiny", 0)
        assert (entry["facts"], 0 <= entry["recall"] <= 100) == (16, True)
        assert entry["path"].endswith(entry["key"])

    folder = Path(found[-1]["path"])
    assert {"recipe.yaml", "stage.json", "loss.csv", "recall.json", "recall.jsonl", "manifest.json"} <= {
        file.name for file in folder.iterdir()
    }
    store.verify(folder)
    assert len((folder / "loss.csv").read_text(encoding="utf-8").splitlines()) == 1 + 4
    rows = [json.loads(line) for line in (folder / "recall.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 32
    assert {"prompt", "correct", "prediction", "gold"} <= rows[0].keys()
    result = StageRecord.read(folder / "stage.json").model_dump()
    assert (result["steps"], result["epochs"], result["stop_fired"]) == (4, 2.0, False)
    assert result["counts"]["facts"] == 16
    assert result["started_from"] == found[0]["path"]
    assert {"torch", "trl", "transformers"} <= result["libraries"].keys()
    assert not list((runs / "work").glob("*/*"))
    assert "step 4/4" in first.stdout  # progress, in plain lines where there is no terminal

    changed = remix("run", "kvr", "--runs", runs, "--stage", "stage1", *SMALL, "stages.stage1.train.learning_rate=1e-4")
    assert "reused" not in changed.stdout
    assert len({entry["key"] for entry in entries(remix, runs) if entry["stage"] == "stage1"}) == 2


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


RESUME = [*SMALL, "stages.stage1.train.num_train_epochs=12", "train.lr_scheduler_type=cosine"]
RESUME += ["stages.stage1.stop={loss_below: 100, times: 20}"]  # fires at step 20 of 24, if its count survives


@pytest.mark.slow
def test_killed_and_resumed_is_bit_for_bit_the_same(remix, runs: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(runs, whole)
    remix("run", "kvr", "--runs", whole, "--stage", "stage1", *RESUME)

    line = [sys.executable, "-m", "remix_toolkit", "run", "kvr", "--runs", str(runs), "--stage", "stage1", *RESUME]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(runs.glob("work/*/checkpoints/checkpoint-[4-9]/complete.json")):
        assert process.poll() is None, "it ended before a checkpoint was there"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((runs / "stages").iterdir())
    checkpoints = next(runs.glob("work/*/checkpoints"))
    newest = max(checkpoints.glob("checkpoint-*"), key=lambda c: int(c.name.split("-")[1]))
    shutil.copytree(newest, checkpoints / "checkpoint-99")  # as a crash in the middle of writing would leave it
    (checkpoints / "checkpoint-99" / "optimizer.pt").unlink()

    resumed = remix("run", "kvr", "--runs", runs, "--stage", "stage1", *RESUME)
    assert "resumes from" in resumed.stdout
    assert "checkpoint-99" not in resumed.stdout
    assert weights(runs, "stage1") == weights(whole, "stage1")
    results = [StageRecord.read(next(place.glob("stages/*/stage.json"))).model_dump() for place in (runs, whole)]
    assert results[0]["resumed_from"].startswith("checkpoint-")
    assert results[1]["resumed_from"] is None
    assert [(r["steps"], r["stop_fired"]) for r in results] == [(20, True), (20, True)]
    curves = [next(place.glob("stages/*/loss.csv")).read_text(encoding="utf-8") for place in (runs, whole)]
    assert curves[0] == curves[1]


@pytest.mark.slow
def test_accelerate_launch_trains_the_same_stage(remix, runs: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    shutil.copytree(runs, here)
    remix("run", "kvr", "--runs", here, "--stage", "stage1", *SMALL)
    line = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu.yaml"]
    line += ["-m", "remix_toolkit.stage", "recipes/kvr.yaml", "--stage", "stage1", "--runs", str(runs), *SMALL]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert weights(runs, "stage1") == weights(here, "stage1")

    line[line.index("stage1")] = "stage2"
    line[line.index("--runs") + 1] = str(tmp_path / "empty")
    lonely = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert "starts from stage1, which is not published" in lonely.stderr


@pytest.mark.slow
def test_a_lora_stage_is_published_merged(here, runs: Path) -> None:
    here("run", "kvr", "--runs", runs, *SMALL, "adapter={r: 4}")
    found = entries(here, runs)
    assert len(found) == 3
    for entry in found:
        names = {file.name for file in Path(entry["path"]).iterdir()}
        assert "model.safetensors" in names
        assert "adapter_config.json" not in names
    assert weights(runs, "stage1") != weights(runs, "stage2")


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
def test_a_sweep_shares_stages_and_measures_all_arms(remix, runs: Path, tmp_path: Path) -> None:
    small = [*SMALL, "train.save_strategy=no"]
    done = remix("sweep", "demo", "--runs", runs, "--plot", tmp_path / "demo.png", *small)
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    found = entries(remix, runs)
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
    again = remix("sweep", "demo", "--runs", runs, *small)
    assert "/18]" not in again.stdout  # nothing is left to do


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


def mistake(monkeypatch, capsys, *arguments: object) -> str:
    """Run the command in this process, for speed; the message of a run that ends with exit code 2."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["remix", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    message = capsys.readouterr().err
    assert ended.value.code == 2, message
    assert "Traceback" not in message
    return message


QLORA = ["adapter={r: 4}", "quantization={load_in_4bit: true}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "kvrr"], "no such recipe; did you mean 'kvr'"),
        (["run", "kvr", "--profile", "tinny"], "did you mean 'tiny'"),
        (["run", "kvr", "--stage", "stage3"], "no stage 'stage3'"),
        (["run", "kvr", "--sed", "1"], "No such option"),
        (["run", "kvr", "stages.stage1.data.path=x"], "unknown key"),
        (["run", "kvr", "stages.stage1.mix={random_words: {ratio: -1}}"], "greater than or equal to 0"),
        (["run", "kvr", "train.max_length=5"], "max_length 5 drops all 100 pairs"),
        (["run", "kvr", "stages.stage1.data.size=20"], "20 examples are fewer than one batch of 32"),
        (["run", "kvr", "stages.stage2.mix={replay: {stage: stage1, ratio: 3}}"], "300 pairs"),
        (["run", "kvr", "stages.stage2.data={task: pairs, path: nowhere.csv}"], "nowhere.csv: no such file"),
        (["run", "kvr", "stages.stage2.mix={passages: {ratio: 2, text: nowhere.txt}}"], "nowhere.txt: no such file"),
        (["run", "kvr", "train.report_to=nonesuch"], "SFTTrainer refuses"),
        (["run", "kvr", "adapter={r: 4, target_modules: [nonesuch]}"], "SFTTrainer refuses"),
        (["run", "kvr", "train.optim=nonesuch"], "SFTConfig refuses"),
        (["run", "kvr", "stages.stage2.train.lr_scheduler_type=cosin"], "SFTConfig refuses"),
        (["run", "kvr", *QLORA, "accelerate_config=accelerate_configs/fsdp_2gpu.yaml"], "fsdp_2gpu.yaml"),
        (["run", "kvr", QLORA[1]], "trains nothing without an `adapter`"),
        (["run", "kvr", "accelerate_config=nowhere.yaml"], "nowhere.yaml: no such file"),
        (["run", "kvr", "--accelerate", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["run", "kvr", "--accelerate", "accelerate_configs/fsdp_multinode.yaml"], "start accelerate on each of them"),
        (["run", "demo"], "run it with `remix sweep`"),
        (["data", "kvrr"], "no such task or recipe; did you mean 'kvr'"),
        (["data", "kvr", "sise=3"], "sise: unknown key; did you mean 'size'"),
        (["recall", "nowhere", "--task", "kvr", "size=3"], "base 'nowhere'"),
        (["recall", "recipes", "--task", "kvr", "size=3"], "not a model directory"),
        (["recall", "x", "--task", "kv"], "no task 'kv'; did you mean 'kvr'"),
    ],
)
def test_mistakes_on_the_command_line(monkeypatch, capsys, runs, arguments: list[str], message: str) -> None:
    place = ["--runs", runs] if arguments[0] in ("run", "data", "sweep") else []
    assert message in mistake(monkeypatch, capsys, *arguments, *place)
    assert not (runs / "stages").exists() or not list((runs / "stages").iterdir())


def test_a_runs_directory_that_is_a_file(monkeypatch, capsys, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "runs directory" in mistake(monkeypatch, capsys, "run", "kvr", "--runs", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_base_that_is_half_written(monkeypatch, capsys, runs: Path, tiny_base: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    (base / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:5000])
    message = mistake(monkeypatch, capsys, "run", "kvr", "--runs", runs, f"base={base}")
    assert f"model {str(base)!r} cannot be loaded" in message
    (base / "tokenizer.json").unlink()
    assert "tokenizer" in mistake(monkeypatch, capsys, "run", "kvr", "--runs", runs, f"base={base}")
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
