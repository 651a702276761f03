"""Pickled state dicts (`.bin`, `.pt`), read by torch's `weights_only`, which runs nothing of a pickle, and written as safetensors."""

from __future__ import annotations

import json
import logging
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor

from prefrep.disk import expanded
from prefrep.errors import CheckpointError, first_line
from prefrep.io.folder import PreferenceModel

log = logging.getLogger(__name__)

OTHERS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")  # pickles that trainers leave beside the weights


def state_dicts(folder: Path) -> list[Path]:
    """Return the pickled weights of a folder without safetensors: the shards of `pytorch_model`, or the only other file.

    Raises:
        CheckpointError: Several files could be the weights.
    """
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return []
    found = sorted(file for end in ("bin", "pt") for file in folder.glob(f"*.{end}") if not file.name.startswith(OTHERS))
    shards = [file for file in found if file.name.startswith("pytorch_model")]
    if len(found) > 1 and not shards:
        raise CheckpointError(f"{folder}: {found[0].name} and {found[1].name} could both be its weights; keep one of them there")
    return shards or found


@contextmanager
def as_safetensors(path: str, beside: Path) -> Iterator[str]:
    """Give the path of a model with safetensors: its own, or that of a copy, until the context ends, if its weights are pickled.

    Args:
        path: Local folder, with `config.json` and the files of a tokenizer, or a hub id.
        beside: Folder in whose parent there is room for the copy.

    Raises:
        CheckpointError: A file holds anything but tensors by name.
    """
    folder = expanded(path)
    files = state_dicts(folder)
    if not files:
        yield path
        return
    beside.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".weights-", dir=beside.parent) as room:
        place, weights = Path(room) / folder.resolve().name, dict[str, str]()
        place.mkdir()
        for file in folder.iterdir():  # configuration, tokenizer, and code, which is run if it is trusted
            if file not in files and not file.name.endswith(".index.json"):
                (place / file.name).symlink_to(file.resolve())
        for file in files:
            log.info("%s: a pickle; its weights alone are read, nothing in it is run", file)
            tensors = _tensors(file)
            name = file.with_suffix(".safetensors").name  # an adapter is found by its name, others by the index
            save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, place / name, metadata={"format": "pt"})
            weights |= dict.fromkeys(tensors, name)
        (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
        yield str(place)


def rename(model: PreferenceModel, place: str, path: str) -> None:
    """Give a model that was read from a copy the path of the original, where its recipe names the copy.

    Args:
        model: The model.
        place: Path of the copy; if it is `path`, nothing changes.
        path: Path of the original.
    """
    if place != path:
        named = str(expanded(path).absolute())
        model.backbone.path = model.backbone.path.replace(place, named)
        model.recipe = json.loads(json.dumps(model.recipe, ensure_ascii=False).replace(place, named))


def _tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict. Raises CheckpointError: there is anything else in it."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        said = "holds code or other objects" if isinstance(error, pickle.UnpicklingError) else f"cannot be read, {first_line(error)}"
        raise CheckpointError(f"{file}: not a state dict ({said}); nothing in it was run; get its weights as safetensors") from error
    if not isinstance(state, dict) or not all(isinstance(name, str) and isinstance(each, Tensor) for name, each in state.items()):
        raise CheckpointError(f"{file}: holds more than tensors by name; save the state_dict() of the model alone, as safetensors")
    return state
