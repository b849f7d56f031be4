"""A hub on loopback for tests: repositories under commits, served as huggingface.co serves them, and its faults."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
FILE = re.compile(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")

Files = dict[str, bytes]


@dataclass
class Fault:
    """What is answered to the next `times` requests whose path and range match `where`."""

    where: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None  # what belongs there, but the connection ends after as many bytes of it
    times: int = 10**6


class Hub(ThreadingHTTPServer):
    """Its repositories, the faults that are due, and every request that came, with its headers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[tuple[str, str], dict[str, Files]] = {}  # models or datasets, id -> commit -> files
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def commit(self, kind: str, name: str, files: Files) -> str:
        """Commit these files to a repository, as its newest state; returns the commit."""
        text = b"".join(path.encode() + b"\0" + content for path, content in sorted(files.items()))
        sha = hashlib.sha1(text).hexdigest()
        self.commits.setdefault((kind, name), {})[sha] = files
        return sha

    def next_fault(self, command: str, asked: str) -> Fault | None:
        """The fault that is due, counted down."""
        due = [fault for fault in self.faults if fault.times and (fault.cut is None or command == "GET")]
        fault = next((fault for fault in due if re.search(fault.where, asked)), None)
        if fault:
            fault.times -= 1
        return fault

    def handle_error(self, *_: object) -> None:
        """Nothing: the client closed the connection."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        fault = self.server.next_fault(self.command, f"{self.path} {self.headers.get('Range', '')}")
        path, _, query = self.path.partition("?")
        if fault and fault.cut is None:
            self.answer(fault.status, fault.body, fault.headers)
        elif match := FILE.fullmatch(unquote(path)):
            self.file(match[1] or "models", match[2], match[3], match[4], fault.cut if fault else None)
        elif match := API.fullmatch(unquote(path)):
            self.about(match, form.get("paths"), "recursive=true" in query.lower())
        else:
            self.answer(404)

    do_HEAD = do_POST = do_GET

    def find(self, kind: str, name: str, revision: str | None) -> tuple[str, Files] | None:
        """The commit and its files; None, and the answer is given, where there are none."""
        commits = self.server.commits.get((kind, name))
        if commits is None:
            return self.answer(404, headers={"X-Error-Code": "RepoNotFound"})
        commit = list(commits)[-1] if revision in (None, "main") else revision
        if commit not in commits:
            return self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        return commit, commits[commit]

    def about(self, match: re.Match[str], paths: list[str] | None, recursive: bool) -> None:
        """What the API says of a repository, of a folder of it, or of single files."""
        kind, name, what, revision, folder = match.groups()
        if not (found := self.find(kind, name, revision)):
            return
        commit, files = found
        listed = [{"type": "file", "oid": sha1(text), "size": len(text), "path": path} for path, text in files.items()]
        if what == "paths-info":
            entries: object = [entry for entry in listed if entry["path"] in (paths or [])]
        elif what == "tree":
            inside = [entry for entry in listed if str(entry["path"]).startswith(f"{folder}/" if folder else "")]
            start = len(f"{folder}/") if folder else 0
            entries = [entry for entry in inside if recursive or "/" not in str(entry["path"])[start:]]
        else:
            siblings = [{"rfilename": entry["path"], "size": entry["size"]} for entry in listed]
            entries = {"id": name, "sha": commit, "siblings": siblings, "cardData": {"license": "mit"}}
        self.answer(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

    def file(self, kind: str, name: str, revision: str, path: str, cut: int | None) -> None:
        """A file, or the range of it that is asked for."""
        if not (found := self.find(kind, name, revision)):
            return
        commit, files = found
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if path not in files:
            return self.answer(404, headers=headers | {"X-Error-Code": "EntryNotFound"})
        content, status = files[path], 200
        headers["ETag"] = f'"{sha1(content)}"'
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(match[1]), int(match[2] or len(content) - 1) + 1
            headers["Content-Range"] = f"bytes {start}-{min(end, len(content)) - 1}/{len(content)}"
            content, status = content[start:end], 206
        self.answer(status, content, headers, cut)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, cut: int | None = None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
            self.close_connection = cut is not None and cut < len(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub that runs while the block does."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield hub
        hub.shutdown()
