"""Policies of earlier rounds: trainable weights in a file, which replace those in memory for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from prefrep.disk import replace_path
from prefrep.errors import DataError
from prefrep.room import saving


def keep_weights(module: LightningModule, file: Path) -> None:
    """Write the trainable weights; a killed process leaves an older file or none."""
    draft = file.with_name(file.name + ".part")
    weights = {name: each.detach().cpu().contiguous() for name, each in _trainable(module).items()}
    with saving(file, sum(each.numel() * each.element_size() for each in weights.values())):
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, draft)
        replace_path(draft, file)


@contextmanager
def weights_of(module: LightningModule, file: Path) -> Iterator[None]:
    """Replace the trainable weights by those in the file inside the context; those in memory wait on the CPU and return unchanged.

    Raises:
        DataError: The file is missing or holds other weights.
    """
    own = _trainable(module)
    try:
        kept = load_file(file)
    except (OSError, SafetensorError):
        raise DataError(f"{file}: no weights of that round; start again in another --trainer.default_root_dir") from None
    if {name: each.shape for name, each in kept.items()} != {name: each.shape for name, each in own.items()}:
        raise DataError(f"{file}: holds weights of another model; start again in another --trainer.default_root_dir")
    waiting = {name: each.detach().cpu().clone() for name, each in own.items()}
    try:
        _copy(kept, own)
        yield
    finally:
        _copy(waiting, own)


def _trainable(module: LightningModule) -> dict[str, torch.nn.Parameter]:
    return {name: each for name, each in module.named_parameters() if each.requires_grad}


@torch.no_grad()
def _copy(source: dict[str, torch.Tensor], target: dict[str, torch.nn.Parameter]) -> None:
    for name, each in target.items():
        each.copy_(source[name])
