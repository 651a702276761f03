"""The policy's log-probabilities, its reference, and its loss, against a plain reading of each response on its own."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from conftest import FAMILIES, encoder
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from prefrep.callbacks.rounds import RoundCallback
from prefrep.callbacks.throughput import Throughput
from prefrep.data.encode import pad_id
from prefrep.data.round_batch import RoundBatch, Sample
from prefrep.data.trees import Datum, collate
from prefrep.errors import ConfigError
from prefrep.modules import GPO, Schedule
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA
from prefrep.nn.objectives import GPOObjective
from prefrep.records import Message, RankedResponses

RESPONSES = [["7", "Sure, it is 11.", "Sure, it is 12"], ["", "Hello, hello there", "Hello"]]
SURPLUS = torch.tensor([0, 1, 0, 0, 1, 0])


def policy(path: str = "bundled:tiny-llama", **options: Any) -> GPO:
    module = GPO(lambda: Backbone(path, **options), lambda: GPOObjective(0.5, select="all"), chunk=5)
    module.configure_model()
    return module.eval()


def data(path: str) -> list[Datum]:
    records = [
        RankedResponses((Message("user", prompt),), tuple((Message("assistant", text),) for text in texts))
        for prompt, texts in zip(["Name a prime", "Say hi"], RESPONSES, strict=True)
    ]
    return [datum for _, datum in encoder(path).encode_tables(records) if datum is not None]


def alone(module: GPO, datum: Datum, index: int, surplus: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies of the tokens of one response, from the plain model on the plain sequence."""
    tree = datum.trees[0]
    ids = torch.from_numpy(tree.sequences[index]).long()[None]
    logits = module.backbone.model(input_ids=ids).logits[0].float()
    logprobs = logits[tree.prompt - 1 : -1].log_softmax(-1)
    chosen = logprobs.gather(-1, ids[0, tree.prompt :, None])[:, 0]
    count = len(chosen) - surplus
    return chosen[:count], -(logprobs.exp() * logprobs).sum(-1)[:count]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("layout", ["trees", "padded"])
