"""What points on one frozen language model share, and when it is let go."""

from __future__ import annotations

import json
import weakref
from pathlib import Path

from lightning.pytorch import Trainer

from prefrep.data.preference import PreferenceData
from prefrep.modules import BradleyTerry
from prefrep.nn.backbone import Backbone
from prefrep.sweeps.frozen import Shared


def test_a_language_model_is_free_before_the_next_one_is_loaded(tmp_path: Path) -> None:
    """A fit leaves it on its device, so there is no room for two."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": "no"}) + "\n" for i in range(4)))
    shared, old = Shared(), list[weakref.ref[Backbone]]()

    def make() -> Backbone:
        assert not any(each() for each in old)
        old.append(weakref.ref(backbone := Backbone("bundled:tiny-llama", frozen=True)))
        return backbone

    for settings in ("one", "one", "two"):
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, use_distributed_sampler=False, logger=False, enable_progress_bar=False,
            enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
        )  # fmt: skip
        shared.train(BradleyTerry(make), PreferenceData(str(file), batch_size=2), trainer, settings, "data", None)
        del trainer
    assert len(old) == 2
