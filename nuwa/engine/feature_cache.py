"""A cache of vision features and decisions on disk, for jobs of a sweep that differ in what comes after them."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from glob import glob
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

log = logging.getLogger(__name__)
_ENDING = ".safetensors"
_ENTRIES = "[0-9a-f]" * 16 + f"/*{_ENDING}"
GIGABYTE = 2**30


def tensor_digest(values: Tensor, size: Sequence[int]) -> str:
    """A name for a tensor, bit by bit, and for a ``size`` that goes with it."""
    bits = values.detach().cpu().contiguous()
    digest = hashlib.blake2b(f"{bits.dtype} {tuple(bits.shape)} {tuple(size)}".encode(), digest_size=16)
    digest.update(bits.view(torch.uint8).numpy().data)
    return digest.hexdigest()


class FeatureCache:
    """A folder of at most ``limit`` bytes that may be deleted at any time. Entries come back bit by bit.

    ``space`` names all that they depend on besides images and methods: model, precision, machine, files. To make room,
    entries of other spaces are deleted, the least recently used space first. Entries of the own space stay, and so do
    all other files in the folder; what then does not fit is not kept. Several processes may share the folder. ``hits``
    and ``misses`` count loads. ``refused`` is the size in bytes of the smallest entry that did not fit: none of that
    size or more is tried again.
    """

    def __init__(self, folder: Path, space: str, limit: int) -> None:
        self.root, self.limit = Path(folder), limit
        self.folder = self.root / hashlib.blake2b(space.encode(), digest_size=8).hexdigest()
        self.hits = self.misses = 0
        self.refused = math.inf
        self._size = sum(self._sizes().values())
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
        except (FileNotFoundError, FileExistsError):
            pass  # meanwhile another process has made room for its own
        except OSError as error:
            self.refused = 0
            log.warning("%s: vision features are no longer kept (%s)", self.root, error)
        finally:
            _remove(temporary)

    def _path(self, key: str) -> Path:
        return self.folder / (hashlib.blake2b(key.encode(), digest_size=16).hexdigest() + _ENDING)

    def _make_room(self, needed: int) -> bool:
        """Whether ``needed`` bytes fit, once other spaces are gone as far as it takes, but never in vain."""
        if needed < self.refused and self._size + needed > self.limit:
            sizes = self._sizes()  # other processes write and delete, too
            self._size = sum(sizes.values())
            fits = sizes.pop(self.folder, 0) + needed <= self.limit
            for folder in sorted(sizes, key=_last_used) if fits else ():
                if self._size + needed <= self.limit:
                    break
                with suppress(OSError):  # gone meanwhile, or other files are in it
                    for path in folder.glob(f"*{_ENDING}"):
                        _remove(path)
                    folder.rmdir()
                self._size = sum(self._sizes().values())
            if self._size + needed > self.limit:
                self.refused = needed
        return needed < self.refused

    def _sizes(self) -> Counter[Path]:
        """Bytes of the entries of every space, and of no other file: people put this folder where they like."""
        sizes: Counter[Path] = Counter()
        # Path.glob fails where a folder vanishes meanwhile
        for path in map(self.root.joinpath, glob(_ENTRIES, root_dir=self.root, include_hidden=True)):  # noqa: PTH207
            with suppress(OSError):  # removed meanwhile
                sizes[path.parent] += path.stat().st_size
        return sizes


def _remove(path: Path) -> None:
    """Remove a file if that is possible: it may be another user's, or another process was faster."""
    with suppress(OSError):
        path.unlink()


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
