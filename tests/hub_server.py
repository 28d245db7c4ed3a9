"""A stand-in for the hub and for servers of plain files, on this machine's loopback: folders served over HTTP."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".parquet")
"""Files whose digest the hub knows."""


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
        given = self.headers.get("Range")
        if given:
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
