"""Policies on given responses: log-probabilities, their reference and the loss, against a plain reading of each response on its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, comparison
from lightning.pytorch import Trainer
from torch import Tensor

from prefrep.data.across import Across
from prefrep.data.encode import EncodeConfig, Encoder, pad_id
from prefrep.data.features import Features
from prefrep.data.offline import PolicyReading, PolicyTexts
from prefrep.data.trees import Datum, TreeBatch
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.modules import DirectAlignment
from prefrep.nn.alignment import AlignmentLoss, DPOLoss, IPOLoss, KTOLoss, SimPOLoss
from prefrep.nn.backbone import Backbone
from prefrep.nn.loading import load_tokenizer
from prefrep.nn.lora import LoRA
from prefrep.records import DESIRABLE, Comparison, Message, RankedResponses, Record

LLAMA = "bundled:tiny-llama"
PAIRS = [
    comparison("Name a prime", "7", "9"),
    comparison("Say hello", "Hello, friend!", "Hello, fiend! Go away."),
    comparison("Why?", "Because it rains.", "No.", probability=0.75),
]


def conversation(prompt: str, response: str) -> tuple[Message, ...]:
    return Message("user", prompt), Message("assistant", response)


ACROSS = Comparison((), conversation("Name a prime", "7"), conversation("Why?", "No."))


def module(loss: Callable[[], AlignmentLoss] = DPOLoss, path: str = LLAMA, across: Across = "refuse", **options: Any) -> DirectAlignment:
    made = DirectAlignment(lambda: Backbone(path, **options), loss, across)
    made._trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    made.configure_model()
    made.log = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    return made.eval()


def encoder(path: str = LLAMA, across: Across = "refuse", template: Any = "auto", unpaired: bool = False) -> Encoder:
    return Encoder(load_tokenizer(path), EncodeConfig(template), "single", True, unpaired=unpaired, given=across)


def texts(records: Sequence[Record], path: str = LLAMA, template: Any = "auto", unpaired: bool = False, **reading: Any) -> PolicyTexts:
    how = PolicyReading(**reading)
    made = encoder(path, how.across, template, unpaired)
    data = [datum for _, datum in made.encode(records) if datum is not None]
    return PolicyTexts(data, how, made.end_ids(), 2048, pad_id(made.tokenizer), "trees", 64)


def measured(policy: DirectAlignment, read: PolicyTexts, folder: Path) -> Features:
    reference = Features(folder, {"a": "test"})
    with policy.initial_logprobs() as (_, function):
        read.measure(reference, function, "test")
    return reference


def every(read: PolicyTexts) -> list[tuple[int, bool]]:
    return [(index, True) for index in range(len(read))]


@torch.no_grad()
def alone(policy: DirectAlignment, messages: tuple[Message, ...], start: int | None = None) -> float:
    """log pi of the last message by the plain model on the plain text, with the end that the template writes; or of all but `start`."""
    tokenizer = policy.tokenizer
    whole = tokenizer.apply_chat_template([m.as_dict() for m in messages], tokenize=False).rstrip()
    before = tokenizer.apply_chat_template([m.as_dict() for m in messages[:-1]], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    first = len(tokenizer(before, add_special_tokens=False)["input_ids"]) if start is None else start
    logits = policy.backbone.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return float(sum(logits[at - 1, ids[at]] for at in range(first, len(ids))))


@pytest.mark.parametrize("name", FAMILIES)
def test_responses_are_read_as_a_policy_samples_them(name: str, tmp_path: Path) -> None:
    """log pi_0 on disk is that of the plain model: the prompt in front of the response, its end once, nothing behind it."""
    policy = module(path=f"bundled:tiny-{name}")
    read = texts(PAIRS, f"bundled:tiny-{name}")
    batch = read.batch(every(read), measured(policy, read, tmp_path))
    assert batch.reference is not None and policy.tokenizer.chat_template
    expected = [alone(policy, pair.prompt + side) for pair in PAIRS for side in (pair.chosen, pair.rejected)]
    np.testing.assert_allclose(batch.reference, expected, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_the_loss_is_log_2_before_the_first_step(template: str, tmp_path: Path) -> None:
    policy = module(lora=LoRA(rank=2))
    read = texts(PAIRS, template=template)
    loss = policy.training_step(read.batch(every(read), measured(policy, read, tmp_path)))
    assert float(loss.detach()) == pytest.approx(np.log(2), abs=1e-5)


def test_a_transcript_counts_the_space_that_a_policy_samples() -> None:
    read = texts(PAIRS, template="plain")
    datum, made = read.datum(0), encoder(template="plain")
    tree = datum.trees[0]
    assert made.tokenizer.decode(tree.sequences[0][tree.prompt :], skip_special_tokens=True) == " 7"
    np.testing.assert_array_equal(made.prompts([PAIRS[0].prompt])[0], tree.sequences[0][: tree.prompt])


@pytest.mark.parametrize("lora", [LoRA(rank=4), None])
def test_losses_after_a_move_are_those_of_plain_readings(lora: LoRA | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy, plain = module(lora=lora), module()
    read = texts(PAIRS)
    reference = measured(policy, read, tmp_path)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name or (lora is None and "mlp" in name):
                parameter.add_(torch.randn_like(parameter) * 0.05)
    expected = []
    for pair in PAIRS:
        now, before = ([alone(m, pair.prompt + side) for side in (pair.chosen, pair.rejected)] for m in (policy, plain))
        odds = torch.tensor(0.1 * ((now[0] - before[0]) - (now[1] - before[1])))
        expected.append(-pair.probability * odds.sigmoid().log() - (1 - pair.probability) * (-odds).sigmoid().log())
    loss = policy.training_step(read.batch(every(read), reference))
    loss = loss.detach()
    assert abs(float(loss) - np.log(2)) > 0.01, "the policy has moved"
    assert float(loss.detach()) == pytest.approx(float(torch.stack(expected).mean()), abs=2e-4)


def test_pi_0_is_measured_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moved policy of the same base, another loss: the values on disk serve; an interrupted measurement ends with the same bytes."""
    monkeypatch.setattr("prefrep.data.offline.SEGMENT_SECONDS", -1.0)  # every group is kept at once
    policy, read = module(lora=LoRA(rank=2)), texts([comparison(f"Name {i}", f"{i}", "no") for i in range(12)])
    calls: list[int] = []

    def counted(function: Callable[[Any], Tensor], stop: int) -> Callable[[Any], Tensor]:
        def wrapped(batch: Any) -> Tensor:
            calls.append(len(batch))
            if len(calls) == stop:
                raise KeyboardInterrupt
            return function(batch)

        return wrapped

    with policy.initial_logprobs() as (_, function):
        whole = Features(tmp_path / "whole", {"a": "b"})
        read.measure(whole, counted(function, 0), "test", batch_tokens=64)
        groups = len(calls)
        assert groups > 2
        read.measure(whole, counted(function, 0), "test", batch_tokens=64)
        assert len(calls) == groups, "nothing is read again"
        cut = Features(tmp_path / "cut", {"a": "b"})
        with pytest.raises(KeyboardInterrupt):
            read.measure(cut, counted(function, len(calls) + 2), "test", batch_tokens=64)
        assert 0 < len(cut) < len(whole)
        read.measure(cut, counted(function, 0), "test", batch_tokens=64)
    first, second = (read.batch(every(read), each).reference for each in (whole, cut))
    assert first is not None and second is not None and torch.equal(first, second)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_pi_0_of_a_response_is_measured_in_its_first_group(order: tuple[int, int], tmp_path: Path) -> None:
    """With one process or two, whichever writes first. Values here tell what was read together, and records share nothing."""
    rubric = "Prefer what is true to what is long. " * 3
    pairs = [comparison(f"{rubric}Name {i}", f"{i}", "no") for i in (0, 1, 2, 0, 3, 1, 4, 2)]
    read = texts(pairs)
    tokens: list[int] = []

    def together(batch: TreeBatch) -> Tensor:
        tokens.append(batch.tokens)
        return batch.ids.sum() + torch.arange(len(batch.end))

    one = Features(tmp_path / "one", {"a": "b"})
    read.measure(one, together, "test", batch_tokens=400)
    assert len(tokens) > 2 and sum(tokens) > 2 * read.batch(every(read)).tokens
    ranks = [Features(tmp_path / "two", {"a": "b"}) for _ in order]
    for rank in order:
        read.measure(ranks[rank], together, "test", batch_tokens=400, share=(rank, 2))
    first, second = (read.batch(every(read), each).reference for each in (one, Features(tmp_path / "two", {"a": "b"})))
    assert first is not None and second is not None and torch.equal(first, second)


