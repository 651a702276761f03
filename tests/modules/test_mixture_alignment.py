"""Mixtures of policies: groups of opposite taste are told apart, what one label cannot tell, and weights for all."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything

from prefrep.callbacks import ExpectTypes
from prefrep.data.preference import PreferenceData
from prefrep.errors import ConfigError
from prefrep.functional.aggregation import minmax_regret, regret
from prefrep.modules import DirectAlignment, MixtureAlignment, Schedule
from prefrep.nn.alignment import DPOLoss
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA

PAIRS = [("Say it", "yes", "no"), ("Which one?", "red", "blue"), ("And now?", "go", "stay"), ("Where?", "left", "right")]
BACKBONE = partial(Backbone, "bundled:tiny-llama", lora=LoRA(rank=4, alpha=8.0))
ADAM = partial(torch.optim.AdamW, lr=5e-3, weight_decay=0.0)
FLAT = Schedule("constant_with_warmup", 0.0)


def data(folder: Path, labels: int, people: int = 8) -> PreferenceData:
    """People of two opposite tastes, half of each; person u labels the pairs u, u + 1, ..."""
    rows = []
    for u in range(people):
        for k in range(labels):
            prompt, a, b = PAIRS[(u // 2 + k) % len(PAIRS)]
            chosen, rejected = (a, b) if u % 2 else (b, a)
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, "annotator": f"p{u}"})
    (file := folder / f"{labels}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return PreferenceData(str(file), str(file), batch_size=8, max_length=64, cache=None)


def fit(module: DirectAlignment, source: PreferenceData, folder: Path, epochs: int) -> float:
    callbacks = [ExpectTypes()] if isinstance(module, MixtureAlignment) else []
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, callbacks=callbacks,
        enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, source)
    return float(trainer.callback_metrics["val/accuracy"])


def mixture(seed: int = 0) -> MixtureAlignment:
    seed_everything(seed, verbose=False)
    return MixtureAlignment(BACKBONE, partial(DPOLoss, 1.0), optimizer=ADAM, schedule=FLAT)


def told_apart(module: MixtureAlignment) -> float:
    """Share of people who are of the type of their own group, by the better naming of the types."""
    kinds = module.types.responsibilities.argmax(-1).numpy()
    own = np.array([int(name[1:]) % 2 for name in module.types.annotators.names])
    return float(max((kinds == own).mean(), (kinds != own).mean()))


def test_opposite_groups_are_told_apart(tmp_path: Path) -> None:
    """Four labels each: every person is found, and knows the pairs; one policy for all can only toss a coin."""
    module = mixture()
    accuracy = fit(module, data(tmp_path, 4), tmp_path, 8)
    assert told_apart(module) == 1.0 and accuracy == 1.0
    assert module.types.prior.tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    seed_everything(0, verbose=False)
    single = fit(DirectAlignment(BACKBONE, partial(DPOLoss, 1.0), optimizer=ADAM, schedule=FLAT), data(tmp_path, 4), tmp_path, 8)
    assert single <= 0.75
    # The policies of the types are opposite, so whoever gets the other's loses; the weights of the least regret are near a half each.
    batch = next(iter(module.trainer.datamodule.val_dataloader()))  # type: ignore[attr-defined]
    with torch.no_grad():
        table = module.utilities(batch).double().numpy()
    assert (np.diag(table) > table.T[~np.eye(2, dtype=bool)].reshape(2)[::-1]).all()
    weights = minmax_regret(table)
    worst = [regret(table, each).max() for each in (weights, np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.5, 0.5]))]
    assert worst[0] <= min(worst[1:]) + 1e-9 and worst[0] < 0.8 * min(worst[1:3])


def test_one_label_does_not_tell_opposite_groups(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The negative control: a label fits a type and its opposite alike, which is said, and the other pairs stay a coin.

    A type may have any of 2^4 tastes for the four pairs. So a share of (4 + 4 * 3 + 3 * 2) / 32 = 0.69 is of its own group by the better
    naming, and of the three pairs that somebody did not label half are right, in the mean over tastes.
    """
    own, unseen = [], []
    asked = data(tmp_path, 4, people=16)  # a quarter of it is labelled in training
    for seed in range(3):
        module, source = mixture(seed), data(tmp_path, 1, people=16)
        fit(module, source, tmp_path, 6)
        own.append(told_apart(module))
        right = module.trainer.validate(module, asked, verbose=False)[0]["val/accuracy"]
        unseen.append((4 * right - 1) / 3)
    print(f"one label each: {np.mean(own):.2f} of people are of their group's type, {np.mean(unseen):.2f} of new labels right")
    assert "single label" in caplog.text
    assert 0.5 <= np.mean(own) < 0.9 and 0.25 <= np.mean(unseen) <= 0.8


def test_smoothing_and_uniform_starts_are_refused() -> None:
    with pytest.raises(ConfigError, match="smoothing"):
        MixtureAlignment(loss=partial(DPOLoss, 0.1, 0.1))
    with pytest.raises(ConfigError, match="uniform start"):
        MixtureAlignment(start=1e6)
