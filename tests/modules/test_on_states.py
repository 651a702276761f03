"""Heads on one batch of cycles: what each model can and cannot get right."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch

from prefrep.data.sources import read
from prefrep.modules import BradleyTerry, GeneralPreference, PreferenceModule
from prefrep.modules.on_states import correct, train
from prefrep.modules.preference import adamw
from prefrep.modules.remembered import Reading
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead
from prefrep.records import Comparison

CYCLES = "cyclic:bundled:ultrafeedback-mini?omit=plainness"


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    return Reading(BACKBONE, "single", cache=str(tmp_path_factory.mktemp("cache")))


BACKBONE = Backbone("bundled:tiny-gpt2", frozen=True)


def comparisons(part: str, prompts: int = 12) -> list[Comparison]:
    """The comparisons of the first cycles."""
    found = cast("list[Comparison]", list(read(f"{CYCLES}&part={part}")))
    kept = list(dict.fromkeys(c.prompt for c in found))[:prompts]
    return [c for c in found if c.prompt in kept]


def bradley_terry() -> PreferenceModule:
    return BradleyTerry(lambda: BACKBONE, optimizer=adamw(0.02))


def general(dim: int = 4) -> PreferenceModule:
    return GeneralPreference(lambda: BACKBONE, partial(GPMHead, dim=dim, normalize=False), optimizer=adamw(0.02))


def test_bradley_terry_gets_one_or_two_of_every_cycle(reading: Reading) -> None:
    """Numbers in a strict order fit one or two comparisons of a > b > c > a, whatever they are; the likeliest ones are all equal."""
    batch = reading.batch(comparisons("all"))
    for steps in (1, 40):
        each = correct(train(bradley_terry(), [batch] * steps), batch).reshape(-1, 3).sum(1)
        assert set(each.tolist()) <= {1, 2}
    module = train(bradley_terry(), [batch] * 400)
    with torch.no_grad():
        # The loss of a cycle is convex in the numbers and the same when they are rotated: it is least where all are equal.
        assert float(module(batch).abs().max()) < 0.1


def test_a_general_model_fits_all_cycles(reading: Reading) -> None:
    batch = reading.batch(comparisons("all"))
    assert bool(correct(train(general(), [batch] * 400), batch).all())


def test_what_bradley_terry_infers_about_the_third_comparison_is_wrong(reading: Reading) -> None:
    """r_a > r_b and r_b > r_c give r_a > r_c: where both seen comparisons are right, the unseen c > a cannot be."""
    seen, unseen = comparisons("seen-comparisons"), comparisons("unseen-comparisons")
    module = train(bradley_terry(), [reading.batch(seen)] * 300)
    fitted = correct(module, reading.batch(seen)).reshape(-1, 2).all(1)
    assert fitted.float().mean() > 0.8
    assert not correct(module, reading.batch(unseen))[fitted].any()


def test_seeds_decide(reading: Reading, tmp_path: Path) -> None:
    batch = reading.batch(comparisons("all", prompts=3))
    with torch.no_grad():
        first, again, other = (train(general(), [batch] * 3, seed)(batch) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_tie_is_not_right(reading: Reading) -> None:
    batch = reading.batch(comparisons("all", prompts=2))
    module = train(bradley_terry(), [batch])
    with torch.no_grad():
        for weight in module.head.parameters():
            weight.zero_()
    assert not correct(module, batch).any()
