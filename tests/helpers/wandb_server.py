"""A server on this machine that takes what ``wandb sync`` sends and keeps it: the calls of wandb 0.31, and no more."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

PROJECT = {"id": "project", "name": "nuwa", "entity": {"id": "entity", "name": "somebody"}}


@dataclass
class Received:
    """What was sent: runs by id, artifacts by name, bytes by where they were put, and calls that nobody answers."""

    url: str
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    finished: dict[str, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=Lock)

    def answer(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        answers = {
            "UpsertBucket": self._run,
            "Viewer": lambda _: {
                "viewer": {"id": "entity", "entity": "somebody", "flags": "{}", "teams": {"edges": []}}
            },
            "RunResumeStatus": lambda _: {"model": None},
            "ArtifactType": lambda _: {"project": {"artifact": None}},
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "CreateRunFiles": self._run_files,
            "CreateArtifact": self._artifact,
            "CreateArtifactManifest": self._manifest,
            "UpdateArtifactManifest": self._manifest,
            "CreateArtifactFiles": self._artifact_files,
            "CommitArtifact": self._commit,
        }
        if operation not in answers:
            self.unknown.append(operation)
            return {}
        return answers[operation](given)

    def _run(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(given["name"], {})
        run |= {key: value for key, value in given.items() if value is not None}
        run["config"] = json.loads(given["config"])
        bucket = {"id": given["name"], "name": given["name"], "displayName": run["displayName"], "project": PROJECT}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _run_files(self, given: dict[str, Any]) -> dict[str, Any]:
        places = [{"name": name, "uploadUrl": f"{self.url}/put/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": places}}

    def _artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        given, name = given["input"], given["input"]["artifactCollectionName"]
        self.artifacts[name] = {"type": given["artifactTypeName"], "run": given["runName"], "state": "PENDING"}
        made = {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": made}}

    def _manifest(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("artifactID") or given["artifactManifestID"]
        place = {"id": "file", "uploadUrl": f"{self.url}/put/{name}/manifest", "uploadHeaders": []}
        answer = {"artifactManifest": {"id": name, "file": place}}
        return {"createArtifactManifest": answer, "updateArtifactManifest": answer}

    def _artifact_files(self, given: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "node": {
                    "id": spec["name"], "name": spec["name"], "displayName": spec["name"],
                    "uploadUrl": f"{self.url}/put/{spec['artifactID']}/{spec['name']}", "uploadHeaders": [],
                    "artifact": {"id": spec["artifactID"]},
                }
            }
            for spec in given["input"]["artifactFiles"]
        ]  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _commit(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[given["artifactID"]]["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": ""}}}

    def stream(self, run: str, sent: dict[str, Any]) -> None:
        """Rows of a run's history, and how it ended."""
        rows = sent.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.history.setdefault(run, []).extend(map(json.loads, rows))
        if sent.get("complete"):
            self.finished[run] = sent["exitcode"]


@contextmanager
def wandb_server() -> Iterator[Received]:
    """A running server, and what it has received so far."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.received = Received(f"http://127.0.0.1:{server.server_port}")
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.received
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """A question, or a part of a run's stream; wandb's measurements of itself are dropped."""
        body, answer = self._body(), {}
        with self.server.received.lock:
            if self.path == "/graphql":
                sent = json.loads(body)
                operation = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])[1]
                answer = {"data": self.server.received.answer(operation, sent.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                self.server.received.stream(self.path.split("/")[-2], json.loads(body))
        self._reply(json.dumps(answer).encode())

    def do_PUT(self) -> None:
        """A file."""
        self.server.received.files[self.path.removeprefix("/put/")] = self._body()
        self._reply(b"")

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        return gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body

    def _reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Nothing on the screen."""
