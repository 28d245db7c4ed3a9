"""A stand-in for the hub and for servers of plain files, on this machine's loopback: folders served over HTTP."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from edit_sweeps import catalogue, cli, downloads, home
from edit_sweeps.catalogue import Need, PlainFile
from edit_sweeps.fetch import fetch
from edit_sweeps.hub import Hub
from tests.test_conf import CONF

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".parquet")
"""Files whose digest the hub knows."""
PROJECT = CONF.parent
CARD = """---
license: cc-by-4.0
configs:
- config_name: rte
  data_files:
  - {split: train, path: rte/train-*}
  - {split: validation, path: rte/validation-*}
- config_name: sst2
  data_files: [{split: validation, path: sst2/validation-*}]
---
Small, and made up.
"""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        server, path = self.server, unquote(urlsplit(self.path).path).strip("/")
        server.asked.append(f"{self.command} {path}")
        parts = path.split("/")
        if parts[0] == "api":
            return self.api(parts[1], "/".join(parts[2:4]), parts[4:])
        kind = "datasets" if parts[0] == "datasets" else "models"
        rest = parts[1:] if kind == "datasets" else parts
        if len(rest) > 4 and rest[2] == "resolve":
            return self.file(server.root / kind / "/".join(rest[:2]) / "/".join(rest[4:]), body)
        return self.file(server.root / "plain" / path, body)

    def api(self, kind, name, rest):
        folder = self.server.root / kind / name
        if not folder.is_dir():
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        if rest[:1] == ["tree"]:
            tree = [{"type": "file", "path": n, **facts} for n, facts in self.facts(folder, files)]
            return self.send(200, json.dumps(tree).encode())
        card = folder / "README.md"
        text = card.read_text().split("---")[1] if card.exists() else "{}"
        info = {"id": name, "sha": COMMIT, "cardData": yaml.safe_load(text), "tags": []}
        info["siblings"] = [{"rfilename": n, **facts} for n, facts in self.facts(folder, files)]
        return self.send(200, json.dumps(info).encode())

    @staticmethod
    def facts(folder, files):
        for file in files:
            content = file.read_bytes()
            facts = {"oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
            if file.suffix in LARGE:
                digest = hashlib.sha256(content).hexdigest()
                lfs = {"oid": digest, "sha256": digest, "size": len(content), "pointerSize": 1}
                facts["lfs"] = lfs
            yield file.relative_to(folder).as_posix(), facts

    def file(self, path, body):
        if not path.is_file():
            return self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        content, headers, status = path.read_bytes(), {"X-Repo-Commit": COMMIT}, 200
        headers["ETag"] = f'"{hashlib.sha256(content).hexdigest()}"'
        given, same = self.headers.get("Range"), self.headers.get("If-Range") or headers["ETag"]
        if given and same == headers["ETag"]:
            start = int(given.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                return self.send(416, b"")
            content, status = content[start:], 206
        return self.send(status, content, headers, body=body)

    def send(self, status, content, headers=None, *, body=True):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        limit = self.server.break_after
        if body and self.command == "GET":
            if limit is not None and status in {200, 206} and len(content) > limit:
                self.server.break_after = None  # once
                self.wfile.write(content[:limit])
                self.close_connection = True
            else:
                self.wfile.write(content)


@contextmanager
def serving(root):
    """Serve `root/models/<id>`, `root/datasets/<id>` as a hub does, and `root/plain/` as files; yields the server.

    `server.address` is its address, `server.asked` every request so far; with `server.break_after = n` the next
    longer answer ends after n bytes.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.root, server.asked, server.break_after = root, [], None
    server.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub with two models and a data set of two subsets, and a server of plain files."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(downloads, "WAIT_S", 0.0)
    root = tmp_path / "served"
    tiny = root / "models" / "own" / "tiny"
    for name in ("config.json", "tokenizer.json", "merges.txt", "pytorch_model.bin", "onnx/a.json"):
        put(tiny / name, f"{{}}{name}")
    put(tiny / "README.md", "---\nlicense: mit\n---\nA model.\n")
    put(tiny / "model.safetensors", b"weights" * 1000)
    put(root / "models" / "own" / "pickled" / "pytorch_model.bin", b"pickle")
    glue = root / "datasets" / "own" / "glue"
    put(glue / "README.md", CARD)
    for name in ("rte/train", "rte/validation", "sst2/validation"):
        (glue / name).parent.mkdir(exist_ok=True)
        pd.DataFrame({"text": [name]}).to_parquet(glue / f"{name}-00000-of-00001.parquet")
    put(root / "plain" / "facts.json", json.dumps([{"fact": n} for n in range(5000)]))
    with serving(root) as running:
        yield running


@pytest.fixture
def here(tmp_path):
    return tmp_path / "data"


def bring(root, server, *needs, **options):
    return list(fetch(root, needs, hub=Hub(server.address), **options))


def names(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def plain(server, monkeypatch):
    """Makes a need of a plain file of the server, of which the catalogue knows the address."""

    def make(name="facts.json", url="facts.json", member=None):
        file = PlainFile(
            name=name, url=f"{server.address}/{url}", licence="MIT", commit="c0ffee", member=member
        )
        monkeypatch.setattr(catalogue, "TASK_FILES", {**catalogue.TASK_FILES, name: file})
        return Need(kind="files", name=name, group="task", option="own")

    return make


@pytest.fixture
def run(server, here, plain, monkeypatch):
    """`edit-sweeps data ...` on the stand-ins."""
    monkeypatch.setattr("edit_sweeps.fetch.Hub", lambda: Hub(server.address))
    monkeypatch.setenv(home.HOME_VARIABLE, str(PROJECT))
    monkeypatch.setenv("EDIT_SWEEPS_DATA", str(here))
    return lambda *arguments: CliRunner().invoke(cli.app, ["data", *arguments])
