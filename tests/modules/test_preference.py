"""Preference models: they learn, their steps do what the formulas say, and resuming or distributing changes nothing."""

from __future__ import annotations

import csv
import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import COMPARISONS, comparison
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from transformers import GraniteConfig, GraniteForCausalLM

from prefrep.data.preference import PreferenceData
from prefrep.data.trees import TreeBatch
from prefrep.errors import CheckpointError, ConfigError, TrainingError
from prefrep.modules import BradleyTerry, GeneralPreference, HybridPreference, PairPreference, PreferenceModule, Schedule
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead, HybridHead, PairHead
from prefrep.nn.loading import load_tokenizer
from prefrep.nn.lora import LoRA
from prefrep.nn.losses import LogisticLoss
from prefrep.nn.rewards import ObjectivesHead
from prefrep.nn.skew import GatedSkew, LearnedSkew

tiny = partial(Backbone, "bundled:tiny-llama")
fast = partial(torch.optim.AdamW, lr=3e-3)
constant = Schedule("constant_with_warmup", 0.0)


def build(kind: type[PreferenceModule], **options: Any) -> PreferenceModule:
    return kind(**{"backbone": tiny, "optimizer": fast, "schedule": constant, **options})  # type: ignore[arg-type]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": f"no {i * 7 % 5}, thanks"} for i in range(count)]


def trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": bool(callbacks)}
    common = {"accelerator": "cpu", "max_epochs": 1, "use_distributed_sampler": False, "log_every_n_steps": 1, "default_root_dir": folder}
    return Trainer(**{**quiet, **common, **options, "callbacks": list(callbacks)})


class Losses(Callback):
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.train: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.train.append(float(trainer.callback_metrics["train/loss"]))


CYCLE = [{"prompt": "Choose", "chosen": a, "rejected": b} for a, b in [("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")]]


@pytest.mark.parametrize(
    ("kind", "options", "least", "most"),
    [
        (BradleyTerry, {}, 0.0, 2 / 3 + 1e-6),
        (PairPreference, {}, 1.0, 1.0),
        (PairPreference, {"head": partial(PairHead, readout="tokens")}, 1.0, 1.0),
        (GeneralPreference, {"head": partial(GPMHead, normalize=False)}, 1.0, 1.0),
        (GeneralPreference, {"head": partial(GPMHead, dim=4, skew=GatedSkew, normalize=False)}, 1.0, 1.0),
        (GeneralPreference, {"head": partial(GPMHead, dim=4, skew=LearnedSkew, normalize=False)}, 1.0, 1.0),
        (GeneralPreference, {"head": partial(GPMHead, normalize=False), "loss": partial(LogisticLoss, learn_tau=True)}, 1.0, 1.0),
        (HybridPreference, {"head": partial(HybridHead, normalize=False)}, 1.0, 1.0),
        (HybridPreference, {"head": partial(HybridHead, dim=4, skew=GatedSkew, normalize=False)}, 1.0, 1.0),
    ],
)
def test_who_can_learn_a_cycle(kind: type[PreferenceModule], options: dict[str, Any], least: float, most: float, tmp_path: Path) -> None:
    """Rock, scissors, paper: any reward gets at most two of three right; the others get all.

    Normalised embeddings are not here: where all of them coincide the gradients of a cycle cancel and the loss has a local
    minimum, which a model that starts there does not leave (`test_coinciding_embeddings_are_a_trap`).
    """
    seed_everything(0, verbose=False)
    module = build(kind, **options)
    data = PreferenceData(write(tmp_path / "train.jsonl", CYCLE), test=str(tmp_path / "train.jsonl"), batch_size=3)
    run = trainer(tmp_path, max_epochs=80)
    run.fit(module, data)
    result = run.test(module, data, verbose=False)[0]
    assert least <= result["test/accuracy"] <= most


def test_a_hybrid_model_learns_a_dominant_answer_above_a_cycle(tmp_path: Path) -> None:
    """From text to verdicts: of two models of two dimensions only the one with a reward gets rock, scissors, paper and what beats all."""
    both = CYCLE + [{"prompt": "Choose", "chosen": "everything", "rejected": one} for one in ("rock", "scissors", "paper")]
    accuracy = {}
    for kind, head in ((HybridPreference, HybridHead), (GeneralPreference, GPMHead)):
        seed_everything(0, verbose=False)
        data = PreferenceData(write(tmp_path / "t.jsonl", both), test=str(tmp_path / "t.jsonl"), batch_size=6)
        run, module = trainer(tmp_path, max_epochs=60), build(kind, head=partial(head, normalize=False))
        run.fit(module, data)
        accuracy[kind] = run.test(module, data, verbose=False)[0]["test/accuracy"]
    assert accuracy[HybridPreference] == 1.0
    assert accuracy[GeneralPreference] < 1.0


