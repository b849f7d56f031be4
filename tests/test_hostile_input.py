"""Input that would hang, fill the memory, end in a traceback, be taken for something else, or carry a password away."""

import os
import time
from pathlib import Path

import pytest
from rich.table import Table

from remix_toolkit.cli import output
from remix_toolkit.errors import BadInput
from remix_toolkit.graph.sweep import load_sweep
from remix_toolkit.graph.sweep_state import Command, JobState, SweepState
from remix_toolkit.launch.status import Screen
from remix_toolkit.recipe import yaml_file
from remix_toolkit.recipe.load import load_recipe
from remix_toolkit.recipe.yaml_file import load_mapping, load_value
from remix_toolkit.report import screen

STAGES = "stages: {s: {data: {task: kvr, size: 40}}}\n"
LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.fixture
def refused(tmp_path: Path, here):
    """The message with which `remix plan` refuses a recipe, within seconds, without a traceback."""

    def refuse(text: str, *arguments: str) -> str:
        (tmp_path / "any.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        started = time.process_time()
        done = here("plan", tmp_path / "any.yaml", *arguments, "--runs", tmp_path / "runs", check=False)
        assert done.returncode == 2, done.stdout
        assert time.process_time() - started < 10
        assert len(done.stderr) < 2000
        return done.stderr

    return refuse


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "holds more than 100,000 keys and values, aliases counted each time"),
        (f"base: {'x' * 2_000_000}\n", "more than 1,000,000 characters"),
        (f"seed: {'1' * 100_000}x\n{STAGES}", "any.yaml:1: seed: Input should be a valid integer"),
        (f"seed: {'1' * 5000}\n{STAGES}", "any.yaml: not valid YAML: Exceeds the limit"),
        (f"seed: {'[' * 5000}\n", "nested too deeply"),
        (STAGES.replace("40", "1000000000000"), "10000000: a stage's rows are all held in memory"),
        (STAGES.replace("size: 40", "start: 100000000000"), "10000000: a stage's rows are all held in memory"),
        (STAGES.replace("40}", "40}, mix: {random_words: {ratio: 1e300}}"), "1000: that many mixing pairs"),
        (STAGES.replace("40}", "4000000}, mix: {random_words: {ratio: 900}}"), "ratio: times 4,000,000 facts is over"),
        (STAGES.replace("40}", "40}, mix: {random_words: {ratio: 1, words: 1000000}}"), "100000: two sequences of wo"),
        (f"few_shot: {{exemplars: 1000000000}}\n{STAGES}", "100: all of them have to fit into one prompt"),
        (f"global_batch_size: 1{'0' * 400}\n{STAGES}", "1000000000: nothing here is counted in billions"),
        (f"stages: {{{', '.join(f's{i}: {{data: {{task: kvr}}}}' for i in range(600))}}}", "most 500 items"),
        (f"name: {'x' * 300}\n{STAGES}", "80 characters: it is part of a folder's name"),
        (f"recipe: kvr\narms: {{{'x' * 300}: {{}}}}\n", "200 characters: it stands in tables"),
        ('recipe: kvr\narms: {"a\\nb": {}}\n', "arms.a\\nb: String should match pattern"),
        (f"recipe: kvr\ngrid: {{{', '.join(f'k{i}: [1, 2, 3, 4]' for i in range(9))}}}\n", "262,144 runs; more than"),
        ("base: /\n" + STAGES, "/: holds more than 20,000 files"),
        (STAGES.replace("task: kvr", "task: pairs, path: /"), "/: holds more than 20,000 files"),
    ],
    ids=lambda value: value[-30:],
)
def test_what_would_hang_or_fill_the_memory(refused, text: str, message: str) -> None:
    assert message in refused(text)


def test_too_many_values_are_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_file, "MOST_VALUES", 1000)
    started = time.process_time()
    with pytest.raises(BadInput, match="here:1: not valid YAML: it holds more than"):
        load_value(f"[{'1,' * 200_000}]", "here")
    assert time.process_time() - started < 1


