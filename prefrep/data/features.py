"""Hidden states of a frozen language model on disk, so that each text is read once, in whatever run, epoch or file it appears.

A state follows from the model and from the tokens up to where it is read. The model is what the folder is named after: a digest of its
weights, configuration and arithmetic (`identity`). The tokens are what a state is found by, so the tokenizer, the template, the truncation,
the layout and the data are all in the key: where any of them changes what a model would read, nothing is found and the text is read; where
they change nothing (a second file with the same rows, the other side of a comparison), nothing is read again.

A folder holds `about.json` (the identity, for people) and segments: safetensors files of keys [M, 16] and states [M, H] in the type that
the model returned (fp32, or bf16 under mixed precision), mapped into memory. A segment is written under another name, synced and renamed,
so a process that is killed leaves all of it or nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, cast
from uuid import uuid4
from weakref import WeakKeyDictionary

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from prefrep.cache import cache_folder
from prefrep.data.trees import Datum, Ids, Layout, Tree, TreeBatch, collate
from prefrep.errors import DataError

log = logging.getLogger(__name__)

FORMAT = 1  # part of the identity: raise it when what is read, or where, changes
KEY = 16  # bytes
SEGMENT_BYTES, SEGMENT_SECONDS = 64 << 20, 60.0  # what is read between two segments is lost when a process is killed
_digests: WeakKeyDictionary[nn.Module, tuple[object, str]] = WeakKeyDictionary()


class Reads(Protocol):
    """What a cache needs to know of a language model."""

    @property
    def model(self) -> Any:
        """The model of `transformers`."""

    @property
    def attention(self) -> str:
        """Its attention kernel."""


def identity(backbone: Reads, device: str) -> dict[str, str]:
    """What hidden states depend on beside the tokens, as plain data: weights, configuration, arithmetic.

    Call it under the mixed precision that the model reads in, and when its attention kernel is settled.

    Args:
        backbone: The language model; all of its tensors are digested (names, types, shapes and bytes).
        device: Kind of device that it reads on.
    """
    silent = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache"}
    config = {name: value for name, value in backbone.model.config.to_dict().items() if name not in silent}
    mixed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return {
        "format": str(FORMAT),
        "weights": _digest(backbone.model),
        "config": hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest(),
        "attention": backbone.attention,
        "autocast": str(mixed),
        "transformers": version("transformers"),
    }


def root(cache: str) -> Path:
    """The folder of all caches: `auto` is below prefrep's own cache folder."""
    return cache_folder() / "features" if cache == "auto" else Path(cache).expanduser()


def _digest(model: nn.Module) -> str:
    """SHA-256 over all tensors of a module and the state of its adapters, one thread a core; remembered until one of them changes."""
    tensors = {name: t.detach() for name, t in model.state_dict().items() if isinstance(t, Tensor)}
    # peft's layers: whether they add what they have learnt, and how much of it.
    adapters = [
        (name, bool(cast(Any, m).disable_adapters), m.scaling)
        for name, m in model.named_modules()
        if isinstance(getattr(m, "scaling", None), dict)
    ]
    # A version counts what is written in place. Data that are put in the place of others keep it, and may even have their address.
    now = repr(adapters), tuple((name, t.dtype, t.shape, t._version, t.data_ptr(), _sample(t)) for name, t in tensors.items())
    known = _digests.get(model)
    if known is not None and known[0] == now:
        return known[1]

    def one(item: tuple[str, Tensor]) -> bytes:
        name, t = item
        head = f"{name} {t.dtype} {list(t.shape)} ".encode()
        digest = hashlib.sha256(head)
        digest.update(t.contiguous().flatten().view(torch.uint8).cpu().numpy().data)
        return digest.digest()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = b"".join(pool.map(one, sorted(tensors.items())))
    digest = hashlib.sha256(digests + (repr(adapters).encode() if adapters else b"")).hexdigest()
    _digests[model] = (now, digest)
    return digest


