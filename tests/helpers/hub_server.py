"""A data set hub on this machine: the part of the Hugging Face hub's HTTP that ``datasets`` uses, over a folder.

The folder holds ``<owner>/<name>/<commit>/<files>``; the newest commit, by name, is ``main``. Everything that was sent
is counted, so that a test can tell what was read.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Hub:
    """Address of a running hub, and the bytes of every file that it has sent."""

    url: str
    sent: dict[str, int] = field(default_factory=dict)

    @property
    def parquet(self) -> int:
        """Bytes of parquet that were sent."""
        return sum(count for path, count in self.sent.items() if path.endswith(".parquet"))


class Refusal(Exception):
    """A status and the hub's own word for what is wrong."""


class Handler(BaseHTTPRequestHandler):
    """``/datasets/<id>/resolve/<revision>/<path>`` and ``/api/datasets/<id>/...`` below ``root``."""

    root: Path
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        """``paths-info``: the wanted paths come as JSON or as a form."""
        content = self.rfile.read(int(self.headers["Content-Length"])).decode()
        is_json = "json" in self.headers.get("Content-Type", "")
        self.wanted = json.loads(content)["paths"] if is_json else parse_qs(content)["paths"]
        self._answer(body=True)

    def log_message(self, *args: object) -> None:
        """Nothing on the screen."""

    def _answer(self, body: bool) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        try:
            if parts[0] == "datasets":
                self._file(parts, body)
            else:
                self._reply(json.dumps(self._facts(parts[2:])).encode(), {}, body)
        except Refusal as refused:
            self._reply(b"{}", {"X-Error-Code": str(refused), "X-Error-Message": str(refused)}, body, 404)

    def _commit(self, owner: str, name: str, revision: str) -> Path:
        commits = sorted((self.root / owner / name).glob("*"))
        if not commits:
            raise Refusal("RepoNotFound")
        found = commits[-1] if revision == "main" else self.root / owner / name / revision
        if not found.is_dir():
            raise Refusal("RevisionNotFound")
        return found

    def _file(self, parts: list[str], body: bool) -> None:
        _, owner, name, _, revision, *path = parts
        commit = self._commit(owner, name, revision)
        file = commit.joinpath(*path)
        if not file.is_file():
            raise Refusal("EntryNotFound")
        content, status, extra = file.read_bytes(), 200, {}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            end = min(int(last or len(content) - 1), len(content) - 1)
            extra = {"Content-Range": f"bytes {first}-{end}/{len(content)}"}
            content, status = content[int(first) : end + 1], 206
        if body:
            self.hub.sent["/".join(path)] = self.hub.sent.get("/".join(path), 0) + len(content)
        tag = hashlib.sha1(str(file).encode()).hexdigest()
        headers = {"ETag": f'"{tag}"', "X-Repo-Commit": commit.name, "Accept-Ranges": "bytes"}
        self._reply(content, headers | extra, body, status)

    def _facts(self, parts: list[str]) -> object:
        if len(parts) < 2:
            raise Refusal("RepoNotFound")
        owner, name, *rest = parts
        kind, revision, *path = rest or ["revision", "main"]
        commit = self._commit(owner, name, revision)
        if kind == "revision":
            return {"id": f"{owner}/{name}", "sha": commit.name, "siblings": [], "private": False, "tags": []}
        entries = [_entry(place, commit) for place in sorted(commit.rglob("*"))]
        if kind == "paths-info":
            return [entry for entry in entries if entry["path"] in self.wanted]
        below = "/".join(path)
        if below and not (commit / below).is_dir():
            raise Refusal("EntryNotFound")
        return [entry for entry in entries if not below or entry["path"].startswith(f"{below}/")]

    def _reply(self, content: bytes, headers: dict[str, str], body: bool, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **headers, "Content-Length": len(content)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if body:
            self.wfile.write(content)


def _entry(place: Path, commit: Path) -> dict:
    path = place.relative_to(commit).as_posix()
    oid = hashlib.sha1(path.encode()).hexdigest()
    if place.is_dir():
        return {"type": "directory", "path": path, "oid": oid, "size": 0}
    return {"type": "file", "path": path, "oid": oid, "size": place.stat().st_size}


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """A hub over ``root`` as long as the block lasts."""
    handler = type("Here", (Handler,), {"root": Path(root)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.hub = Hub(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield handler.hub
        finally:
            server.shutdown()