def test_coinciding_embeddings_are_a_trap() -> None:
    """On a 3-cycle, unit vectors at equal angles a small step apart cost more than coinciding ones; 120 degrees apart they cost nothing.

    With s = sin(angle), tau = 0.1 and angles (0, e, -e): the linear terms cancel around the cycle, the quadratic ones do not.
    """
    head = GPMHead(4)

    def cost(angles: list[float]) -> float:
        v = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles])
        s = head.compare(v, v[[1, 2, 0]])
        return float(LogisticLoss(tau=0.1)(s, torch.ones(3), torch.zeros(3)).mean())

    assert cost([0.0, 0.0, 0.0]) == pytest.approx(math.log(2))
    for e in (0.02, 0.1, 0.3):
        assert cost([0.0, e, -e]) > math.log(2) and cost([0.0, -e, e]) > math.log(2)
    third = 2 * math.pi / 3
    assert min(cost([0.0, third, 2 * third]), cost([0.0, -third, -2 * third])) < 1e-3


@pytest.mark.parametrize("kind", [BradleyTerry, PairPreference, GeneralPreference, HybridPreference])
def test_layouts_give_the_same_training(kind: type[PreferenceModule], tmp_path: Path) -> None:
    curves = {}
    for layout in ("trees", "padded"):
        seed_everything(1, verbose=False)
        seen = Losses()
        data = PreferenceData(write(tmp_path / "t.jsonl", rows(9)), batch_size=4, layout=layout)  # type: ignore[arg-type]
        trainer(tmp_path, seen, max_epochs=17).fit(build(kind), data)
        curves[layout] = seen.train
    assert len(curves["trees"]) >= 50
    assert curves["trees"] == pytest.approx(curves["padded"], abs=1e-4)


def test_the_loss_is_the_weighted_mean_of_the_formula(tmp_path: Path) -> None:
    """-log sigmoid(s / tau - m), soft labels, weights: recomputed from the scores that `predict` gives."""
    labelled = [
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5, "weight": 2.0},
        {"prompt": "a", "chosen": "bb", "rejected": "cc", "probability": 0.25},
        {"prompt": "d", "chosen": "e", "rejected": "f", "probability": 0.5},
    ]
    path = write(tmp_path / "t.jsonl", labelled)
    module = build(GeneralPreference, head=partial(GPMHead, dim=4), loss=partial(LogisticLoss, tau=0.1))
    run = trainer(tmp_path)
    data = PreferenceData(val=path, predict=path, batch_size=2)
    result = run.validate(module, data, verbose=False)[0]
    predicted = run.predict(module, data)
    assert predicted is not None
    s = torch.cat([torch.as_tensor(p) for p in predicted]).double() * 0.1
    p, m, w = torch.tensor([1, 0.25, 0.5]).double(), torch.tensor([0.5, 0, 0]).double(), torch.tensor([2.0, 1, 1]).double()
    by_hand = -(p * torch.sigmoid(s / 0.1 - m).log() + (1 - p) * torch.sigmoid(-s / 0.1 - m).log())
    assert result["val/loss"] == pytest.approx(float((by_hand * w).sum() / w.sum()), abs=1e-5)
    right = torch.stack([s[0] > 0, s[1] < 0]).double()  # the tie has no right answer
    assert result["val/accuracy"] == pytest.approx(float((right * w[:2]).sum() / 3))


def test_order_of_data_does_not_depend_on_the_head(tmp_path: Path) -> None:
    class Seen(Callback):
        def __init__(self) -> None:
            self.ids: list[list[int]] = []

        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.ids.append(sorted(batch.ids.flatten().tolist()))

    path = write(tmp_path / "t.jsonl", rows(8))
    seen = []
    for dim in (2, 8):
        seed_everything(0, verbose=False)
        seen.append(Seen())
        module = build(GeneralPreference, head=partial(GPMHead, dim=dim, skew=GatedSkew))
        trainer(tmp_path, seen[-1]).fit(module, PreferenceData(path, batch_size=2))
    assert seen[0].ids == seen[1].ids and len(seen[0].ids) == 4


