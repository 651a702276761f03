"""Configuration and single tensors of a checkpoint, local or on the hub, without loading the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig
from transformers.utils.hub import cached_file

from prefrep.errors import CheckpointError
from prefrep.nn.bundled import resolve
from prefrep.nn.loading import UNTRUSTED


def read_config(path: str, revision: str | None, trust_remote_code: bool = False) -> Any:
    """Return the configuration of a checkpoint.

    Args:
        path: Local folder or hub id.
        revision: Branch, tag or commit of a hub id.
        trust_remote_code: Run Python code from the checkpoint; without it transformers would ask at a terminal.

    Raises:
        CheckpointError: It cannot be read.
    """
    if path.startswith((".", "/", "~")) and not Path(path).expanduser().is_dir():
        raise CheckpointError(f"{path}: no such folder; give a local folder with safetensors, or a hub id")
    try:
        return AutoConfig.from_pretrained(resolve(path), revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise CheckpointError(f"{path}: the model is {UNTRUSTED}") from error
        raise CheckpointError(f"{path}: cannot read its config.json ({_reason(error)})") from error


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
        CheckpointError: There are no readable safetensors. Pickles are never read.
    """
    place = resolve(path)

    def find(name: str) -> str | None:
        found = cached_file(place, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        return None if found is None else str(found)

    tensors: dict[str, Tensor] = {}
    try:
        if index := find("model.safetensors.index.json"):
            shards: dict[str, str] = json.loads(Path(index).read_text())["weight_map"]
            where = {name: shards[name] for name in names if name in shards}
        else:
            where = dict.fromkeys(names, "model.safetensors")
        for name, shard in where.items():
            file = find(shard)
            if file is None:
                raise CheckpointError(f"{path}: no {shard}; convert the weights to safetensors, pickles (.bin, .pt) are never read")
            with safe_open(file, framework="pt") as opened:
                if name in set(opened.keys()):
                    tensors[name] = opened.get_tensor(name).float()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot read its safetensors ({_reason(error)}); download the checkpoint again") from error
    return tensors


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
