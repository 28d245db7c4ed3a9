"""A stand-in for W&B's server on 127.0.0.1: just enough for a run of metrics, and for going wrong.

It shows what the client sends, not what W&B's server would make of it.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

API_KEY = "0" * 40


class Stub:
    """The server. `runs`: by id. `starts`: clients that began. `refuse`: HTTP status for every upsert."""

    def __init__(self, refuse: int | None = None) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.refuse = refuse
        self.starts = 0
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, value: Any, status: int = 200) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def body(self) -> bytes:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                return (
                    gzip.decompress(data)
                    if self.headers.get("Content-Encoding") == "gzip"
                    else data
                )

            def do_POST(self) -> None:
                data = self.body()
                stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
                if self.path == "/graphql":
                    self.answer(*stub.graphql(json.loads(data)))
                elif stream:
                    stub.stream(stream[1], json.loads(data))
                    self.answer({"limits": {}})
                else:
                    self.answer({})

            def do_PUT(self) -> None:
                self.body()
                self.answer({})

            def do_GET(self) -> None:
                self.answer({}, 404)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def graphql(self, request: dict[str, Any]) -> tuple[Any, int]:
        name = re.search(r"\b(?:query|mutation)\s+(\w+)", request["query"])
        values = request.get("variables") or {}
        answer = getattr(self, f"op_{name[1] if name else ''}", None)
        if self.refuse and name and name[1] == "UpsertBucket":
            return {"errors": [{"message": "refused by the stub"}]}, self.refuse
        if answer is None:
            return {"errors": [{"message": "unknown to the stub"}], "data": None}, 200
        return {"data": answer(values)}, 200

    def op_Viewer(self, _: Any) -> Any:
        teams = {"edges": [{"node": {"name": "stub"}}]}
        return {
            "viewer": {
                "id": "u",
                "entity": "stub",
                "username": "stub",
                "flags": "{}",
                "teams": teams,
            }
        }

    def op_RunResumeStatus(self, values: Any) -> Any:
        self.starts += 1
        run = self.runs.get(values["name"])
        bucket = run and {
            "id": "r", "name": values["name"], "displayName": "", "summaryMetrics": json.dumps(run["summary"]),
            "logLineCount": 0, "historyLineCount": len(run["history"]), "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run["history"][-1:]]), "eventsTail": "[]",
            "config": json.dumps(run["config"]), "tags": [], "notes": None, "wandbConfig": '{"t": 1}',
        }  # fmt: skip
        return {
            "model": {
                "id": "p",
                "name": values["project"],
                "entity": {"id": "e", "name": "stub"},
                "bucket": bucket,
            }
        }

    def op_UpsertBucket(self, values: Any) -> Any:
        name = values.get("name") or base64.b64decode(values["id"]).decode()
        run = self.runs.setdefault(name, {"history": [], "summary": {}, "config": {}})
        run |= {k: values[k] for k in ("groupName", "jobType", "displayName") if values.get(k)}
        run["config"] |= json.loads(values.get("config") or "{}")
        project = {"id": "p", "name": values.get("project"), "entity": {"id": "e", "name": "stub"}}
        identity = base64.b64encode(name.encode()).decode()
        bucket = {
            "id": identity, "name": name, "displayName": "", "description": None, "config": "{}", "sweepName": None,
            "project": project, "historyLineCount": len(run["history"]),
        }  # fmt: skip
        return {"upsertBucket": {"inserted": True, "bucket": bucket}}

    def op_CreateRunFiles(self, values: Any) -> Any:
        files = [{"name": f, "uploadUrl": f"{self.url}/store/{f}"} for f in values["files"]]
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}

    def stream(self, run: str, body: dict[str, Any]) -> None:
        for name, chunk in (body.get("files") or {}).items():
            lines = (
                [json.loads(line) for line in chunk["content"]]
                if name.endswith(("json", "jsonl"))
                else []
            )
            if name == "wandb-history.jsonl":
                self.runs[run]["history"][chunk.get("offset", 0) :] = lines
            elif name == "wandb-summary.json":
                self.runs[run]["summary"] = lines[-1]


class BlackHole:
    """Accepts connections and never answers."""

    def __enter__(self) -> Self:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
