"""Hidden states of a frozen language model on disk, so that each text is read once over all runs, epochs and files.

Each model has a folder, named after its identity (`data.identity`). The key of a state is a digest of the token ids up to the position
where it is read. So a change of tokenizer, template, truncation, layout or data leads to a miss exactly if it changes those ids.

A folder holds `about.json` (the identity, for people) and segments: safetensors files of keys [M, 16] and states [M, H] in the dtype of the
forward pass, memory-mapped. A segment is written under a temporary name, synced and renamed, so that a killed process leaves complete
segments only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prefrep.caching import cache_folder
from prefrep.data.trie import Ids
from prefrep.errors import DataError

log = logging.getLogger(__name__)

KEY = 16  # bytes


def root(cache: str) -> Path:
    """Return the folder of all caches; `auto` is below prefrep's cache folder."""
    return cache_folder() / "features" if cache == "auto" else Path(cache).expanduser()


def key(ids: Ids) -> bytes:
    """Return the key of the state at the last of some token ids."""
    return hashlib.blake2b(np.ascontiguousarray(ids, "<i4").tobytes(), digest_size=KEY).digest()


class Features:
    """A cache of hidden states on disk, keyed by token ids.

    Row numbers count over all segments. Several processes can share a folder: each writes its own segments, and `refresh` finds those of
    the others.

    Args:
        folder: Folder of all caches.
        about: Identity of the model (`data.identity`); each identity has a folder of its own below that.

    Raises:
        DataError: The folder is not writable.
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self.identity = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode()).hexdigest()
        self.folder = folder / self.identity[:16]
        self._rows: dict[bytes, int] = {}
        self._states: list[Tensor] = []
        self._starts = torch.zeros(1, dtype=torch.long)  # first row of each segment, and the number of rows
        self._names: set[str] = set()
        self._files: list[str] = []  # names of the mapped segments
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.partial"):
                if time.time() - left.stat().st_mtime > 24 * 3600:  # left by a killed process
                    left.unlink(missing_ok=True)
            if not (self.folder / "about.json").exists():
                self._place("about.json", lambda path: path.write_text(json.dumps(dict(about), indent=2) + "\n"))
        except OSError as error:
            raise self._unwritable(error) from error
        self.refresh()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def row(self, key: bytes) -> int:
        """Return the row of a key. Raises KeyError: the cache does not have it."""
        return self._rows[key]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the states of rows [..] as [.., H], in the dtype of the forward pass."""
        flat = rows.flatten()
        segments = torch.bucketize(flat, self._starts, right=True) - 1
        dtype = self._states[0].dtype
        found = torch.empty(len(flat), self._states[0].shape[1], dtype=dtype)
        for segment in segments.unique().tolist():
            at = segments == segment
            found[at] = self._states[segment][flat[at] - self._starts[segment]].to(dtype)
        return found.reshape(*rows.shape, -1)

    def _segment(self, row: int) -> int:
        return int(torch.bucketize(row, self._starts, right=True)) - 1

    def refresh(self) -> None:
        """Map new segments. Damaged segments and those of another model are skipped, and their texts are read again."""
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            if path.name in self._names:
                continue
            self._names.add(path.name)
            try:
                with safe_open(path, framework="pt") as segment:  # raises if the header is broken or the length wrong
                    if (segment.metadata() or {}).get("identity") != self.identity:
                        log.warning("%s: skipped, it holds hidden states of another model", path)
                        continue
                    keys, states = segment.get_tensor("keys").numpy(), segment.get_tensor("states")
            except (SafetensorError, OSError) as error:
                log.warning("%s: skipped, it is damaged (%s); its texts are read again", path, error)
                continue
            for row, each in enumerate((key.tobytes() for key in keys), len(self)):
                # Two processes can read the same prompt and round differently; all of them must use the same state.
                if (known := self._rows.get(each)) is None or path.name < self._files[self._segment(known)]:
                    self._rows[each] = row
            self._files.append(path.name)
            self._states.append(states)
            self._starts = torch.cat([self._starts, self._starts[-1:] + len(states)])

    def add(self, keys: Sequence[bytes], states: Tensor) -> None:
        """Write a segment.

        Args:
            keys: Keys of M states.
            states: The states [M, H].

        Raises:
            DataError: The folder is not writable.
        """
        tensors = {"keys": torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, KEY), "states": states.contiguous()}
        try:
            self._place(f"{uuid4().hex}.safetensors", lambda path: save_file(tensors, path, metadata={"identity": self.identity}))
        except (OSError, SafetensorError) as error:
            raise self._unwritable(error) from error
        self.refresh()

    def _place(self, name: str, write: Callable[[Path], object]) -> None:
        partial = self.folder / f".{uuid4().hex}.partial"
        try:
            write(partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())  # the bytes must reach the disk before the name
            os.replace(partial, self.folder / name)
        finally:
            partial.unlink(missing_ok=True)

    def _unwritable(self, error: Exception) -> DataError:
        return DataError(f"{self.folder}: cannot keep hidden states there ({error}); set PREFREP_CACHE or data.cache to another folder")