@pytest.mark.parametrize("every", [3, 4])
@pytest.mark.parametrize(("lora", "workers"), [(None, 0), (None, 2), (LoRA(rank=2), 0), (LoRA(rank=2, dropout=0.3), 0)])
def test_resuming_is_exact(every: int, lora: LoRA | None, workers: int, tmp_path: Path) -> None:
    """Stopped within an epoch (3 of 4 batches) and at its end (4): same batches, same optimizer, same final weights."""
    path = write(tmp_path / "t.jsonl", rows(8))
    make = partial(build, GeneralPreference, backbone=partial(tiny, lora=lora), schedule=Schedule("cosine", 0.1))

    def fit(resume: str | None, workers: int, *callbacks: Callback) -> PreferenceModule:
        seed_everything(0, verbose=False)
        module, data = make(), PreferenceData(path, val=path, batch_size=2, num_workers=workers)
        trainer(tmp_path, *callbacks, max_epochs=2).fit(module, data, ckpt_path=resume)
        return module

    kept = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=every, save_top_k=-1)
    whole = fit(None, 0, kept)
    names = sorted(file.name for file in (tmp_path / "kept").iterdir())
    assert f"step={every}.ckpt" in names
    seen = Losses()
    resumed = fit(str(tmp_path / "kept" / f"step={every}.ckpt"), workers, seen)
    assert len(seen.train) == 8 - every
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0, msg=name)


def test_dropout_masks_depend_on_seed_batch_and_process(tmp_path: Path) -> None:
    """The next number of torch's generator stands for the masks: another in every batch, under every seed, in every process."""
    drawn = set()
    for seed, batches, rank in [(0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]:
        torch.manual_seed(seed)
        module = build(GeneralPreference, backbone=partial(tiny, lora=LoRA(rank=2, dropout=0.3)))
        module.configure_model()
        progress = SimpleNamespace(total=SimpleNamespace(processed=batches))
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress), is_resuming=False)
        module._trainer = cast(Any, SimpleNamespace(fit_loop=loop, global_rank=rank, num_training_batches=4))
        torch.manual_seed(seed)
        module.on_train_start()
        torch.rand(7)  # whatever was drawn before
        module.on_train_batch_start(None, 0)
        drawn.add(float(torch.rand(())))
    assert len(drawn) == 4


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", rows(4))
    run = trainer(tmp_path, ModelCheckpoint(tmp_path, "a", save_last=True))
    run.fit(build(GeneralPreference, head=partial(GPMHead, dim=4)), PreferenceData(path))
    with pytest.raises(CheckpointError, match=r"head.value_head.weight"):
        trainer(tmp_path).fit(build(GeneralPreference), PreferenceData(path), ckpt_path=str(tmp_path / "last.ckpt"))