def test_what_has_no_end_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(BadInput, match="is a device or a pipe"):
            load_mapping(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: !!bool x", "any.yaml:1: seed: not valid YAML: 'x' is no bool"),
        ("seed: !!int ''", "any.yaml:1: seed: not valid YAML: '' is no int"),
        ("seed: !!int 1:30", "'1:30' is no int"),
        ("seed: !!null x", "'x' is no null"),
        ("seed: !!timestamp 2020-01-01", "timestamp is none of JSON's types"),
        ("evaluate: !!set {a, b}", "set is none of JSON's types"),
        ("evaluate: !!binary aGk=", "binary is none of JSON's types"),
        ("? !!merge <<\n: {a: 1}", "a key is one word"),
        ("seed: 010", "valid integer (it is '010')"),
        ("seed: 1:30", "valid integer (it is '1:30')"),
        ("seed: 0b11", "valid integer (it is '0b11')"),
        ("seed: 12345678901234567890123", "4294967295: NumPy takes no larger seed"),
        ("seed: -1", "greater than or equal to 0"),
        ("parameters: .nan", "any.yaml:1: parameters: .nan is no finite number"),
        ("parameters: 1e400", "1e400 is no finite number"),
        ("parameters: -5", "greater than 0"),
        ("device_gb: 1e300", "1000000000000000: no model is as large"),
        ("train: {num_train_epochs: .inf}", "no finite number"),
        (
            "train: {adam_beta1: 7.5}",
            "any.yaml:1: train.adam_beta1: is 7.5; a number from 0 to just below 1 is expected",
        ),
        ("train: {adam_beta2: 1}", "a number from 0 to just below 1"),
        ("train: {adam_epsilon: -1.0}", "a number of at least 0"),
        ("train: {warmup_steps: -1.0}", "a number of at least 0"),
        ("train: {lr_scheduler_kwargs: xyz}", "is 'xyz'; a mapping is expected"),
        ("train: {optim_args: xyz}", "key=value, with more"),
        ("train: {log_level: loud}", "one of passive, debug"),
        ("train: {num_train_epochs: 1e300}", "at most a million"),
        ("train: {max_steps: 100000000000000000000}", "or -1 for whole epochs"),
        ("train: {dataloader_num_workers: 1000000}", "a number from 0 to 1,000"),
        ("train: {dataloader_multiprocessing_context: thread}", "fork, spawn or forkserver is expected"),
        ("train: {torch_compile_mode: fast}", "is 'fast'; one of default, lite, reduce-overhead"),
        (
            "train: {use_liger_kernel: true}",
            "is True; false, where the package liger-kernel is not installed, is",
        ),
        ("train: {neftune_noise_alpha: 1e300}", "a number from 0 to 1,000"),
        ("train: {dataloader_persistent_workers: true}", "set dataloader_num_workers, too"),
        ("train: {parallelism_config: x}", "processes are the accelerate config's"),
        ("adapter: {lora_alpha: x}", "any.yaml:1: adapter.lora_alpha: is 'x'; a number greater than 0 is expected"),
        ("adapter: {r: 0.5}", "a whole number from 1"),
        ("adapter: {lora_dropout: 1}", "a number from 0 to just below 1"),
        ("adapter: {target_modules: {q: 1}}", "a name, or a list of names"),
        ("adapter: {bias: yes}", "none, all or lora_only"),
        ('base: "a\\0b"', "holds a NUL or half a surrogate pair"),
        ('paths: {lama: "\\ud800"}', "holds a NUL or half a surrogate pair"),
    ],
)
def test_what_ended_in_a_traceback_or_was_taken_for_something_else(refused, text: str, message: str) -> None:
    assert message in refused(f"{text}\n{STAGES}")


def test_seeds_of_the_command_line(refused, tmp_path: Path) -> None:
    for text in (STAGES, "recipe: kvr\narms: {a: {}}\n"):
        assert "--seed: seed" in refused(text, "--seed", str(2**32))
    assert load_recipe("kvr", seed=2**32 - 1).seed == 2**32 - 1
    assert {cell.recipe.seed for cell in load_sweep("demo", seeds=[7, 8])[1]} == {7, 8}


@pytest.mark.parametrize("override", ["train.lr_scheduler_kwargs={x: 1}", "train.accelerator_config=no-such-file"])
def test_what_only_transformers_can_check_is_checked_before_a_model_is_loaded(tmp_path: Path, override: str) -> None:
    from remix_toolkit.stage.train import sft_config

    recipe = load_recipe("kvr", overrides=[override])
    with pytest.raises(BadInput, match=r"kvr: train: SFTConfig refuses: .*(argument 'x'|no-such-file)"):
        sft_config(recipe, recipe.stages["stage1"], tmp_path, 1, use_cpu=True)


