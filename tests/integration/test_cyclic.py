"""The cyclic configurations run as they stand, but for a tiny model and fewer epochs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefrep.cli.main import main

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "cyclic").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_yaml_learns_what_its_model_can(config: Path, tmp_path: Path) -> None:
    """One key names the sub-set, for training and validation; after the run a cyclic model fits better than any scalar one can."""
    main(
        [
            "fit", "--config", str(config), "--data.train", "cyclic:bundled:ultrafeedback-mini?omit=warmth&part=unseen-prompts",
            "--model.backbone.path", "bundled:tiny-gpt2", "--trainer.max_epochs", "300", "--data.cache", str(tmp_path / "cache"),
            "--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
        ]
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    final = lines[-1]
    assert final["step"] == 300 and (tmp_path / "export" / "prefrep.json").exists()
    if config.stem == "bt":
        assert final["val/accuracy"] <= 2 / 3 + 1e-6
    else:
        assert final["val/accuracy"] > 2 / 3
