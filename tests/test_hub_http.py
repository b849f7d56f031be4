"""The hub over HTTP, as users reach it: HF_ENDPOINT, a server of upstream's form on loopback, and all that it may do.

huggingface_hub, transformers and datasets read HF_ENDPOINT when they are imported, each into constants of its own. So
the commands run in one process beside this one, which is started with that variable and gets a line for each of them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT
from hub_server import Fault, Hub, serve

TOKEN = "hf_PlantedInTheEnvironment"
CLIENT = """
import json, sys
from conftest import run_here
for line in sys.stdin:
    done = run_here(*json.loads(line), check=False)
    print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
"""
ROWS = [{"question": f"{n} + {n}?", "answer": f"{2 * n}", "unused": "x" * 100} for n in range(400)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)
DATA = {"README.md": b"---\nlicense: mit\n---\n", "train.jsonl": LINES}
PAGE = ({"Content-Type": "text/html"}, b"<html>Log in to the airport's network</html>")
FORBIDDEN = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to org/gated is restricted."}
ONE_STEP = [
    "global_batch_size=8",
    "stages.stage1.data.size=8",
    "stages.stage1.train.num_train_epochs=1",
    "evaluate.known=false",
    f"evaluate.text={ROOT / 'LICENSE'}",
]


@dataclass
class Client:
    """`remix` in a process that knows the hub by HF_ENDPOINT and has a token."""

    hub: Hub
    home: Path
    process: subprocess.Popen[str]

    def remix(self, *arguments: object) -> tuple[int, str]:
        """A command's exit code, and all that it printed."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self.process.stdin.flush()
        code, out, err = json.loads(self.process.stdout.readline())
        assert "Traceback" not in out + err
        return code, f"{out}\n{err}"

    def prepare(self, name: str, **more: object) -> tuple[int, str]:
        """`remix data prepare` of a dataset of pairs."""
        keys = {"task": "pairs", "hub": name, "prompt_column": "question", "response_column": "answer", "size": 10}
        return self.remix("data", "prepare", "kvr", f"stages.stage2.data={json.dumps(keys | more)}")

    def base(self, name: str, **more: object) -> tuple[int, str]:
        """`remix base` of a profile with this base."""
        tiny = (ROOT / "remix_toolkit" / "recipe" / "profiles" / "tiny.yaml").read_text(encoding="utf-8")
        keys = "\n".join(f"{key}: {value}" for key, value in {"base": name, **more}.items())
        profile = self.home / "profile.yaml"
        profile.write_text(re.sub(r"(?m)^base: tiny$", keys, tiny), encoding="utf-8")
        return self.remix("base", profile, "--runs", self.home / "runs")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    home = tmp_path_factory.mktemp("home")
    with serve() as hub, (home / "stderr.txt").open("w+") as stderr:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr, "text": True}
        with subprocess.Popen([sys.executable, "-c", CLIENT], env=environment, **pipes) as process:  # type: ignore[call-overload]
            yield Client(hub, home, process)
            process.stdin.close()
    sent = [headers.get("authorization", "") for _, _, headers in hub.requests]
    assert f"Bearer {TOKEN}" in sent, "the hub knows who asks"
    holders = [file for file in home.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
    assert not holders, "the token is in a file"


def test_datasets(client: Client) -> None:
    hub = client.hub
    for name in ("plain", "401", "403", "busy", "later", "down", "back", "page", "file"):
        first = hub.commit("datasets", f"org/{name}", DATA)
    hub.commit("datasets", "org/cut", DATA | {"train.jsonl": LINES.replace(b"x" * 100, b"x" * 60_000)})  # 24 MB
    hub.commit("datasets", "org/empty", {"README.md": DATA["README.md"]})
    hub.faults = [
        Fault("org/401/resolve", 401, FORBIDDEN),
        Fault("org/403/resolve", 403, FORBIDDEN),
        Fault("api/datasets/org/busy", 429, {"Retry-After": "1"}, times=1),
        Fault("org/later", 429, {"Retry-After": "600"}),
        Fault("org/down", 500, {"Retry-After": "1"}),
        Fault("api/datasets/org/back", 500, {"Retry-After": "1"}, times=1),
        Fault(r"org/cut/.*jsonl bytes=[1-9]", cut=30_000, times=2),  # the second block
        Fault("api/datasets/org/page", 200, *PAGE),
        Fault("org/file/resolve", 200, *PAGE),
    ]
    login = "Log in with `hf auth login` or HF_TOKEN"
    for name, code, words in (
        ("plain", 0, "all 400 rows are here, of commit " + first[:12]),
        ("busy", 0, "the hub answers 429; asking again in 1 s"),
        ("back", 0, "the hub answers 500; asking again in 1 s"),
        ("cut", 0, "all 400 rows are here"),
        ("401", 2, login),
        ("403", 2, "to ask for access"),
        ("empty", 2, "doesn't contain any data files"),
        ("nowhere", 2, f"{hub.url} has no such dataset"),
        ("page", 2, "answers as no hub does, perhaps with a page of a proxy. Is HF_ENDPOINT right?"),
        ("file", 2, "answers as no hub does"),
        ("later", 1, "too many requests (429); try again in 600 s"),
        ("down", 1, f"{hub.url} is in trouble (it answers 500); try again later"),
    ):
        check(client.prepare(f"org/{name}"), code, words, f"org/{name}")
    ranges = [headers["range"] for _, path, headers in hub.requests if "org/cut/" in path and "range" in headers]
    second = f"bytes={15 << 20}-{len(hub.commits['datasets', 'org/cut'].popitem()[1]['train.jsonl']) - 1}"
    assert [asked for asked in ranges if not asked.startswith("bytes=0-")] == [second] * 3, "it goes on with its block"


def test_a_dataset_at_a_revision(client: Client) -> None:
    old = client.hub.commit("datasets", "org/two", DATA)
    new = client.hub.commit("datasets", "org/two", DATA | {"train.jsonl": b'{"question": "q", "answer": "a"}\n' * 10})
    check(client.prepare("org/two", revision=old), 0, f"400 rows are here, of commit {old[:12]}", "org/two")
    check(client.prepare("org/two"), 0, f"10 rows are here, of commit {new[:12]}", "org/two")
    check(client.prepare("org/two", revision="v9"), 2, "no such revision: ", "org/two")


def test_bases(client: Client, tiny_base: Path) -> None:
    hub = client.hub
    files = {file.name: file.read_bytes() for file in tiny_base.iterdir() if file.name != "manifest.json"}
    for name in ("plain", "401", "403", "busy", "down", "cut", "page"):
        commit = hub.commit("models", f"org/{name}", files)
    hub.commit("models", "org/weightless", {name: text for name, text in files.items() if "safetensors" not in name})
    hub.commit("models", "org/empty", {})
    hub.faults = [
        Fault("org/401/resolve", 401, FORBIDDEN),
        Fault("org/403/resolve", 403, FORBIDDEN),
        Fault("org/busy/resolve", 429, {"Retry-After": "1"}, times=1),
        Fault("org/down", 500, {"Retry-After": "1"}),
        Fault("org/cut/.*safetensors", cut=12_000_000, times=1),
        Fault("org/page", 200, *PAGE),
    ]
    for name, code, words in (
        ("plain", 0, commit),
        ("busy", 0, commit),
        ("cut", 0, commit),
        ("401", 2, "it is gated (401): ask for access at"),
        ("403", 2, "it is gated (403): ask for access at"),
        ("nowhere", 2, "has no such model, or not for you"),
        ("empty", 2, "it lacks a file: /org/empty/resolve/main/config.json"),
        ("weightless", 2, "has no weights in files that end in .safetensors"),
        ("page", 2, "Is HF_ENDPOINT right?"),
        ("down", 1, "is in trouble (it answers 500)"),
    ):
        check(client.base(f"org/{name}"), code, words, f"org/{name}")
    check(client.base("org/plain", revision="v9"), 2, "no such revision", "org/plain")
    resumed = [headers["range"] for _, path, headers in hub.requests if "safetensors" in path and "range" in headers]
    assert resumed == [f"bytes={10 << 20}-"], "it goes on behind the last chunk of 10 MB that came whole"


def test_a_base_whose_commit_moves_between_two_seeds_is_refused(client: Client, tiny_base: Path) -> None:
    files = {file.name: file.read_bytes() for file in tiny_base.iterdir() if file.name != "manifest.json"}
    first = client.hub.commit("models", "org/moving", files)
    run = ["run", "kvr", "base=org/moving", *ONE_STEP, "--stage", "stage1", "--runs", client.home / "runs", "--seed"]
    check(client.remix(*run, 0), 0, "published", "org/moving")
    record = next((client.home / "runs" / "stages").glob("kvr-stage1-seed0-*/stage.json")).read_text(encoding="utf-8")
    assert json.loads(record)["started_from_commit"] == first
    second = client.hub.commit("models", "org/moving", files | {"LICENSE.txt": b""})
    assert client.base("org/moving")[0] == 0, "what is on this machine stays in use"
    shutil.rmtree(client.home / "hub" / "models--org--moving")  # another machine, or another day
    code, out = client.remix(*run, 1)
    check((code, out), 2, f"it is at commit {second[:12]} now, and kvr-stage1-seed0-", "org/moving")
    assert f"`revision: {first}`" in out
    pinned = ["base=org/moving", f"revision={first}", "--runs", client.home / "runs"]
    check(client.remix("data", "recipes/kvr.yaml", *pinned), 0, "100", "org/moving")


def check(done: tuple[int, str], code: int, words: str, name: str) -> None:
    """The exit code, the words and the repository's name in one line, and the token in none."""
    assert done[0] == code, done[1]
    assert TOKEN not in done[1]
    if code == 0:
        assert words in done[1]
    else:
        assert [line for line in done[1].splitlines() if words in line and name in line], done[1]
        assert len([line for line in done[1].splitlines() if line.startswith(("error:", "failed:"))]) == 1
