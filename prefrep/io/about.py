"""`prefrep.json` of exported folders: one schema, whose types, choices and ranges are those of the constructors that take the values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import PositiveInt

from prefrep.data.encode import EncodeConfig
from prefrep.errors import CheckpointError, ConfigError
from prefrep.nn.backbone import Backbone
from prefrep.nn.losses import Tau
from prefrep.typed import arguments, construct

FORMAT = 1
Weights = Literal["full", "reference"]


@dataclass(frozen=True)
class About:
    """What weights leave open. Keys that later versions add are ignored.

    Args:
        format: Version of the layout.
        head: Recipe of the head (`prefrep.parts`); `io.heads` makes it.
        tau: Temperature of the scores.
        encode: How text becomes token ids.
        weights: What the folder holds of the language model.
        backbone: Arguments of `Backbone`.
        recipe: Training configuration and metrics.
        trained: Names of the tensors in `adapter.safetensors`; None: a folder from before they were listed.
        annotators: Numbers of labels by annotator, in the order of the head's indices; None: the head answers everybody alike.
    """

    format: PositiveInt
    head: dict[str, Any]
    tau: Tau
    encode: EncodeConfig
    weights: Weights
    backbone: dict[str, Any]
    recipe: dict[str, Any]
    trained: list[str] | None = field(default=None)
    annotators: dict[str, int] | None = None


def read_about(folder: Path) -> About:
    """Read `prefrep.json`; the arguments of the backbone are checked and converted.

    Args:
        folder: An exported folder.

    Raises:
        CheckpointError: The file is damaged, of a newer prefrep, or holds a value that a configuration could not have.
    """
    file = folder / "prefrep.json"
    try:
        data = json.loads(file.read_text())
        if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
            raise CheckpointError(f"{folder}: written by a newer prefrep (format {data['format']}); update prefrep to read it")
        known = {name: data[name] for name in About.__dataclass_fields__ if name in data} if isinstance(data, dict) else data
        about = construct(file.name, About, known)
        made = arguments("backbone", Backbone, about.backbone)
    except (OSError, ConfigError, ValueError, RecursionError) as error:
        raise damaged(folder, error) from error
    about.backbone.update(made)
    return about


def damaged(folder: Path, error: Exception) -> CheckpointError:
    """Return the error of a folder whose `prefrep.json` cannot be followed."""
    reason = (str(error).strip() or type(error).__name__).removeprefix("prefrep.json").lstrip(". ")
    return CheckpointError(f"{folder / 'prefrep.json'}: damaged or edited ({reason}); export the model again")
