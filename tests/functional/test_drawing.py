"""Draws against exact distributions, as transformers defines them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from prefrep.functional.drawing import BLOCK, LIKELY, draw, invert

DRAWS = 100_000


def expected(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    """Probabilities after the processors of `generate`, in its order, in fp64 [V]."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    return warpers(torch.zeros(1, 1, dtype=torch.long), logits[None].double())[0].softmax(-1)  # type: ignore[arg-type]


@pytest.mark.parametrize("vocabulary", [7, 300])
@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.5, 0, 1.0), (2.0, 0, 0.6), (1.0, 5, 1.0), (0.8, 40, 0.9), (1.0, 0, 0.05), (1.0, 0, 0.999)],
)
def test_draws_follow_the_distribution(vocabulary: int, temperature: float, top_k: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(vocabulary, generator=generator) * 2
    p = expected(logits, temperature, top_k, top_p).numpy()
    uniform = torch.rand(DRAWS, generator=generator, dtype=torch.float64)
    drawn = draw(logits.expand(DRAWS, -1), uniform, temperature, top_k, top_p).tokens
    counts = np.bincount(drawn.numpy(), minlength=vocabulary)
    assert counts[p == 0].sum() == 0
    # Cells with few expected draws are one cell.
    large = p * DRAWS >= 5
    found, wanted = [*counts[large], counts[~large].sum()], [*(p[large] * DRAWS), p[~large].sum() * DRAWS]
    if wanted[-1] < 5:
        found[int(np.argmax(wanted))] += found.pop()
        wanted[int(np.argmax(wanted))] += wanted.pop()
    assert len(wanted) == 1 or chisquare(found, wanted).pvalue > 1e-4


@pytest.mark.parametrize("count", [1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17])
def test_inversion_is_that_of_the_whole_cumulative_sum(count: int) -> None:
    """Masses are multiples of 2^-10, so that sums are exact; ends of steps belong to the next token."""
    generator = np.random.default_rng(count)
    mass = generator.integers(0, 4, count) / 1024.0
    mass[generator.integers(count)] = 0.25
    sums = mass.cumsum()
    uniform = np.concatenate([[0.0, np.nextafter(1.0, 0)], sums[:-1] / sums[-1], generator.random(200)])
    wanted = np.searchsorted(sums, np.minimum(uniform * sums[-1], np.nextafter(sums[-1], 0)), side="right")
    found = invert(torch.tensor(mass, dtype=torch.float32).expand(len(uniform), -1), torch.tensor(uniform))
    assert found.tolist() == wanted.tolist() and (mass[found.numpy()] > 0).all()


def test_ties_with_the_last_of_the_top_k_are_kept() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0]]).expand(1000, -1)
    drawn = draw(logits, torch.linspace(0, 0.999, 1000, dtype=torch.float64), top_k=2)
    assert set(drawn.tokens.tolist()) == {1, 2, 3}


def test_a_nucleus_beyond_the_likeliest_is_sought_in_all() -> None:
    """Equal logits: the nucleus of 0.9 has 0.9 V tokens, more than `LIKELY`."""
    size = 10 * LIKELY
    uniform = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    drawn = draw(torch.zeros(size, size), uniform, top_p=0.9).tokens
    assert abs(len(drawn.unique()) - 0.9 * size) <= 1


@pytest.mark.parametrize("settings", [(0.0, 0, 1.0), (1.0, 0, 1.0), (0.3, 4, 0.7)])
def test_logprobs_and_entropies_are_those_before_temperature_and_truncation(settings: tuple[float, int, float]) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(50, 300, generator=generator) * 3
    found = draw(logits, torch.rand(50, generator=generator, dtype=torch.float64), *settings)
    logprobs = logits.double().log_softmax(-1)
    assert torch.allclose(found.logprobs.double(), logprobs.gather(1, found.tokens[:, None])[:, 0], atol=1e-5)
    assert torch.allclose(found.entropies.double(), -(logprobs.exp() * logprobs).sum(-1), atol=1e-5)
    if settings[0] == 0:
        assert torch.equal(found.tokens, logits.argmax(-1))


@pytest.mark.parametrize("settings", [(0.0, 0, 1.0), (1.0, 0, 1.0), (0.7, 20, 0.9), (1.0, 250, 1.0)])
def test_tokens_of_probability_zero_are_not_there(settings: tuple[float, int, float]) -> None:
    """Logits of -inf, of which a vocabulary beyond the tokenizer's may be full: everything is as without them."""
    generator = torch.Generator().manual_seed(3)
    logits, uniform = torch.randn(40, 200, generator=generator), torch.rand(40, generator=generator, dtype=torch.float64)
    wanted = draw(logits, uniform, *settings)
    found = draw(torch.cat([logits, torch.full((40, 56), -torch.inf)], 1), uniform, *settings)
    assert torch.equal(found.tokens, wanted.tokens)
    torch.testing.assert_close(found.logprobs, wanted.logprobs)
    torch.testing.assert_close(found.entropies, wanted.entropies)


def test_a_row_draws_alone_what_it_draws_among_others() -> None:
    generator = torch.Generator().manual_seed(2)
    logits, uniform = torch.randn(20, 700, generator=generator), torch.rand(20, generator=generator, dtype=torch.float64)
    for settings in ((1.0, 0, 1.0), (0.7, 0, 0.9), (0.7, 9, 0.9)):
        whole = draw(logits, uniform, *settings).tokens
        assert [int(draw(logits[i : i + 1], uniform[i : i + 1], *settings).tokens) for i in range(20)] == whole.tolist()
