"""Single responses with a label yes or no train a reward: -log sigmoid(r / tau) of a desirable one, -log sigmoid(-r / tau) of another."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from conftest import encoder
from lightning.pytorch import Trainer
from torch.nn.functional import logsigmoid

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.data.preference import PreferenceData
from prefrep.data.trees import NOBODY, collate
from prefrep.errors import DataError
from prefrep.modules import BradleyTerry, GeneralPreference
from prefrep.nn.backbone import Backbone
from prefrep.nn.losses import LogisticLoss
from prefrep.records import DESIRABLE, Message, RankedResponses


def labelled(*scores: float, criterion: str = DESIRABLE) -> RankedResponses:
    answers = tuple((Message("assistant", f"answer {i}"),) for i in range(len(scores)))
    return RankedResponses((Message("user", "q"),), answers, scores, criterion=criterion)


def unpaired() -> Encoder:
    return Encoder(encoder().tokenizer, EncodeConfig(), "single", unpaired=True)


def test_only_labels_that_agree_are_unpaired() -> None:
    data = [datum for _, datum in unpaired().encode([labelled(1), labelled(0), labelled(0, 0), labelled(1, 0), labelled(1, criterion="x")])]
    assert [None if datum is None else (datum.pairs, datum.probability, datum.weight) for datum in data] == [
        (((0, NOBODY),), (1.0,), (1.0,)), (((0, NOBODY),), (0.0,), (1.0,)), (((0, NOBODY), (1, NOBODY)), (0.0, 0.0), (0.5, 0.5)),
        (((0, 1),), (1.0,), (1.0,)), None,
    ]  # fmt: skip
    assert [datum for _, datum in encoder().encode([labelled(1)])] == [None], "models without one reward have no use for it"


@pytest.mark.parametrize("layout", ["trees", "padded"])
def test_the_loss_is_that_of_the_reward(layout: str) -> None:
    torch.manual_seed(0)
    module = BradleyTerry(lambda: Backbone("bundled:tiny-llama"), loss=lambda: LogisticLoss(tau=0.5), centre=0.1, sft=0.1)
    module.configure_model()
    module.metrics.record = lambda *_: None  # type: ignore[method-assign]
    module.trainer = cast(Trainer, SimpleNamespace(world_size=1))
    data = [datum for _, datum in unpaired().encode([labelled(1), labelled(1, 0), labelled(0, 0)])]
    batch = collate([datum for datum in data if datum], 0, layout)  # type: ignore[arg-type]
    with torch.no_grad():
        rewards = module.embeddings(module.hidden(batch), batch)[0][:, 0]
        log_odds = module(batch)
    r = rewards / 0.5
    assert torch.allclose(log_odds, torch.stack([r[0], r[1] - r[2], r[3], r[4]]), atol=1e-5)
    losses = torch.stack([-logsigmoid(r[0]), -logsigmoid(r[1] - r[2]), -logsigmoid(-r[3]), -logsigmoid(-r[4])])
    centred = torch.stack([rewards[0], rewards[1] + rewards[2], rewards[3], rewards[4]]) ** 2
    weight = torch.tensor([1.0, 1.0, 0.5, 0.5])
    module.sft = 0.0
    expected = ((losses + 0.1 * centred) * weight).sum() / weight.sum()
    assert module._step(batch, "train").item() == pytest.approx(expected.item(), abs=1e-5)
    module.sft = 0.1
    assert torch.isfinite(module._step(batch, "train"))


def test_fit_reads_kto_rows(tmp_path: Path) -> None:
    path = tmp_path / "kto.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"q{i}", "completion": "yes" if i % 2 else "no", "label": bool(i % 2)}) + "\n" for i in range(8))
    )

    def fit(module: BradleyTerry | GeneralPreference) -> Trainer:
        trainer = Trainer(
            max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path, use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(module, PreferenceData(train=str(path), batch_size=4, cache=str(tmp_path / "cache")))
        return trainer

    assert torch.isfinite(fit(BradleyTerry(lambda: Backbone("bundled:tiny-llama"))).callback_metrics["train/loss"])
    with pytest.raises(DataError, match="no record is left .8 records: 8 without a pair.; labels of single responses train preference/bt"):
        fit(GeneralPreference(lambda: Backbone("bundled:tiny-llama")))
