"""Training and what belongs to a checkpoint: LightningCLI's sub-commands as functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def fit(config: str, settings: Mapping[str, Any] | None = None) -> None:
    """Train a preference model or a policy from a configuration.

    The setting `model.init`, in the shell `--init-from MODEL`, goes on training from a model in any layout that prefrep reads. `--as KIND`
    says what it is, where its files leave that open, and `--objective NAME` names one of several objectives.

    Args:
        config: YAML file, or a shipped configuration such as `preference/gpm`.
        settings: Values of dotted keys over it: `{"data.train": "train.jsonl", "model.head.dim": 8}`.

    Raises:
        PrefrepError: The configuration is wrong, data or model cannot be read, or training diverges.
    """
    _run("fit", config, settings)


def validate(config: str, settings: Mapping[str, Any] | None = None) -> None:
    """Compute validation metrics of a checkpoint.

    Args:
        config: As for `fit`.
        settings: As for `fit`; `ckpt_path` names the checkpoint.

    Raises:
        PrefrepError: As for `fit`.
    """
    _run("validate", config, settings)


def test(config: str, settings: Mapping[str, Any] | None = None) -> None:
    """Compute test metrics of a checkpoint.

    Args:
        config: As for `fit`.
        settings: As for `fit`; `ckpt_path` names the checkpoint.

    Raises:
        PrefrepError: As for `fit`.
    """
    _run("test", config, settings)


def predict(config: str, settings: Mapping[str, Any] | None = None) -> None:
    """Write the log-odds of each pair, by a checkpoint, to predictions.jsonl.

    Args:
        config: As for `fit`.
        settings: As for `fit`; `ckpt_path` names the checkpoint.

    Raises:
        PrefrepError: As for `fit`.
    """
    _run("predict", config, settings)


def _run(command: str, config: str, settings: Mapping[str, Any] | None) -> None:
    from prefrep.training.cli import run

    written = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (settings or {}).items()}
    run([command, "--config", str(config), *(f"--{key}={value}" for key, value in written.items())])
