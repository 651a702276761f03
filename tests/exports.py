"""Exported folders that tests damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from prefrep.data.encode import EncodeConfig
from prefrep.io import folder
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead


def exported(target: Path, weights: folder.Weights = "full", path: str = "bundled:tiny-llama") -> Path:
    """A small exported model."""
    backbone = Backbone(path, frozen=True).eval()
    torch.manual_seed(0)
    head = GPMHead(backbone.hidden_size, 4)
    folder.save(target, backbone, head, 0.5, EncodeConfig(max_length=200), backbone.tokenizer(), {"step": 1}, weights)
    return target


def edit(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file; `a__b` is b of a."""
    data = json.loads(file.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = data
        for parent in parents:
            place = place[parent]
        place[last] = value
    file.write_text(json.dumps(data))