@pytest.mark.parametrize(("text", "value"), [("0123456", "0123456"), ("0o17", 15), ("-0", 0), ("010.5", "010.5")])
def test_a_word_of_digits_is_a_word(text: str, value: object) -> None:
    assert load_value(text, "here") == value
    assert type(load_value(text, "here")) is type(value)


def test_an_arm_of_any_name_is_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arm = "none[/x] [red]"
    for console in (screen.console(), output._console()):
        console.print(Table(arm))
        assert arm in capsys.readouterr().out
    job = JobState(kind="train", name="s", runs=[f"{arm}, seed 0"], needs=set(), loads=set(), status="running")
    command = Command(sweep="demo", profile=None, seeds=None, overrides=[])
    state = SweepState(id="x", command=command, keep="all", launcher="local", jobs={"k": job})
    running = Screen(state, tmp_path, {"k": 1.0})
    running.live.console.print(running._running())
    assert "none[/x] [red], seed 0" in capsys.readouterr().out


# --- credentials -------------------------------------------------------------------------------------------------

PLANTED = [
    "https://me:s3cr3tpass@example.org/x",
    "s3://AKIAIOSFODNN7EXAMPLE:s3cr3tpass@bucket/x",
    "https://s3cr3tpass@example.org/x",
    "me:s3cr3tpass@example.org/x",
    "https://example.org/x?token=s3cr3tpass",
    "hf_s3cr3tpasss3cr3tpass",
    "sk-proj-s3cr3tpasss3cr3tpass",
    "ghp_s3cr3tpasss3cr3tpass",
    "eyJs3cr3tpass.eyJs3cr3tpass.x",
]
SETTINGS = [
    'base="{}"',
    'revision="{}"',
    'paths.popqa="{}"',
    'train.hub_model_id="{}"',
    'train.run_name="{}"',
    'evaluate.text="{}"',
    'evaluate.lm_eval=["{}"]',
    'stages.s.data.hub="{}"',
    'stages.s.mix.passages={{ratio: 1, path: "{}"}}',
    'stages.s.recall=[{{task: lama, path: "{}"}}]',
    'adapter.base_model_name_or_path="{}"',
    'train.model_init_kwargs={{proxies: {{https: "{}"}}}}',
]


@pytest.mark.parametrize("secret", PLANTED)
def test_a_credential_in_a_setting_goes_nowhere(here, tmp_path: Path, secret: str) -> None:
    """Whatever is written (recipe.yaml, records, logs, cards, reports) is written of settings that were accepted."""
    (tmp_path / "mine.yaml").write_text("stages: {s: {data: {task: popqa}}}\n")
    (tmp_path / "sweep.yaml").write_text(f'recipe: mine.yaml\narms: {{"{secret}": {{}}, b: {{}}}}\n')
    (tmp_path / "arms.yaml").write_text(f'recipe: mine.yaml\narms: {{a: {{paths.popqa: "{secret}"}}, b: {{}}}}\n')
    inputs = set(tmp_path.iterdir())
    commands = [("run", "mine.yaml", setting.format(secret)) for setting in SETTINGS]
    commands += [("run", "mine.yaml", "--accelerate", secret), ("sweep", "sweep.yaml"), ("sweep", "arms.yaml")]
    commands += [("data", "popqa", f"path={secret}"), ("familiar", "popqa", "--base", secret)]
    for command in commands:
        done = here(*command, check=False, folder=tmp_path)
        said = done.stdout + done.stderr
        assert (done.returncode, "holds a password or token" in said, "hf auth login" in said) == (2, True, True), said
        assert "s3cr3t" not in said, said
    written = [file for file in set(tmp_path.rglob("*")) - inputs if file.is_file()]
    assert not [file for file in written if b"s3cr3t" in file.read_bytes()]


@pytest.mark.parametrize(
    "override",
    ["train.model_init_kwargs={token: abc}", "train.hub_token=abc", "quantization={api_key: abc}"],
)
def test_a_key_that_is_a_credential(override: str) -> None:
    with pytest.raises(BadInput, match=r"override '[\w.]+=\*\*\*': [\w.]+: holds a password or token") as caught:
        load_recipe("kvr", overrides=[override])
    assert "abc" not in str(caught.value)


def test_what_only_looks_like_a_credential_is_accepted() -> None:
    values = ["hf://datasets/a/b@main/x", "org/model-hf_7b", "C:/data@home/x.csv", "/data/sk-learn/x", "a@b.org/x"]
    for value in values:
        assert load_recipe("kvr", overrides=[f"paths.popqa={value}"]).paths["popqa"] == value
