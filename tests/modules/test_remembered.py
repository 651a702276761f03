"""Heads on cached hidden states: the same training, the same exported model, and the text is read once."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import comparison
from lightning.pytorch import Callback, Trainer, seed_everything
from safetensors.torch import load_file

from prefrep.callbacks import Export
from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.data.preference import PreferenceData
from prefrep.data.trees import TreeBatch, collate
from prefrep.errors import ConfigError, DataError
from prefrep.modules import BradleyTerry, GeneralPreference, HybridPreference, PairPreference, PreferenceModule, Schedule
from prefrep.modules.remembered import Point, Reading, train_each
from prefrep.nn.backbone import Backbone
from prefrep.nn.context import Context
from prefrep.nn.heads import GPMHead, HybridHead, PairHead
from prefrep.nn.losses import HingeLoss, LogisticLoss
from prefrep.nn.skew import GatedSkew, LearnedSkew
from prefrep.scoring import Scorer

tiny = partial(Backbone, "bundled:tiny-llama", frozen=True)
common: dict[str, Any] = {"optimizer": partial(torch.optim.AdamW, lr=3e-3), "schedule": Schedule("cosine", 0.1)}
MODELS: dict[str, Any] = {
    "bt": partial(BradleyTerry, **common),
    "pairpm": partial(PairPreference, **common),
    "tokens": partial(PairPreference, head=partial(PairHead, readout="tokens"), **common),
    "gpm": partial(GeneralPreference, head=partial(GPMHead, dim=4), **common),
    "hybrid": partial(HybridPreference, head=partial(HybridHead, dim=4, skew=GatedSkew), **common),
    "gated": partial(GeneralPreference, head=partial(GPMHead, dim=4, skew=GatedSkew), **common),
    "learned": partial(
        GeneralPreference, head=partial(GPMHead, skew=LearnedSkew, normalize=False), loss=partial(LogisticLoss, learn_tau=True), **common
    ),
}


class Losses(Callback):
    """Keeps the training losses, and counts the batches that the backbone had to read."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.read = 0

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.train.append(float(trainer.callback_metrics["train/loss"]))

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: TreeBatch, *args: Any) -> None:
        self.read += batch.states is None


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"Say {i % 5}", "chosen": f"{i} it is", "rejected": f"no {i * 7 % 5}, thanks"} for i in range(11)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    usual = {"accelerator": "cpu", "max_epochs": 2, "use_distributed_sampler": False, "log_every_n_steps": 1, "default_root_dir": folder}
    return Trainer(**{**quiet, **usual, **options, "callbacks": list(callbacks)})


def fit(
    name: str, file: str, folder: Path, cache: str | None, *callbacks: Callback, **options: Any
) -> tuple[PreferenceModule, Losses, dict[str, float]]:
    """A run of its own: new backbone, new data."""
    seed_everything(3, verbose=False)
    module, seen = MODELS[name](tiny), Losses()
    run = trainer(folder, seen, *callbacks, **options)
    run.fit(module, PreferenceData(file, val=file, batch_size=4, cache=cache))
    return module, seen, {key: float(value) for key, value in run.callback_metrics.items()}


