"""Configuration and single tensors of a checkpoint, local or on the hub, without loading the model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils.hub import cached_file

from prefrep.disk import expanded
from prefrep.errors import CheckpointError, first_line
from prefrep.nn.bundled import resolve
from prefrep.nn.loading import UNTRUSTED, config_of

SINGLE = "model.safetensors"


def find_file(path: str, name: str, revision: str | None) -> Path | None:
    """Return a file of a checkpoint, downloaded if need be; None, if there is none or the hub cannot be reached.

    Args:
        path: Local folder or hub id.
        name: Name of the file.
        revision: Branch, tag or commit of a hub id.
    """
    try:
        found = cached_file(resolve(path), name, revision=revision, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):
        return None
    return None if found is None else Path(found)


def read_config(path: str, revision: str | None, trust_remote_code: bool = False) -> Any:
    """Return the configuration of a checkpoint.

    Args:
        path: Local folder or hub id.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Run Python code from the checkpoint; without it transformers would ask at a terminal.

    Raises:
        CheckpointError: It cannot be read.
    """
    if path.startswith((".", "/", "~")) and not expanded(path).is_dir():
        raise CheckpointError(f"{path}: no such folder; give a local folder with safetensors, or a hub id")
    try:
        return config_of(resolve(path), revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise CheckpointError(f"{path}: the model is {UNTRUSTED}") from error
        raise CheckpointError(f"{path}: cannot read its config.json ({first_line(error)})") from error


def stored_dtype(config: Any) -> str:
    """Return the name of the torch dtype in a configuration; float32 if it has none."""
    stored = config.get_text_config().dtype
    return "float32" if stored is None else str(stored).removeprefix("torch.")


def read_tensors(path: str, names: tuple[str, ...], revision: str | None) -> dict[str, Tensor]:
    """Read tensors of a checkpoint as float32, opening only the shards that hold them.

    Args:
        path: Local folder or hub id.
        names: Names of the tensors.
        revision: Branch, tag or commit of a hub id.

    Returns:
        The tensors that exist.

    Raises:
        CheckpointError: There are no readable safetensors. `io.pickles` reads weights that are pickled.
    """
    tensors: dict[str, Tensor] = {}
    with _readable(path):
        where = _shards(path, revision)
        for shard in [shard for shard, held in where.items() if held & set(names)] if where else [SINGLE]:
            with safe_open(_file(path, shard, revision), framework="pt") as opened:
                tensors |= {name: opened.get_tensor(name).float() for name in opened.keys() if name in names}
    return {name: tensors[name] for name in names if name in tensors}


def tensor_names(path: str, revision: str | None) -> set[str]:
    """Return the names of all tensors of a checkpoint; arguments and errors as in `read_tensors`."""
    with _readable(path):
        if where := _shards(path, revision):
            return set().union(*where.values())
        with safe_open(_file(path, SINGLE, revision), framework="pt") as opened:
            return set(opened.keys())


def _shards(path: str, revision: str | None) -> dict[str, set[str]]:
    """Return the tensors of each shard by the index; nothing, if there is no index."""
    index = find_file(path, f"{SINGLE}.index.json", revision)
    found: dict[str, set[str]] = {}
    for name, shard in (json.loads(index.read_text())["weight_map"] if index else {}).items():
        found.setdefault(shard, set()).add(name)
    return found


def _file(path: str, name: str, revision: str | None) -> Path:
    if (file := find_file(path, name, revision)) is None:
        raise CheckpointError(
            f"{path}: no {name}; pickles (.bin, .pt) are never read, except those in a local folder by prefrep export --from KIND"
        )
    return file


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:  # JSON may hold anything
        raise CheckpointError(f"{path}: cannot read its safetensors ({first_line(error)}); download the checkpoint again") from error