def test_full_fine_tuning_reloads_pi_0() -> None:
    policy, read = module(), texts(PAIRS)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1)
    moved = policy.response_logprobs(read.batch(every(read)), torch.zeros(6, dtype=torch.long))
    with policy.initial_logprobs() as (backbone, _):
        assert backbone is not None and policy.backbone is backbone
        before = policy.response_logprobs(read.batch(every(read)), torch.zeros(6, dtype=torch.long))
    assert not policy._initial and not torch.allclose(moved, before, atol=0.1)


# ---- single responses


def test_kto_measures_its_reference_point_on_responses_to_other_prompts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    records = [
        RankedResponses((Message("user", "Say hi"),), ((Message("assistant", "hi"),),), (1.0,), criterion=DESIRABLE),
        RankedResponses((Message("user", "Say ho"),), ((Message("assistant", "no, never"),),), (0.0,), criterion=DESIRABLE),
        PAIRS[0],
    ]
    policy = module(lambda: KTOLoss(0.3, 1.0, 0.5), lora=LoRA(rank=4))
    plain = module()
    read = texts(records, unpaired=True, mismatched=True)
    reference = measured(policy, read, tmp_path)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)

    def ratio(prompt: str, response: str) -> float:
        return alone(policy, conversation(prompt, response)) - alone(plain, conversation(prompt, response))

    others = [ratio("Say hi", "no, never"), ratio("Say ho", "7"), ratio("Name a prime", "hi")]
    divergence = max(0.0, sum(others) / 3)
    own = [("Say hi", "hi", 1.0), ("Say ho", "no, never", -0.5), ("Name a prime", "7", 1.0), ("Name a prime", "9", -0.5)]
    losses = [abs(w) * (1 - 1 / (1 + np.exp(-np.sign(w) * 0.3 * (ratio(x, y) - divergence)))) for x, y, w in own]
    expected = (losses[0] + losses[1] + (losses[2] + losses[3]) / 2) / 3
    batch = read.batch(every(read), reference)
    assert float(policy.training_step(batch).detach()) == pytest.approx(expected, abs=2e-4)
    _, second, found = policy._responses(batch)
    assert float(found) == pytest.approx(divergence, abs=2e-3) and second.lengths.tolist()[:2] == [0, 0]
    # A record that fills up a batch is no part of the estimate.
    _, _, some = policy._responses(read.batch([(0, True), (1, True), (2, False)], reference))
    assert float(some) == pytest.approx(max(0.0, sum(others[:2]) / 2), abs=2e-3)


