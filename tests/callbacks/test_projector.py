"""What TensorBoard's projector is given: the vectors that the head compares, each beside the response that it is of."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from prefrep.callbacks import Projector
from prefrep.data.encode import EncodeConfig
from prefrep.data.preference import PreferenceData
from prefrep.errors import ConfigError
from prefrep.io.folder import PreferenceModel
from prefrep.modules import BradleyTerry, GeneralPreference, PairPreference
from prefrep.modules.preference import PreferenceModule
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead
from prefrep.scoring import Scorer

ROWS = [
    {"prompt": "Say one", "chosen": "one,\tand\nno more", "rejected": "two", "id": "first", "subset": "numbers"},
    {"prompt": "Say two", "chosen": "two", "rejected": "x" * 400, "id": "long"},
    {"prompt": "Say three", "chosen": "three", "rejected": "3", "id": "third"},
    {"prompt": "Say four", "chosen": "four", "rejected": "4", "id": "fourth"},
]


def fit(
    folder: Path, module: PreferenceModule, records: int = 3, max_length: int = 1024, val: bool = True
) -> tuple[np.ndarray, list[list[str]]]:
    """Trains a step; vectors and metadata, empty where nothing was written."""
    file = folder / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    trainer = Trainer(
        accelerator="cpu", max_steps=1, logger=TensorBoardLogger(folder, "logs", 0), enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, use_distributed_sampler=False, callbacks=[Projector(records)], log_every_n_steps=1,
    )  # fmt: skip
    data = PreferenceData(str(file), val=str(file) if val else None, batch_size=2, max_length=max_length, truncation="drop")
    trainer.fit(module, data)
    written = list(folder.rglob("tensors.tsv"))
    if not written:
        return np.zeros((0, 0)), []
    assert (folder / "logs" / "version_0" / "projector_config.pbtxt").is_file()
    with written[0].with_name("metadata.tsv").open() as lines:
        return np.loadtxt(written[0], ndmin=2), list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize("frozen", [False, True])
def test_vectors_are_those_that_give_the_score(frozen: bool, tmp_path: Path) -> None:
    """<R v_chosen, v_rejected> of what was written is the log-odds that a scorer gives."""
    torch.manual_seed(0)
    module = GeneralPreference(partial(Backbone, "bundled:tiny-llama", frozen=frozen), head=partial(GPMHead, dim=4, normalize=False))
    vectors, (head, *points) = fit(tmp_path, module)
    assert head == ["id", "subset", "role", "text"] and vectors.shape == (6, 4) and len(points) == 6
    assert points[0] == ["first", "numbers", "chosen", "one, and no more"]
    assert points[3] == ["long", "-", "rejected", "x" * 200] and points[4][:3] == ["third", "-", "chosen"]
    model = PreferenceModel(module.backbone, module.head, module.loss.tau, EncodeConfig(max_length=1024), module.tokenizer, {})
    for i, row in enumerate(ROWS[:3]):
        a, b = vectors[2 * i], vectors[2 * i + 1]
        score = sum(a[2 * k] * b[2 * k + 1] - a[2 * k + 1] * b[2 * k] for k in range(2)) / module.loss.tau
        assert Scorer(model).table(row["prompt"], [row["chosen"], row["rejected"]])[0, 1] == pytest.approx(score, rel=1e-3, abs=1e-3)


def test_records_that_were_dropped_have_no_vector(tmp_path: Path) -> None:
    """The second record is too long: what follows it keeps its own name."""
    module = GeneralPreference(partial(Backbone, "bundled:tiny-llama"), head=partial(GPMHead, dim=4))
    vectors, (_, *points) = fit(tmp_path, module, records=100, max_length=64)
    assert [point[0] for point in points] == ["first", "first", "third", "third", "fourth", "fourth"] and len(vectors) == 6


def test_two_numbers_get_a_third_one(tmp_path: Path) -> None:
    """The projector draws no points that have fewer than three."""
    vectors, _ = fit(tmp_path, GeneralPreference(partial(Backbone, "bundled:tiny-llama"), head=partial(GPMHead, dim=2)))
    assert vectors.shape == (6, 3) and np.allclose(np.linalg.norm(vectors[:, :2], axis=1), 1) and not vectors[:, 2].any()


def test_one_number_is_no_picture(tmp_path: Path) -> None:
    """Rewards are one number each: the hidden states that they are read from are shown, and give them."""
    module = BradleyTerry(partial(Backbone, "bundled:tiny-llama"))
    vectors, points = fit(tmp_path, module)
    assert vectors.shape == (6, module.backbone.hidden_size) and len(points) == 7
    rewards = module.head.embed(torch.tensor(vectors, dtype=torch.float32)).detach()[:, 0]
    model = PreferenceModel(module.backbone, module.head, module.loss.tau, EncodeConfig(max_length=1024), module.tokenizer, {})
    table = Scorer(model).table(ROWS[0]["prompt"], [ROWS[0]["chosen"], ROWS[0]["rejected"]])
    assert float(rewards[0] - rewards[1]) == pytest.approx(table[0, 1], abs=1e-3)


def test_where_there_is_nothing_to_show_training_ends_well(tmp_path: Path) -> None:
    assert not fit(tmp_path, PairPreference(partial(Backbone, "bundled:tiny-llama")))[1]
    assert not fit(tmp_path, GeneralPreference(partial(Backbone, "bundled:tiny-llama")), val=False)[1]
    with pytest.raises(ConfigError, match="1 or more"):
        Projector(0)
