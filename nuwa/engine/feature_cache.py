"""A cache of vision features on disk, for jobs of a sweep that differ only in what comes after the tower."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

log = logging.getLogger(__name__)
_ENDING = ".safetensors"
GIGABYTE = 2**30
_SPACE = re.compile("[0-9a-f]{16}")


class FeatureCache:
    """A folder of at most ``limit`` bytes that may be deleted at any time. Entries come back bit by bit.

    ``space`` names all that the features depend on besides the images: model, precision, machine. To make room, entries
    of other spaces are deleted, the least recently used space first. Entries of the own space stay, and so do all other
    files in the folder; what then does not fit is not kept. Several processes may share the folder. ``hits`` and
    ``misses`` count loads. ``refused`` is the size in bytes of the smallest entry that did not fit: none of that size
    or more is tried again.
    """

    def __init__(self, folder: Path, space: str, limit: int) -> None:
        self.root, self.limit = Path(folder), limit
        self.folder = self.root / hashlib.blake2b(space.encode(), digest_size=8).hexdigest()
        self.hits = self.misses = 0
        self.refused = math.inf
        self._size = self._measured()
        with suppress(OSError):
            os.utime(self.folder)  # used, even if nothing will be added

    def load(self, key: str, device: torch.device) -> dict[str, Tensor] | None:
        """The tensors stored under a key, None if there are none that can be read."""
        path = self._path(key)
        try:
            tensors = load(path.read_bytes())  # opened once: another process may remove it at any time
        except (OSError, SafetensorError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("%s: unreadable (%s), computed again", path, error)
                _remove(path)
            self.misses += 1
            return None
        self.hits += 1
        return {name: x.to(device) for name, x in tensors.items()}

    def store(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a key if they fit; a disk that is full ends storing, not the run."""
        needed = sum(x.numel() * x.element_size() for x in tensors.values())
        if not self._make_room(needed):
            return
        path = self._path(key)
        temporary = path.with_name(f".{uuid4().hex}{_ENDING}")
        # copies: tensors that share memory are refused
        own = {name: x.detach().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(save(own))
            temporary.replace(path)
            self._size += path.stat().st_size
            os.utime(self.folder)
        except (FileNotFoundError, FileExistsError):  # meanwhile another process has made room for its own
            _remove(temporary)
        except OSError as error:
            self.refused = 0
            _remove(temporary)
            log.warning("%s: vision features are no longer kept (%s)", self.root, error)

    def _path(self, key: str) -> Path:
        return self.folder / (hashlib.blake2b(key.encode(), digest_size=16).hexdigest() + _ENDING)

    def _make_room(self, needed: int) -> bool:
        """Whether ``needed`` bytes fit, once other spaces are gone as far as it takes, but never in vain."""
        if needed >= self.refused:
            return False
        if self._size + needed > self.limit:
            self._size = self._measured()  # other processes write and delete, too
            others = [folder for folder in self._spaces() if folder != self.folder]
            if _size_of([self.folder]) + needed > self.limit:
                others = []
            for folder in sorted(others, key=_last_used):
                if self._size + needed <= self.limit:
                    break
                for path in _entries(folder):
                    _remove(path)
                with suppress(OSError):
                    folder.rmdir()
                self._size = self._measured()
            if self._size + needed > self.limit:
                self.refused = needed
        return needed < self.refused

    def _spaces(self) -> list[Path]:
        """The folders of all spaces, and no other's: people put this folder where they like."""
        return [folder for folder in self.root.glob("*/") if _SPACE.fullmatch(folder.name)]

    def _measured(self) -> int:
        return _size_of(self._spaces())


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.glob(f"*{_ENDING}"))
    except OSError:  # gone meanwhile
        return []


def _size_of(folders: Sequence[Path]) -> int:
    """Bytes of all entries of some spaces; what vanishes meanwhile counts nothing."""
    total = 0
    for path in (path for folder in folders for path in _entries(folder)):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _remove(path: Path) -> None:
    """Remove a file if that is possible: it may be another user's, or another process was faster."""
    with suppress(OSError):
        path.unlink()


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