def test_log_probabilities_are_those_of_each_response_alone(name: str, layout: str) -> None:
    path = f"bundled:tiny-{name}"
    module, records = policy(path), data(path)
    module.supports_trees()
    trees = collate(records, pad_id(module.tokenizer), layout, row_tokens=64)  # type: ignore[arg-type]
    with torch.no_grad():
        logprobs = module.response_logprobs(trees, SURPLUS)
        measured, counted, entropies = module.measure(trees, SURPLUS)
        for m in range(6):
            expected, entropy = alone(module, records[m // 3], m % 3, int(SURPLUS[m]))
            assert int(counted[m]) == len(expected)
            torch.testing.assert_close(logprobs[m], expected.sum(), atol=1e-4, rtol=1e-5)
            torch.testing.assert_close(entropies[m], entropy.mean(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(measured, logprobs, atol=1e-5, rtol=1e-6)


def batch(module: GPO, weight: Tensor) -> RoundBatch:
    trees = collate(data("bundled:tiny-llama"), pad_id(module.tokenizer))
    table = torch.tensor([[[0.0, 1.0, 2.0], [-1.0, 0.0, 3.0], [-2.0, -3.0, 0.0]], [[0.0, -4.0, 0.0], [4.0, 0.0, 1.0], [0.0, -1.0, 0.0]]])
    with torch.no_grad():
        reference, lengths, _ = (values.view(2, 3) for values in module.measure(trees, SURPLUS))
    whole = torch.arange(3).expand(2, 3)
    return RoundBatch(trees, SURPLUS, whole, table, torch.zeros(2, 3, 0), reference, torch.full((2, 3), torch.nan), lengths, weight)


def silent(module: GPO) -> dict[str, float]:
    """Lets a step run without a trainer; returns what it logs."""
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.__setitem__(name, float(value))  # type: ignore[method-assign, assignment]
    module._trainer = type("Trainer", (), {"world_size": 1})()
    return logged


def test_the_loss_at_the_reference_is_the_mean_squared_target() -> None:
    module = policy()
    logged = silent(module)
    both = batch(module, torch.ones(2))
    targets = both.table.mean(-1) / 0.5
    loss = module.training_step(both)
    torch.testing.assert_close(loss, (targets**2).mean())
    assert logged["train/kl_reference"] == pytest.approx(0, abs=1e-5) and "train/log_ratio_initial" not in logged
    first = module.training_step(batch(module, torch.tensor([1.0, 0.0])))  # the second fills up a batch and does not count
    torch.testing.assert_close(first, (targets[0] ** 2).mean())


def test_a_step_reads_the_responses_that_its_loss_depends_on() -> None:
    """Best and worst of three: the same loss and the same gradients as from reading all, with a third of the responses left out."""
    module = policy()
    module.objective = GPOObjective(0.5)
    logged = silent(module)
    whole = batch(module, torch.ones(2))
    selected = module.selected(whole.judged)
    assert selected.tolist() == [[0, 2], [1, 0]], "row means of the tables: 1, 2/3, -5/3 and -4/3, 5/3, -1/3"
    reference = whole.reference
    read = torch.stack([module.response_logprobs(whole.trees, SURPLUS).view(2, 3)[n, each] for n, each in enumerate(selected)])
    expected = ((read - reference.gather(-1, selected) - (whole.table.mean(-1) / 0.5).gather(-1, selected)) ** 2).mean()
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(expected, parameters)
    samples = [Sample(datum, tuple(own)) for datum, own in zip(data("bundled:tiny-llama"), SURPLUS.view(2, 3).tolist(), strict=True)]
    some = [sample.some(places) for sample, places in zip(samples, selected.tolist(), strict=True)]
    trees = collate([sample.datum for sample in some], pad_id(module.tokenizer))
    surplus = torch.tensor([each for sample in some for each in sample.surplus])
    loss = module.training_step(replace(whole, trees=trees, surplus=surplus, selected=selected))
    torch.testing.assert_close(loss, expected)
    for found, own in zip(torch.autograd.grad(loss, parameters), gradients, strict=True):
        torch.testing.assert_close(found, own, atol=1e-4, rtol=1e-4)
    assert trees.tokens < whole.tokens and "train/kl_reference" not in logged, "the best and the worst are no sample of the policy"


def test_steps_fit_the_log_ratios_to_the_targets() -> None:
    torch.manual_seed(0)
    module = policy(lora=LoRA(rank=8, alpha=16.0))
    silent(module)
    fixed = batch(module, torch.ones(2))
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.01)
    before = float(module.training_step(fixed))
    for _ in range(80):
        optimizer.zero_grad()
        module.training_step(fixed).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(module.training_step(fixed)) < 0.05 * before


def test_the_initial_policy_is_the_base_without_adapters() -> None:
    torch.manual_seed(0)
    plain, adapted = policy(), policy(lora=LoRA(rank=2))
    trees = collate(data("bundled:tiny-llama"), pad_id(plain.tokenizer))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        expected = plain.response_logprobs(trees, SURPLUS)
        moved = adapted.response_logprobs(trees, SURPLUS)
        with adapted.initial_policy():
            initial = adapted.response_logprobs(trees, SURPLUS)
        again = adapted.response_logprobs(trees, SURPLUS)
    torch.testing.assert_close(initial, expected)
    assert torch.equal(again, moved) and not torch.allclose(moved, initial, atol=0.1)
    assert all(p.requires_grad for n, p in adapted.named_parameters() if "lora_" in n), "adapters still learn"


def test_after_full_fine_tuning_the_initial_policy_is_read_again() -> None:
    module = policy()
    trees = collate(data("bundled:tiny-llama"), pad_id(module.tokenizer))
    with torch.no_grad():
        expected = module.response_logprobs(trees, SURPLUS)
        own = module.backbone
        for parameter in own.parameters():
            parameter.add_(0.1)
        with module.initial_policy():
            initial = module.response_logprobs(trees, SURPLUS)
    torch.testing.assert_close(initial, expected)
    assert module.backbone is own and sum("backbone" in name for name, _ in module.named_children()) == 1


def test_a_digest_tells_weights_apart() -> None:
    torch.manual_seed(0)
    module = policy(lora=LoRA(rank=2))
    before = module.weights_digest()
    assert module.weights_digest() == before
    with torch.no_grad():
        next(p for p in module.parameters() if p.requires_grad).add_(1e-3)
    assert module.weights_digest() != before


def test_a_policy_must_learn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frozen"):
        policy(frozen=True)
    with pytest.raises(ConfigError, match="chunk"):
        GPO(chunk=0)
    # Its output layer learns too: logits are what it is trained through.
    module = policy("bundled:tiny-gpt_neox")
    assert module.backbone.model.get_output_embeddings().weight.requires_grad


@pytest.mark.parametrize(("total", "per_round"), [(30, 10), (25, 10), (6, 6)])
def test_the_schedule_runs_anew_in_every_round(total: int, per_round: int) -> None:
    """100 batches a round, 10 to a step, and as many steps as `trainer.max_steps` leaves: it does not stretch or shrink a round."""
    module = GPO(lambda: Backbone("bundled:tiny-llama", lora=LoRA(rank=1)), schedule=Schedule("linear", 0.2))
    module.configure_model()
    trainer = {"estimated_stepping_batches": total, "num_training_batches": 100, "accumulate_grad_batches": 10}
    module._trainer = cast(Any, SimpleNamespace(**trainer))
    made = module.configure_optimizers()
    optimizer, scheduler, rates = made["optimizer"], made["lr_scheduler"]["scheduler"], []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"] / 5e-7)
        optimizer.step()
        scheduler.step()
    warmup = math.ceil(0.2 * per_round)
    one = [min(step / warmup, (per_round - step) / (per_round - warmup)) for step in range(per_round)]
    assert rates == pytest.approx((one * 3)[:total])


def test_a_round_is_reported_once_also_by_a_resumed_run() -> None:
    class Quiet(RoundCallback):
        def act(self, *_: Any) -> None: ...

    trainer = cast(Any, SimpleNamespace(is_global_zero=True))
    before, after = Quiet(), Quiet()
    assert before.first_time(trainer, 1) and not before.first_time(trainer, 1)
    after.load_state_dict(before.state_dict())
    assert not after.first_time(trainer, 1) and after.first_time(trainer, 2)


def test_time_between_rounds_is_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of 60 tokens in the second after an hour of sampling: 60 tokens per second."""
    clock, logged = [0.0], dict[str, float]()
    monkeypatch.setattr("prefrep.callbacks.throughput.time.perf_counter", lambda: clock[0])
    callback, some = Throughput(), cast(Any, _Batch(60))
    trainer, module = cast(Any, SimpleNamespace(accumulate_grad_batches=1, log_every_n_steps=2)), cast(Any, SimpleNamespace())
    module.log_dict = lambda values, **_: logged.update(values)
    callback.on_train_batch_start(trainer, module, some, 0)
    callback.on_train_batch_end(trainer, module, None, some, 0)
    callback.on_train_epoch_end(trainer, module)
    clock[0] = 3600.0
    callback.on_train_batch_start(trainer, module, some, 1)
    clock[0] = 3601.0
    callback.on_train_batch_end(trainer, module, None, some, 1)
    assert logged == {"train/tokens_per_s": 60.0, "train/prompts_per_s": 2.0}


class _Batch:
    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return 2


def test_a_step_with_adapters_multiplies_nothing_for_the_base_weights() -> None:
    """Products, counted: two per token and weight of the base (values, gradients of inputs), three of adapters, two of the output layer per
    token of a response. What the first layer reads needs no gradient.
    """
    module = policy(lora=LoRA(rank=4)).train()
    silent(module)
    both = batch(module, torch.ones(2))
    with FlopCounterMode(display=False) as counter:
        module.training_step(both).backward()
    counts = counter.get_flop_counts()["Global"]
    read, written = both.trees.ids.numel(), int(both.lengths.sum())
    weights = {name: p.numel() for name, p in module.backbone.transformer.named_parameters() if p.dim() == 2 and "embed" not in name}
    base = sum(size for name, size in weights.items() if "lora_" not in name)
    adapters = sum(weights.values()) - base
    first = [(name, size) for name, size in weights.items() if "layers.0." in name and any(f".{each}_proj" in name for each in "qkv")]
    unread = sum(size for name, size in first if "lora_B" not in name)
    output = module.backbone.model.get_output_embeddings().weight.numel()
    expected = 2 * read * (2 * base + 3 * adapters - unread) + 2 * output * (2 * written + 1)  # and a row that asks what is trained
    assert sum(counts[op] for op in (torch.ops.aten.mm, torch.ops.aten.addmm) if op in counts) == expected