def _sample(t: Tensor) -> bytes:
    """Some 64 numbers from all over a tensor."""
    found = t.flatten()[:: max(t.numel() // 64, 1)].contiguous()
    return found.view(torch.uint8).cpu().numpy().tobytes()


class Features:
    """Hidden states by the tokens they were read at.

    Rows are numbered over all segments. Several processes may use one folder: each writes segments of its own, and `refresh` finds those of
    the others.

    Args:
        folder: Folder of all caches.
        about: The identity of the model that reads; each has its own folder below that.

    Raises:
        DataError: The folder cannot be written.
    """

    def __init__(self, folder: Path, about: Mapping[str, str]) -> None:
        self.identity = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode()).hexdigest()
        self.folder = folder / self.identity[:16]
        self._rows: dict[bytes, int] = {}
        self._states: list[Tensor] = []
        self._starts = torch.zeros(1, dtype=torch.long)  # first row of each segment, and the number of rows
        self._names: set[str] = set()
        self._files: list[str] = []  # of the segments that are mapped
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.partial"):
                if time.time() - left.stat().st_mtime > 24 * 3600:  # by a process that was killed
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
        """The row of a key. KeyError: it was not read."""
        return self._rows[key]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """States of some rows [..] as [.., H], in the type that they were read in."""
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
        """Maps segments that have appeared since. One that is damaged, or of another model, is left out: its texts are read again."""
        for path in sorted(self.folder.glob("[!.]*.safetensors")):
            if path.name in self._names:
                continue
            self._names.add(path.name)
            try:
                with safe_open(path, framework="pt") as segment:  # a wrong length or a broken header is an error here
                    if (segment.metadata() or {}).get("identity") != self.identity:
                        log.warning("%s: hidden states of another model, left out", path)
                        continue
                    keys, states = segment.get_tensor("keys").numpy(), segment.get_tensor("states")
            except (SafetensorError, OSError) as error:
                log.warning("%s: damaged (%s), left out; its texts are read again", path, error)
                continue
            for row, each in enumerate((key.tobytes() for key in keys), len(self)):
                # A prompt may have been read by two processes, with other bits: all of them take the same, whatever they saw first.
                if (known := self._rows.get(each)) is None or path.name < self._files[self._segment(known)]:
                    self._rows[each] = row
            self._files.append(path.name)
            self._states.append(states)
            self._starts = torch.cat([self._starts, self._starts[-1:] + len(states)])

    def add(self, keys: Sequence[bytes], states: Tensor) -> None:
        """Writes a segment.

        Args:
            keys: Keys of M states.
            states: The states [M, H].

        Raises:
            DataError: It cannot be written.
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
                os.fsync(file.fileno())  # a name must not reach the disk before its bytes
            os.replace(partial, self.folder / name)
        finally:
            partial.unlink(missing_ok=True)

    def _unwritable(self, error: Exception) -> DataError:
        return DataError(
            f"{self.folder}: cannot keep hidden states there ({error}); name another folder with data.cache, or set it to null"
        )


def remember(
    data: Sequence[Datum],
    features: Features,
    read: Callable[[TreeBatch], Tensor],
    pad_id: int,
    layout: Layout = "trees",
    row_tokens: int = 256,
    batch_tokens: int = 4096,
    what: str = "texts",
    share: tuple[int, int] = (0, 1),
    wait: Callable[[], object] = lambda: None,
) -> list[Datum]:
    """Has everything read that was not read before.

    Args:
        data: Encoded records.
        features: Where states are kept.
        read: Hidden states [R * L, H] of the tokens of a batch.
        pad_id: See `collate`.
        layout: See `collate`.
        row_tokens: See `collate`.
        batch_tokens: Distinct tokens that are read at a time.
        what: Label of the progress bar.
        share: (process, number of processes), all with the same data: each reads its part.
        wait: Returns when all processes have called it.

    Returns:
        The records for `look_up`: every sequence has become two "tokens", the rows of its prompt's and of its last state.
    """
    places = [[(key(prompt), key(ids)) for ids, prompt in _reads(datum, layout)] for datum in data]
    missing = _missing(data, places, features, layout, batch_tokens)
    log.info(
        "%s: %d hidden states in %s, %d sequences to read",
        what, len({k for found in places for keys in found for k in keys}), features.folder, sum(len(t.sequences) for t in missing),
    )  # fmt: skip
    wait()  # every process has to see the same things missing, before the first segment appears
    process, processes = share
    if own := missing[process::processes]:
        _read(own, features, read, pad_id, layout, row_tokens, batch_tokens, what)
    wait()
    features.refresh()
    return [_rows(datum, found, features) for datum, found in zip(data, places, strict=True)]


def look_up(data: Sequence[Datum], features: Features) -> TreeBatch:
    """What `remember` returned, as a batch that brings its hidden states."""
    batch = collate(data, 0, "padded")
    return replace(batch, states=features[batch.ids])


def key(ids: Ids) -> bytes:
    """The key of the state at the last of some token ids."""
    return hashlib.blake2b(np.ascontiguousarray(ids, "<i4").tobytes(), digest_size=KEY).digest()


def _reads(datum: Datum, layout: Layout) -> Iterator[tuple[Ids, Ids]]:
    """Each sequence, and it up to its last prompt token: the one that `collate` names in `prompt_end`."""
    for tree in datum.trees:
        last = max(tree.prompt - 1, 0)
        if layout == "trees":
            last = min(last, tree.shared if len(tree.sequences) == 1 else max(tree.shared - 1, 0))
        for ids in tree.sequences:
            yield ids, ids[: last + 1]


def _missing(
    data: Sequence[Datum], places: Sequence[Sequence[tuple[bytes, bytes]]], features: Features, layout: Layout, batch_tokens: int
) -> list[Tree]:
    """Trees of the sequences that nobody has read, all responses to a prompt together, each once."""
    prompts: dict[bytes, tuple[int, dict[bytes, Ids]]] = {}
    for datum, keys in zip(data, places, strict=True):
        for (ids, prompt), (prompt_key, end_key) in zip(_reads(datum, layout), keys, strict=True):
            if prompt_key not in features or end_key not in features:
                prompts.setdefault(prompt_key, (len(prompt), {}))[1][end_key] = ids
    trees = []
    for length, sequences in prompts.values():
        group: list[Ids] = []
        for ids in sequences.values():
            if group and length + sum(len(other) - length for other in (*group, ids)) > batch_tokens:
                trees.append(Tree(tuple(group), length))
                group = []
            group.append(ids)
        trees.append(Tree(tuple(group), length))
    return trees


@torch.no_grad()
def _read(
    trees: Iterable[Tree],
    features: Features,
    read: Callable[[TreeBatch], Tensor],
    pad_id: int,
    layout: Layout,
    row_tokens: int,
    batch_tokens: int,
    what: str,
) -> None:
    """Reads trees, those of like size together, and keeps a segment now and then."""
    left = sorted(((tree.size, i, tree) for i, tree in enumerate(trees)), key=lambda item: item[:2])
    found: dict[bytes, Tensor] = {}
    since = time.monotonic()
    with tqdm(total=sum(size for size, _, _ in left), desc=f"reading {what}", unit=" tokens", disable=None) as bar:
        while left:
            tokens, _, tree = left.pop()
            part = [tree]
            while left and tokens + left[-1][0] <= batch_tokens:
                size, _, tree = left.pop()
                part.append(tree)
                tokens += size
            batch = collate([Datum((tree,)) for tree in part], pad_id, layout, row_tokens)
            hidden = read(batch)
            ends, prompts = hidden[batch.end].cpu(), hidden[batch.prompt_end].cpu()
            places = [place for tree in part for place in _reads(Datum((tree,)), layout)]
            for (ids, prompt), end, prompt_end in zip(places, ends, prompts, strict=True):
                found[key(ids)], found[key(prompt)] = end, prompt_end
            bar.update(tokens)
            states = next(iter(found.values()))
            full = len(found) * states.nbytes > SEGMENT_BYTES or time.monotonic() - since > SEGMENT_SECONDS
            if full or not left:
                features.add(list(found), torch.stack(list(found.values())))
                found, since = {}, time.monotonic()


def _rows(datum: Datum, places: Sequence[tuple[bytes, bytes]], features: Features) -> Datum:
    """A record whose sequences are the rows of their states."""
    rows = iter([np.asarray([features.row(prompt), features.row(end)], np.int32) for prompt, end in places])
    return replace(datum, trees=tuple(Tree(tuple(next(rows) for _ in tree.sequences), 1) for tree in datum.trees))
