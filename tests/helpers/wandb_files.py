"""An offline W&B run read back from its folder: the records of its .wandb file, and the files beside it."""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

MAGIC = b":W&B\xe1\xbe\x00"
BLOCK, HEAD = 2**15, 7
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Record]:
    """Every record of a .wandb file: LevelDB's log format, whose pieces carry a checksum each."""
    data, place, parts = path.read_bytes(), len(MAGIC), b""
    assert MAGIC.startswith(data[: len(MAGIC)])
    while place < len(data):
        if BLOCK - place % BLOCK < HEAD:  # too little for another piece
            place += BLOCK - place % BLOCK
            continue
        checksum, length, kind = struct.unpack_from("<IHB", data, place)
        piece = data[place + HEAD : place + HEAD + length]
        assert checksum == zlib.crc32(bytes([kind]) + piece)
        parts = piece if kind in (WHOLE, FIRST) else parts + piece
        if kind in (WHOLE, LAST):
            yield Record.FromString(parts)
        place += HEAD + length


@dataclass
class OfflineRun:
    """What ``wandb sync`` would upload of a run."""

    folder: Path
    run: Any
    config: dict[str, Any]
    summary: dict[str, Any]
    artifacts: dict[str, dict[str, Path]]
    exit_code: int | None

    def table(self, name: str) -> list[dict[str, Any]]:
        """A logged table as rows."""
        content = json.loads((self.folder / "files" / self.summary[name]["path"]).read_text())
        return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]

    def pictures(self, name: str) -> list[Path]:
        """The files of logged pictures."""
        logged = self.summary[name]
        return [self.folder / "files" / path for path in logged.get("filenames") or [logged["path"]]]


def all_records(folder: Path) -> list[Record]:
    """The records of a finished run; wandb's own process may still write them when ``finish`` has returned."""
    end = time.monotonic() + 30
    while True:
        try:
            found = [record for path in folder.glob("*.wandb") for record in records(path)]
            if (found and found[-1].HasField("exit")) or time.monotonic() > end:
                return found
        except (AssertionError, struct.error):  # a piece that is being written
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def read_run(folder: Path) -> OfflineRun:
    """The run in a folder ``offline-run-...``."""
    found = OfflineRun(folder, None, {}, {}, {}, None)
    for record in all_records(folder):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            _update(found.config, record.run.config.update)
        elif kind in ("config", "summary"):
            _update(getattr(found, kind), getattr(record, kind).update)
        elif kind == "artifact":
            contents = record.artifact.manifest.contents
            found.artifacts[record.artifact.name] = {entry.path: Path(entry.local_path) for entry in contents}
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _update(tree: dict[str, Any], items: Any) -> None:
    for item in items:
        _put(tree, item.nested_key or [item.key], json.loads(item.value_json))


def _put(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value