def test_kto_needs_two_prompts() -> None:
    with pytest.raises(ConfigError, match="one prompt"):
        texts(PAIRS[:1], mismatched=True)


# ---- pairs across prompts


def test_pairs_across_prompts_are_refused_unless_they_are_asked_for() -> None:
    with pytest.raises(RecordError, match="different prompts.*--model.across"):
        list(encoder().encode([ACROSS]))
    with pytest.raises(ConfigError, match="across"):
        DirectAlignment(loss=KTOLoss, across="joint")


@pytest.mark.parametrize("loss", [DPOLoss, IPOLoss, SimPOLoss])
@pytest.mark.parametrize("across", ["joint", "conditional"])
def test_equal_prompts_are_the_plain_loss_to_the_last_bit(loss: type[AlignmentLoss], across: Across, tmp_path: Path) -> None:
    """Also where a row spells the prompt out in both conversations."""
    torch.manual_seed(0)
    plain, joint = (
        texts(PAIRS),
        texts([Comparison((), p.prompt + p.chosen, p.prompt + p.rejected, p.probability) for p in PAIRS], across=across),
    )
    policy = module(loss, across=across, lora=LoRA(rank=4))
    first, second = (measured(policy, read, tmp_path / str(i)) for i, read in enumerate((plain, joint)))
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    losses = [policy.training_step(read.batch(every(read), at)) for read, at in ((plain, first), (joint, second))]
    assert losses[0] == losses[1] and abs(float(losses[0].detach()) - np.log(2)) > 1e-3
    gradients = [torch.autograd.grad(each, [p for p in policy.parameters() if p.requires_grad], retain_graph=True) for each in losses]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("across", ["joint", "conditional"])
def test_a_pair_across_prompts_compares_each_with_its_own_prompt(across: Across, tmp_path: Path) -> None:
    torch.manual_seed(0)
    policy, plain = module(across=across, lora=LoRA(rank=4)), module()
    read = texts([ACROSS, PAIRS[1]], across=across)
    assert [len(read.datum(i).trees) for i in (0, 1)] == [2, 1]
    reference = measured(policy, read, tmp_path)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    start = 1 if across == "joint" else None
    ratios = [alone(policy, side, start) - alone(plain, side, start) for side in (ACROSS.chosen, ACROSS.rejected)]
    with torch.no_grad():
        odds = policy(read.batch(every(read), reference))
    assert float(odds[0]) == pytest.approx(0.1 * (ratios[0] - ratios[1]), abs=1e-3)


# ---- what is refused


def test_margins_are_read_or_refused(tmp_path: Path) -> None:
    records = [comparison("Name a prime", "7", "9", margin=1.0)]
    read = texts(records)
    policy = module()
    reference = measured(policy, read, tmp_path)
    loss = policy.training_step(read.batch(every(read), reference))
    assert float(loss.detach()) == pytest.approx(np.log1p(np.e), abs=1e-4), "log-odds 0, of which 1 is subtracted"
    with pytest.raises(DataError, match="margins, which SimPOLoss does not read"):
        module(SimPOLoss).training_step(read.batch(every(read)))


def test_a_frozen_backbone_is_refused() -> None:
    with pytest.raises(ConfigError, match="DirectAlignment trains its backbone"):
        module(frozen=True)


def test_a_prompt_is_read_once_for_all_its_responses() -> None:
    """K ranked responses to a prompt are read with one copy of the prompt, whatever the number of pairs."""
    ranked = RankedResponses((Message("user", "Say " + "x" * 50),), tuple((Message("assistant", t),) for t in "abc"), (2.0, 1.0, 0.0))
    read = texts([ranked])
    datum: Datum = read.datum(0)
    assert len(datum.trees) == 1 and len(datum.pairs) == 3
    assert read.batch(every(read)).tokens == datum.size < sum(len(ids) for ids in datum.trees[0].sequences) / 2