def test_lora_checkpoints_hold_what_was_trained(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", rows(4))
    module = build(BradleyTerry, backbone=partial(tiny, lora=LoRA(rank=2)))
    run = trainer(tmp_path, ModelCheckpoint(tmp_path, save_last=True))
    run.fit(module, PreferenceData(path))
    names = set(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    assert "head.value_head.weight" in names and any("lora_" in name for name in names)
    assert not any("base_layer" in name or "embed_tokens" in name for name in names)


def test_head_and_temperature_move(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    module = build(GeneralPreference, backbone=partial(tiny, frozen=True), loss=partial(LogisticLoss, tau=0.5, learn_tau=True))
    module.configure_model()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trainer(tmp_path).fit(module, PreferenceData(write(tmp_path / "t.jsonl", rows(4))))
    moved = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {"head.value_head.weight", "loss.log_tau"}


def test_sft_regulariser_is_the_likelihood_of_preferred_responses(tmp_path: Path) -> None:
    """Against transformers' own labelled loss, with everything but the response masked out."""
    path = write(tmp_path / "t.jsonl", [{"prompt": "Say hi", "chosen": "hello there", "rejected": "go"}])
    losses = {}
    for coefficient in (0.0, 1.0):
        seed_everything(0, verbose=False)
        seen = Losses()
        module = build(BradleyTerry, sft=coefficient)
        trainer(tmp_path, seen).fit(module, PreferenceData(path))
        losses[coefficient] = seen.train[0]
    backbone = tiny()
    from conftest import encoder

    record = comparison("Say hi", "hello there", "go")
    datum = next(iter(encoder().encode([record])))[1]
    assert datum is not None
    tree = datum.trees[0]
    ids = torch.from_numpy(tree.sequences[0]).long()[None]
    labels = ids.clone()
    labels[:, : tree.prompt] = -100
    with torch.no_grad():
        nll = backbone.model(input_ids=ids, labels=labels).loss
    assert losses[1.0] - losses[0.0] == pytest.approx(float(nll), abs=1e-4)


def test_the_regulariser_weighs_responses_as_their_pairs(tmp_path: Path) -> None:
    """A row of weight 0 says nothing, however long it is; one of weight 3 counts like three of them."""
    one, other = (
        {"prompt": "Say hi", "chosen": "hello there", "rejected": "go"},
        {"prompt": "Name a prime", "chosen": "7", "rejected": "8, of course"},
    )
    losses = []
    for given in ([one], [one, {**other, "weight": 0.0}], [one, other, other, other], [one, {**other, "weight": 3.0}]):
        seed_everything(0, verbose=False)
        seen = Losses()
        data = PreferenceData(write(tmp_path / "t.jsonl", given), batch_size=4)
        trainer(tmp_path, seen).fit(build(BradleyTerry, sft=1.0), data)
        losses.append(seen.train[0])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and losses[2] == pytest.approx(losses[3], abs=1e-5)
    assert abs(losses[0] - losses[2]) > 1e-3


class Steps(Callback):
    """Keeps the learning rate of each optimizer step, and the gradient norms as they were and as they were logged."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.norms: list[float] = []

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: torch.optim.Optimizer) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])
        self.norms.append(float(torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm()))


@pytest.mark.parametrize("name", ["cosine", "linear", "constant_with_warmup"])
def test_a_single_step_is_no_warm_up(name: Any, tmp_path: Path) -> None:
    steps = Steps()
    data = PreferenceData(write(tmp_path / "t.jsonl", rows(4)), batch_size=4)
    trainer(tmp_path, steps).fit(build(BradleyTerry, schedule=Schedule(name, 0.1)), data)
    assert steps.rates == [3e-3]


def test_the_logged_gradient_norm_is_of_the_step_it_is_logged_at(tmp_path: Path) -> None:
    steps, folder = Steps(), tmp_path / "logs"
    data = PreferenceData(write(tmp_path / "t.jsonl", rows(12)), batch_size=2)
    logger = CSVLogger(str(folder), name="", version="")
    trainer(tmp_path, steps, log_every_n_steps=3, logger=logger).fit(build(BradleyTerry), data)
    with (folder / "metrics.csv").open() as file:
        logged = [float(line["train/grad_norm"]) for line in csv.DictReader(file) if line["train/grad_norm"]]
    assert logged == pytest.approx([steps.norms[2], steps.norms[5]], rel=1e-5) and len(set(logged)) == 2


class Exports(Callback):
    """Notes whether a run got so far that it would export."""

    reached = False

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.reached = True


class Spoilt(BradleyTerry):
    """The loss of the third batch is not a number."""

    def training_loss(self, batch: TreeBatch) -> torch.Tensor:
        loss = super().training_loss(batch)
        return loss * math.nan if self.trainer.fit_loop.epoch_loop.batch_progress.total.ready == 3 else loss


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_loss_that_is_no_number_stops_the_run_before_its_step(accumulated: int, tmp_path: Path) -> None:
    """Four batches: the third is step 3 on its own, and the first half of step 2 where two make a step."""
    kept, exports = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=1, save_last=True), Exports()
    data = PreferenceData(write(tmp_path / "t.jsonl", rows(8)), batch_size=2)
    module = build(Spoilt)
    spoilt = 3 if accumulated == 1 else 2
    with pytest.raises(TrainingError, match=rf"the loss is not finite at step {spoilt}.*optimizer.lr"):
        trainer(tmp_path, kept, exports, accumulate_grad_batches=accumulated).fit(module, data)
    assert not exports.reached
    last = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)
    assert last["global_step"] == spoilt - 1
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, last["state_dict"][name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("every", [1, None])
def test_weights_that_are_no_numbers_are_neither_kept_nor_exported(every: int | None, tmp_path: Path) -> None:
    """The only step of a run makes them, behind the only loss."""
    kept, exports = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=every, save_last=True), Exports()
    data = PreferenceData(write(tmp_path / "t.jsonl", rows(2)), batch_size=2)
    with pytest.raises(TrainingError, match="the weights are not finite at step 1"):
        trainer(tmp_path, kept, exports).fit(build(BradleyTerry, optimizer=partial(torch.optim.SGD, lr=1e30)), data)
    assert not exports.reached and not list(tmp_path.rglob("*.ckpt"))


def test_gradients_that_overflow_in_fp16_are_left_out_as_ever(tmp_path: Path) -> None:
    """The scale begins far too high: every step is left out, and halves it."""
    exports, module = Exports(), build(BradleyTerry)
    module.configure_model()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**60))
    data = PreferenceData(write(tmp_path / "t.jsonl", rows(4)), batch_size=2)
    trainer(tmp_path, exports, plugins=[plugin]).fit(module, data)
    assert exports.reached and plugin.scaler is not None and plugin.scaler.get_scale() == 2.0**58
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items() if not name.startswith("metrics"))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_a_precision_of_everything_is_refused(precision: Any, tmp_path: Path) -> None:
    path, module = write(tmp_path / "t.jsonl", rows(2)), build(BradleyTerry)
    data = PreferenceData(path, val=path)
    for stage in ("fit", "validate"):
        with pytest.raises(ConfigError, match=f"precision {precision} is none of 32-true.*--model.backbone.dtype bfloat16"):
            getattr(trainer(tmp_path, precision=precision), stage)(module, data)
    assert not hasattr(module, "backbone"), "said before it is built"


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", rows(2))
    for none in (0, 0.0):
        run, module, data = trainer(tmp_path, limit_train_batches=none), build(BradleyTerry), PreferenceData(path, val=path)
        with pytest.raises(ConfigError, match="limit_train_batches is 0"):
            run.fit(module, data)
        assert "val/loss" in run.validate(module, data, verbose=False)[0], "which is no matter there"


def test_epochs_may_be_cut_short(tmp_path: Path) -> None:
    """Of 6 batches each epoch takes 4: 12 steps, and each epoch begins with an order of its own."""
    seen = Losses()
    data = PreferenceData(write(tmp_path / "t.jsonl", rows(12)), batch_size=2)
    trainer(tmp_path, seen, max_epochs=3, limit_train_batches=4).fit(build(BradleyTerry), data)
    assert len(seen.train) == 12


def test_sft_with_a_frozen_backbone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frozen"):
        build(BradleyTerry, backbone=partial(tiny, frozen=True), sft=0.1).configure_model()


def test_pair_answers_must_be_single_tokens() -> None:
    with pytest.raises(ConfigError, match="tokens for this tokenizer"):
        build(PairPreference, head=partial(PairHead, readout="tokens", answers=("First", "B"))).configure_model()


def test_the_tokens_readout_begins_as_a_difference_of_logits(tmp_path: Path) -> None:
    """Granite divides what its output layer gives."""
    tokenizer = load_tokenizer("bundled:tiny-llama")
    config = GraniteConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        initializer_range=0.2, logits_scaling=8.0,
    )  # fmt: skip
    GraniteForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    module = build(PairPreference, backbone=partial(Backbone, str(tmp_path)), head=partial(PairHead, readout="tokens"))
    module.configure_model()
    ids = torch.arange(3, 9)[None]
    first, second = (tokenizer.encode(answer, add_special_tokens=False)[0] for answer in cast(PairHead, module.head).answers)
    with torch.no_grad():
        logits = module.backbone.model(ids).logits[0]
        read = module.backbone.transformer(input_ids=ids).last_hidden_state[0]
        found = module.head.embed(read)[:, 0]
    torch.testing.assert_close(found, logits[:, first] - logits[:, second], atol=1e-6, rtol=1e-5)


def test_centring_needs_rewards_that_no_prompt_weighs() -> None:
    """Said while the model is built, not in its first step."""
    head = partial(ObjectivesHead, objectives=["kind", "honest"], layers=["linear 2"], gate=["linear 2"])
    with pytest.raises(ConfigError, match="centre needs one reward per response"):
        build(BradleyTerry, head=head, centre=0.1).configure_model()
    build(BradleyTerry, head=partial(head, objective="kind"), centre=0.1).configure_model()


def test_centring_adds_its_square(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", rows(3))
    results = []
    for coefficient in (0.0, 1.0):
        seed_everything(3, verbose=False)
        module = build(BradleyTerry, centre=coefficient)
        module.configure_model()
        torch.nn.init.normal_(module.head.value_head.weight)  # type: ignore[union-attr, arg-type]
        results.append(trainer(tmp_path).validate(module, PreferenceData(val=path), verbose=False)[0]["val/loss"])
        rewards = []
        for batch in module.trainer.val_dataloaders:
            with torch.no_grad():
                rewards.append(module.embeddings(module.hidden(batch), batch)[0][batch.pairs, 0].sum(1))
    assert results[1] - results[0] == pytest.approx(float(torch.cat(rewards).square().mean()), rel=1e-4)
    assert COMPARISONS
