"""Trees of steps: hand-made ones as pairs and values, the loss of values, and who refuses it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import encoder
from lightning.pytorch import Trainer

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checks are no part of the package
from benchmarks.step_checks import first_wrong
from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.data.formats import detect, to_record
from prefrep.data.sources import Source, read
from prefrep.data.trees import NOBODY, collate
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.evaluation.steps import first_wrong as first_wrong_of
from prefrep.labels import Steps, Work
from prefrep.labels.rows import read_pairs
from prefrep.labels.run import run
from prefrep.modules import BradleyTerry, GeneralPreference, HybridPreference, PairPreference, PreferenceModule
from prefrep.nn.backbone import Backbone
from prefrep.nn.losses import ValueLoss
from prefrep.records import RankedResponses

# 2 + 3 + 4: three first steps, two steps after the first of them, and one alone after the second.
TREE: list[tuple[list[str] | str, str, float]] = [
    ([], "2 + 3 = 5", 0.9),
    ([], "2 + 3 = 6", 0.1),
    (["2 + 3 = 5"], "5 + 4 = 9", 1.0),
    ("", "3 + 4 = 7", 0.85),
    ("2 + 3 = 5", "5 + 4 = 8", 0.0),
    (["2 + 3 = 6"], "6 + 4 = 10", 0.1),
]


def tree(path: Path, rows: list[tuple[list[str] | str, str, float]] = TREE) -> str:
    keys = ("prefix", "step", "Q")
    path.write_text("".join(json.dumps({"prompt": "2 + 3 + 4?", **dict(zip(keys, row, strict=True))}) + "\n" for row in rows))
    return str(path)


def test_siblings_share_prompt_and_prefix(tmp_path: Path) -> None:
    """A prefix as text or as a list is the same one; siblings need not be neighbours in the file."""
    found = [(record.scores, [r[0].content for r in record.responses]) for record in read(Source(tree(tmp_path / "t.jsonl")))]  # type: ignore[union-attr]
    assert found == [
        ((0.9, 0.1, 0.85), ["2 + 3 = 5", "2 + 3 = 6", "3 + 4 = 7"]),
        ((1.0, 0.0), ["2 + 3 = 5\n5 + 4 = 9", "2 + 3 = 5\n5 + 4 = 8"]),
        ((0.1,), ["2 + 3 = 6\n6 + 4 = 10"]),
    ]


def test_pairs_of_steps(tmp_path: Path) -> None:
    """Those that are 0.1 apart or more, with margins 4 dQ; a step without siblings has none; the file is read back with its labels."""
    found = Steps(gap=0.1).apply(read_pairs(Source(tree(tmp_path / "t.jsonl"))), Work("none", tmp_path))
    pairs = [(each.comparison.chosen[0].content[-9:], each.comparison.rejected[0].content[-9:]) for each in found.pairs]
    assert pairs == [("2 + 3 = 5", "2 + 3 = 6"), ("3 + 4 = 7", "2 + 3 = 6"), ("5 + 4 = 9", "5 + 4 = 8")]
    assert [each.comparison.margin for each in found.pairs] == pytest.approx([3.2, 3.0, 4.0])
    assert found.numbers == {"pairs of steps": 3, "left out, values too close": 1}
    assert len(Steps(gap=0.0).apply(read_pairs(Source(tree(tmp_path / "t.jsonl"))), Work("none", tmp_path)).pairs) == 4
    out = tmp_path / "pairs.jsonl"
    run(Source(tree(tmp_path / "t.jsonl")), out, [Steps()], "none")
    again = [each.comparison for each in read_pairs(Source(str(out)))]
    for before, after in zip(found.pairs, again, strict=True):
        assert (before.comparison.prompt, before.comparison.chosen, before.comparison.margin) == (after.prompt, after.chosen, after.margin)
        assert after.tags == {"prefix": "" if len(after.chosen[0].content) < 10 else "2 + 3 = 5"}


def test_the_prefix_is_shared_token_for_token(tmp_path: Path) -> None:
    """Up to it, and the first token that differs lies in the step."""
    reads = encoder()
    pairs = [each.comparison for each in read_pairs(Source(tree(tmp_path / "t.jsonl"))) if each.comparison.tags["prefix"]]
    for pair, datum in reads.encode(pairs):
        assert datum is not None
        (found,) = datum.trees
        shared = reads.tokenizer.decode(found.sequences[0][: found.shared])
        assert np.array_equal(*(sequence[: found.shared] for sequence in found.sequences))
        assert pair.prompt[0].content in shared and pair.tags["prefix"] in shared


def test_steps_need_trees(tmp_path: Path) -> None:
    """Pairs without values, and numbers out of range, are named."""
    plain = tmp_path / "plain.jsonl"
    plain.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n")
    with pytest.raises(DataError, match=r"plain.jsonl:1: no step of a tree; Steps needs rows"):
        Steps().apply(read_pairs(Source(str(plain))), Work("none", tmp_path))
    for options in ({"gap": 1.1}, {"gap": -0.1}, {"scale": -1.0}):
        with pytest.raises(ConfigError, match="Steps.gap must lie"):
            Steps(**options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Q": -1}, r"'Q' must lie in \[0, 1\], found -1; values in \[-1, 1\] are written as"),
        ({"Q": "x"}, "'Q' must be a number"),
        ({"step": " "}, "'step' must be a list of steps, none of them empty"),
        ({"prefix": [1]}, "'prefix' must be a list of steps"),
    ],
)
def test_bad_steps(change: dict[str, Any], message: str) -> None:
    """Rows that are no step."""
    with pytest.raises(RecordError, match=message):
        to_record({"prompt": "p", "prefix": "", "step": "s", "Q": 0.5, **change}, "auto", "here:1")


def test_solutions_with_a_first_wrong_step() -> None:
    """Beginnings have the value 1 until then, and 0 from there on."""
    row: dict[str, Any] = {"prompt": "p", "steps": ["a", "b", "c"]}
    assert detect({**row, "first_wrong": None}, "here:1") == "first-wrong"
    for wrong, values in ((0, (0, 0, 0)), (2, (1, 1, 0)), (2.0, (1, 1, 0)), (None, (1, 1, 1))):
        record = cast(RankedResponses, to_record({**row, "first_wrong": wrong}, "auto", "here:1"))
        assert record.scores == values
        assert [response[0].content for response in record.responses] == ["a", "a\nb", "a\nb\nc"]
    for wrong in (3, -1, True, "b", 0.5):
        with pytest.raises(RecordError, match="'first_wrong' must be the index of a step, 0 to 2, or null"):
            to_record({**row, "first_wrong": wrong}, "auto", "here:1")


def test_processbench_and_stepwise_supervision() -> None:
    """Their columns say the same as `first-wrong`; labels of steps that are right behind a wrong one stay as they are."""
    ours = to_record({"prompt": "p", "steps": ["a", "b", "c"], "first_wrong": 1, "id": "gsm8k-7", "subset": "gsm8k"}, "auto", "here:1")
    row: dict[str, Any] = {"id": "gsm8k-7", "generator": "g", "problem": "p", "steps": ["a", "b", "c"], "final_answer_correct": False}
    assert to_record({**row, "label": 1}, "auto", "here:1") == ours
    for label, values in ((-1, (1, 1, 1)), (0, (0, 0, 0)), (2.0, (1, 1, 0))):
        assert cast(RankedResponses, to_record({**row, "label": label}, "auto", "here:1")).scores == values
    assert to_record({**row, "id": "7", "label": 1}, "auto", "here:1").subset == ""
    assert to_record({**row, "subset": "mine", "label": 1}, "auto", "here:1").subset == "mine"
    for label in (3, -2, True, "x", 0.5):
        with pytest.raises(RecordError, match="'label' must be the index of a step, 0 to 2, or -1 where none is wrong"):
            to_record({**row, "label": label}, "auto", "here:1")
    trl: dict[str, Any] = {"prompt": "p", "completions": ["a", "b", "c"]}
    assert detect({**trl, "labels": [True] * 3}, "here:1") == "stepwise"
    for labels, wrong in (([True, False, True], 1), ([True] * 3, 3), ([0, 1, 1], 0)):
        record = cast(RankedResponses, to_record({**trl, "labels": labels}, "auto", "here:1"))
        assert record.scores == tuple(map(float, labels)) and first_wrong_of(record) == wrong
        assert record.responses == cast(RankedResponses, ours).responses
    for bad in ([True], [True, False, 2], "yes", [True, False, None]):
        with pytest.raises(RecordError, match="'labels' must be true or false for each of the 3 'completions'"):
            to_record({**trl, "labels": bad}, "auto", "here:1")


def _module(kind: type[PreferenceModule], loss: ValueLoss) -> PreferenceModule:
    module = kind(lambda: Backbone("bundled:tiny-llama"), loss=lambda: loss)  # type: ignore[call-arg]
    module.configure_model()
    module.metrics.record = lambda *_: None  # type: ignore[method-assign]
    module.trainer = cast(Trainer, SimpleNamespace(world_size=1))
    return module


@pytest.mark.parametrize("layout", ["trees", "padded"])
def test_the_loss_is_that_of_values_and_pairs(layout: Any, tmp_path: Path) -> None:
    """Against loops over the steps of the tree, each read by itself; steps of one prefix weigh 1 together, and so do their pairs."""
    torch.manual_seed(0)
    module = _module(BradleyTerry, ValueLoss(tau=0.01, pairs=0.3))
    records = list(read(Source(tree(tmp_path / "t.jsonl"))))
    reads = Encoder(encoder().tokenizer, EncodeConfig(), "single", unpaired=True)
    data = [datum for _, datum in reads.encode(records) if datum]
    assert [datum.pairs[0][1] for datum in data] == [NOBODY] * 3
    total = weight = 0.0
    with torch.no_grad():
        for datum, record in zip(data, records, strict=True):
            scores = cast(RankedResponses, record).scores or ()
            batch = collate([datum], 0, "padded")
            rewards = module.embeddings(module.hidden(batch), batch)[0][:, 0].double() / 0.01
            for r, q in zip(rewards, scores, strict=True):
                total += (1 / (1 + (-r).exp()) - q) ** 2 / len(scores)
            pairs = [(i, j) for i in range(len(scores)) for j in range(len(scores)) if scores[i] > scores[j]]
            for i, j in pairs:
                total += 0.3 * max(0.0, 4 * (scores[i] - scores[j]) - (rewards[i] - rewards[j]).item()) / len(pairs)
            weight += 1 + bool(pairs)
        found = module.training_loss(collate(data, 0, layout))
    assert found.item() == pytest.approx(float(total / weight), rel=1e-4)


def test_exact_values_have_no_loss() -> None:
    """Log-odds of two probabilities differ by at least 4 times their difference."""
    q = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    loss, rewards = ValueLoss(), torch.logit(q)
    better, worse = (each.flatten() for each in torch.meshgrid(q, q, indexing="ij"))
    better, worse = better[better > worse], worse[better > worse]
    pairs = loss(torch.logit(better) - torch.logit(worse), torch.ones_like(better), 4 * (better - worse))
    assert loss.alone(rewards, q, torch.zeros_like(q)).abs().max() < 1e-12 and pairs.max() < 1e-12
    swapped = loss(torch.logit(worse) - torch.logit(better), torch.zeros_like(better), 4 * (better - worse))
    assert torch.allclose(pairs, swapped)
    assert loss(torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)).item() == 2.0


@pytest.mark.parametrize("kind", [GeneralPreference, HybridPreference, PairPreference])
def test_models_that_compare_refuse_it(kind: type[PreferenceModule]) -> None:
    """They have no value, and train on the pairs of a tree alone."""
    with pytest.raises(ConfigError, match=f"ValueLoss needs one reward per response, and {kind.__name__} compares; use BradleyTerry"):
        _module(kind, ValueLoss())
    with pytest.raises(ConfigError, match="ValueLoss.pairs must be 0 or more"):
        ValueLoss(pairs=-1.0)


def test_models_that_compare_read_its_pairs(tmp_path: Path) -> None:
    """Without labels of single steps."""
    data = [datum for _, datum in encoder().encode(list(read(Source(tree(tmp_path / "t.jsonl")))))]
    assert [None if datum is None else datum.pairs for datum in data] == [((0, 1), (0, 2), (2, 1)), ((0, 1),), None]


def test_what_step_training_finds(tmp_path: Path) -> None:
    """More than training on whole solutions where answers give the outcome away, and about as much where they do not."""
    told, control = (first_wrong(0, tmp_path, answer=answer, n=60, tests=400) for answer in (5.0, 0.0))
    for name in ("values and pairs of steps", "pairs of steps"):
        assert told[f"largest drop: {name}"] > 0.85 and control[f"largest drop: {name}"] > 0.85
    assert told["largest drop: pairs of whole solutions"] < 0.65
    assert control["largest drop: pairs of whole solutions"] > control["largest drop: pairs of steps"] - 0.1