def count_reading(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of every batch that a backbone reads from now on."""
    tokens: list[int] = []
    forward = Backbone.forward

    def counting(self: Backbone, ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        tokens.append(ids.numel())
        return forward(self, ids, *args, **kwargs)

    monkeypatch.setattr(Backbone, "forward", counting)
    monkeypatch.setattr(Backbone, "supports_trees", lambda self, *_: True)  # which reads a little itself
    return tokens


@pytest.mark.parametrize("name", MODELS)
def test_training_on_the_cache_is_training_through_the_backbone(name: str, file: str, tmp_path: Path) -> None:
    live, through, metrics = fit(name, file, tmp_path, None)
    cached, looked_up, others = fit(name, file, tmp_path, str(tmp_path / "cache"))
    assert through.read == 6 and looked_up.read == 0 and len(through.train) == 6
    assert looked_up.train == pytest.approx(through.train, abs=1e-4)
    assert others == pytest.approx(metrics, abs=1e-4)
    hidden = torch.randn(3, 20, live.backbone.hidden_size)
    scores = [m.head.compare(m.head.embed(hidden[0]), m.head.embed(hidden[1]), Context(hidden[2])) for m in (live, cached)]
    torch.testing.assert_close(scores[1], scores[0], atol=1e-4, rtol=1e-4)
    assert cached.loss.tau == pytest.approx(live.loss.tau, abs=1e-5)


def test_a_second_run_reads_nothing(file: str, tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its head, loss and seed; not even a gate's prompts. A pair model reads other texts."""
    tokens = count_reading(monkeypatch)
    fit("bt", file, tmp_path, "auto")
    assert tokens and list(features.glob("*/*.safetensors"))
    tokens.clear()
    for name in ("bt", "gpm", "gated", "learned"):
        fit(name, file, tmp_path, "auto", max_epochs=1)
    assert tokens == []
    fit("pairpm", file, tmp_path, "auto", max_epochs=1)
    assert tokens
    tokens.clear()
    fit("tokens", file, tmp_path, "auto", max_epochs=1)
    assert tokens == []


def test_scores_of_a_cached_head_are_those_of_the_live_one(file: str, tmp_path: Path) -> None:
    """Through a bound that does not depend on training: one head, both ways to its hidden states."""
    module = MODELS["gated"](tiny)
    run = trainer(tmp_path)
    found = [run.predict(module, PreferenceData(predict=file, cache=cache)) for cache in (None, str(tmp_path / "cache"))]
    live, cached = (torch.cat([torch.as_tensor(p) for p in scores or []]) for scores in found)
    assert len(live) == 11 and live.abs().max() > 0.05
    torch.testing.assert_close(cached, live, atol=1e-4, rtol=0)


def test_mixed_precision_has_states_of_its_own(file: str, tmp_path: Path, features: Path) -> None:
    fit("bt", file, tmp_path, "auto")
    _, through, _ = fit("bt", file, tmp_path, None, precision="bf16-mixed")
    _, looked_up, _ = fit("bt", file, tmp_path, "auto", precision="bf16-mixed")
    assert len(list(features.glob("*/about.json"))) == 2
    assert looked_up.read == 0 and looked_up.train == pytest.approx(through.train, abs=0.02)  # bf16 rounds by the batch's shape


def test_the_exported_folder_is_that_of_a_live_run(file: str, tmp_path: Path) -> None:
    for folder, cache in (("live", None), ("warm", str(tmp_path / "cache")), ("cached", str(tmp_path / "cache"))):
        fit("gated", file, tmp_path / folder, cache, Export())
    live, cached = tmp_path / "live" / "export", tmp_path / "cached" / "export"
    assert sorted(p.name for p in live.iterdir()) == sorted(p.name for p in cached.iterdir())
    for path in live.iterdir():
        other = cached / path.name
        if path.name == "head.safetensors":
            heads = load_file(path), load_file(other)
            assert heads[0].keys() == heads[1].keys()
            for key in heads[0]:
                torch.testing.assert_close(heads[1][key], heads[0][key], atol=1e-4, rtol=1e-4)
        elif path.name == "prefrep.json":
            one, two = (json.loads(p.read_text()) for p in (path, other))
            assert one.pop("recipe")["metrics"] == pytest.approx(two.pop("recipe")["metrics"], abs=1e-4)
            assert one == two
        else:
            assert path.read_bytes() == other.read_bytes(), path.name
    tables = [Scorer.from_pretrained(folder, "cpu").table("Say 3", ["3 it is", "no", "yes"]) for folder in (live, cached)]
    assert abs(tables[0] - tables[1]).max() < 1e-4


@pytest.mark.parametrize("cache", [None, "auto"])
def test_nothing_is_kept_of_a_backbone_that_learns(cache: str | None, file: str, tmp_path: Path, features: Path) -> None:
    module, seen = BradleyTerry(partial(Backbone, "bundled:tiny-llama"), **common), Losses()
    trainer(tmp_path, seen).fit(module, PreferenceData(file, batch_size=4, cache=cache))
    assert seen.read == 6 and not features.exists()


# ---- many heads


@pytest.mark.parametrize("shared", [True, False])
def test_the_end_of_a_fit_leaves_a_shared_language_model_where_it_is(shared: bool, tmp_path: Path) -> None:
    """Lightning moves a module to the CPU then. `meta` stands for a GPU, and nothing can be moved away from it."""
    module, run = BradleyTerry(partial(Backbone, "bundled:tiny-llama", frozen=True), **common), trainer(tmp_path)
    module.shared = shared
    module.configure_model()
    names = list(module.state_dict())
    module.backbone.to("meta")
    run.strategy.connect(module)
    if shared:
        run.strategy.teardown()
        assert {p.device.type for p in module.backbone.parameters()} == {"meta"} and module.device.type == "cpu"
        assert list(module.state_dict()) == names
    else:
        with pytest.raises(NotImplementedError, match="meta tensor"):
            run.strategy.teardown()


def test_each_of_many_is_trained_as_alone(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly: the same states, the same seeds, the same steps."""
    points = {f"{name}-{seed}": Point(MODELS[name], seed) for name in ("bt", "gpm", "gated", "learned", "hybrid") for seed in (0, 1)}
    points["hinge-0"] = Point(partial(GeneralPreference, loss=HingeLoss, **common))
    cache = str(tmp_path / "cache")
    together = {
        name: (module.head.state_dict(), metrics)
        for name, module, metrics in train_each(
            points, tiny(), PreferenceData(file, val=file, batch_size=4, cache=cache), lambda: trainer(tmp_path)
        )
    }
    tokens = count_reading(monkeypatch)
    assert list(together) == list(points)
    for name, (make, seed) in points.items():
        seed_everything(seed, verbose=False)
        module, run = make(tiny), trainer(tmp_path)
        run.fit(module, PreferenceData(file, val=file, batch_size=4, cache=cache))
        weights, metrics = together[name]
        assert metrics == {key: float(value) for key, value in run.callback_metrics.items()}
        for key, tensor in module.head.state_dict().items():
            assert torch.equal(weights[key], tensor), (name, key)
    assert tokens == []
    assert len({float(metrics["val/loss"]) for _, metrics in together.values()}) == len(points)


def test_the_data_are_read_from_their_file_once(file: str, tmp_path: Path) -> None:
    """Also by pair models in between, which have an encoding of their own."""
    data = PreferenceData(file, batch_size=4)
    trained = train_each({"a": Point(MODELS["bt"]), "b": Point(MODELS["gpm"])}, tiny(), data, lambda: trainer(tmp_path))
    next(trained)
    Path(file).unlink()
    assert next(trained).name == "b"


def test_pair_models_and_others_take_turns(file: str, tmp_path: Path) -> None:
    points = {name: Point(MODELS[name]) for name in ("bt", "pairpm", "gpm")}
    found = {
        name: metrics for name, _, metrics in train_each(points, tiny(), PreferenceData(file, batch_size=4), lambda: trainer(tmp_path))
    }
    for name, metrics in found.items():
        seed_everything(0, verbose=False)
        run = trainer(tmp_path)
        run.fit(MODELS[name](tiny), PreferenceData(file, batch_size=4))
        assert metrics == {key: float(value) for key, value in run.callback_metrics.items()}


def test_a_backbone_that_learns_is_not_shared(file: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frozen: true"):
        next(train_each({"a": Point(MODELS["bt"])}, Backbone("bundled:tiny-llama"), PreferenceData(file), lambda: trainer(tmp_path)))


# ---- comparisons that stand in no file

# A cycle, a pair of another prompt, and the same one the other way round.
LOOSE = [comparison("p", "one", "two is longer"), comparison("p", "two is longer", "three"), comparison("p", "three", "one"),
         comparison("q", "one", "two"), comparison("q", "two", "one")]  # fmt: skip


@pytest.mark.parametrize("layout", ["single", "pair"])
def test_a_reading_is_that_of_each_comparison_alone(layout: Any) -> None:
    backbone = tiny()
    batch = Reading(backbone, layout).batch(LOOSE)
    hidden = BradleyTerry(lambda: backbone).hidden(batch)[batch.end]
    encoder = Encoder(backbone.tokenizer(), EncodeConfig(), layout)
    for number, one in enumerate(LOOSE):
        ((_, datum),) = encoder.encode([one])
        assert datum is not None
        alone = collate([datum], 0, "padded")
        expected = backbone(alone.ids, alone.positions, alone.until, alone.padded).flatten(0, 1)[alone.end]
        torch.testing.assert_close(hidden[batch.pairs[number]], expected[alone.pairs[0]], atol=1e-5, rtol=1e-4)


def test_what_does_not_fit_is_not_forgotten() -> None:
    with pytest.raises(DataError, match=r"too long to be read .*1 dropped"):
        Reading(tiny(), "single", EncodeConfig(max_length=20, truncation="drop")).batch([comparison("p" * 50, "a", "b")])


def test_a_reading_notices_other_weights(tmp_path: Path) -> None:
    backbone = tiny()
    reading = Reading(backbone, "single", cache=str(tmp_path))
    before = reading.batch(LOOSE).states
    for parameter in backbone.parameters():
        parameter.data = parameter.data * 1.5
    after = reading.batch(LOOSE).states
    fresh = Reading(backbone, "single", cache=str(tmp_path / "other")).batch(LOOSE).states
    assert before is not None and after is not None and fresh is not None
    assert torch.equal(after, fresh) and not torch.equal(after, before)
