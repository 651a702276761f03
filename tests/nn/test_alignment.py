"""Losses of given responses against TRL's numbers, closed forms, and what their papers promise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.functional import alignment
from prefrep.functional.gpo import Judged
from prefrep.nn.alignment import AlignmentLoss, DPOLoss, IPOLoss, KTOLoss, ORPOLoss, Responses, RobustDPOLoss, SimPOLoss
from prefrep.nn.objectives import DPOObjective, IPOObjective, SPPOObjective

# log pi, log pi_ref and number of tokens of the chosen response, and of the rejected one. Numbers of TRL 1.16 on them, by its own code:
# benchmarks/parity/trl_losses.py.
PAIRS = [
    ((-12.5, -14.0, 5), (-20.25, -18.5, 9)),
    ((-33.0, -31.5, 12), (-7.75, -9.0, 3)),
    ((-2.0, -2.0, 1), (-4.5, -3.25, 2)),
    ((-80.5, -95.0, 40), (-61.0, -60.0, 25)),
]
TRL: dict[str, tuple[AlignmentLoss, list[float]]] = {
    "sigmoid": (DPOLoss(0.1), [0.5437926039781781, 0.8400706676896001, 0.6325990353171691, 0.1924764655865787]),
    "sigmoid, 0.5": (DPOLoss(0.5), [0.17974463538565905, 1.600412651601648, 0.42870067827651864, 0.0004306497976388198]),
    "conservative": (DPOLoss(0.1, 0.2), [0.6087926039781781, 0.7850706676896002, 0.6575990353171691, 0.5024764655865788]),
    "conservative, 0.5": (DPOLoss(0.5, 0.2), [0.5047446353856591, 1.325412651601648, 0.5537006782765187, 1.550430649797639]),
    "robust": (RobustDPOLoss(0.1, 0.2), [0.4354592706448448, 0.931737334356267, 0.5909323686505025, -0.324190201080088]),
    "robust, 0.5": (RobustDPOLoss(0.5, 0.2), [-0.36192203128100764, 2.0587459849349816, 0.22036734494318538, -2.5829026835356945]),
    "ipo": (IPOLoss(0.1, per_token=True), [20.30003086419753, 30.710069444444446, 19.140625, 21.137006250000002]),
    "ipo, 0.5": (IPOLoss(0.5, per_token=True), [0.2555864197530864, 2.376736111111111, 0.140625, 0.35700625]),
    "simpo": (SimPOLoss(2.0, 0.5), [1.3132616875182228, 1.1942181492675366, 0.6931471805599453, 0.5313182736527414]),
}
KTO = {  # beta, log-ratios of responses to other prompts; desirable 1, undesirable 1.33
    (0.1, (1.5, -0.25, 0.75, 2.0)): [0.5308185127448599, 0.6177442839850735, 0.5577403565272978, 0.4022955776876758],
    (0.1, (-3.0, -0.5, 0.25, -1.0)): [0.5347653503154678, 0.6219691559654227, 0.561745766706452, 0.41088962333416135],
    (0.5, (1.5, -0.25, 0.75, 2.0)): [0.35311754236025283, 0.7419041638808934, 0.4742111993339545, 0.1794308003435745],
    (0.5, (-3.0, -0.5, 0.25, -1.0)): [0.35606360690069105, 0.7727403345906226, 0.481849014997074, 0.251419379950317],
}
ODDS = {0.1: [0.08404840528964996, 0.07867177575826645, 0.056118011474609375, 0.04817607253789902]}  # weight times -log sigmoid(odds ratio)
SPPO = {0.1: [22.8125, 81.3125, 39.0625, 106.25], 0.5: [0.8125, 11.3125, 1.0625, 182.25]}  # sppo_hard

LOSSES = [DPOLoss(0.3, 0.1), RobustDPOLoss(0.3, 0.1), IPOLoss(0.3), IPOLoss(0.3, True), SimPOLoss(), ORPOLoss(0.5), KTOLoss(0.3, 1.0, 0.7)]
NONE = torch.zeros(())


def responses(side: int, dtype: torch.dtype = torch.float64) -> Responses:
    return Responses(*(torch.tensor([pair[side][part] for pair in PAIRS], dtype=dtype) for part in range(3)))


def of(loss: AlignmentLoss, probability: float | Tensor = 1.0, divergence: Tensor = NONE, swapped: bool = False) -> Tensor:
    first, second = responses(int(swapped)), responses(int(not swapped))
    label = torch.as_tensor(probability, dtype=torch.float64).expand(len(PAIRS))
    return loss(first, second, label, torch.zeros(len(PAIRS)), divergence)


def close(found: Tensor, expected: list[float] | Tensor) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=torch.float64), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", TRL)
def test_losses_are_those_of_trl(name: str) -> None:
    loss, expected = TRL[name]
    close(of(loss), expected)


@pytest.mark.parametrize(("beta", "ratios"), KTO)
def test_kto_is_that_of_trl(beta: float, ratios: tuple[float, ...]) -> None:
    """TRL's reference point is the mean log-ratio, cut at 0; the mean over a batch of one pair is our loss of it."""
    divergence = torch.tensor(ratios).mean().clamp_min(0)
    close(of(KTOLoss(beta, 1.0, 1.33), divergence=divergence), KTO[beta, ratios])


def test_orpo_is_trls_odds_ratio_and_the_likelihood_of_the_preferred_response() -> None:
    likelihood = torch.tensor([-a / n for (a, _, n), _ in PAIRS], dtype=torch.float64)
    close(of(ORPOLoss(0.1)) - likelihood, ODDS[0.1])
    p, q = torch.tensor([0.2], dtype=torch.float64), torch.tensor([0.05], dtype=torch.float64)
    odds = (p / (1 - p)) / (q / (1 - q))
    close(alignment.orpo(p.log(), q.log(), 0.5, torch.ones(1)), -p.log() - 0.5 * (odds / (1 + odds)).log())
    near = torch.tensor([-1e-12], dtype=torch.float64)  # 1 - P = 1e-12
    close(alignment.log_odds(near), [math.log(1e12)])
    sure = torch.tensor([0.0, -1e-8, -1e-6, -60.0], requires_grad=True)  # in float32 the first two are certain
    (slope,) = torch.autograd.grad(alignment.log_odds(sure).sum(), sure)
    assert slope[:2].tolist() == [0, 0] and slope[2:].tolist() == pytest.approx([1 / -math.expm1(-1e-6), 1.0], rel=0.1)


def test_the_beta_of_trls_ipo_is_ours_times_the_length() -> None:
    """Responses of one length n: TRL's regression on 1 / (2 beta) per token is n^-2 times ours with beta / n."""
    n = 8.0
    first, second = (Responses(torch.tensor([a]), torch.tensor([b]), torch.tensor([n])) for a, b in ((-9.0, -11.0), (-20.0, -17.5)))
    label, none = torch.ones(1), torch.zeros(1)
    theirs, ours = (loss(first, second, label, none, NONE) for loss in (IPOLoss(0.2, per_token=True), IPOLoss(0.2 / n)))
    torch.testing.assert_close(theirs, ours / n**2)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{type(loss).__name__} {vars(loss)}")
def test_a_soft_label_is_a_mixture_of_hard_ones(loss: AlignmentLoss) -> None:
    some = torch.tensor(0.4, dtype=torch.float64)
    mixed = 0.75 * of(loss, divergence=some) + 0.25 * of(loss, divergence=some, swapped=True)
    close(of(loss, 0.75, some), mixed)


def test_robust_dpo_is_unbiased_under_flips() -> None:
    """Mean over flipped labels, each with its probability, of the robust loss: the plain loss of the true label."""
    robust, plain = RobustDPOLoss(0.3, 0.2), DPOLoss(0.3)
    close(0.8 * of(robust) + 0.2 * of(robust, swapped=True), of(plain))
    biased = 0.8 * of(plain) + 0.2 * of(plain, swapped=True)
    assert not torch.allclose(biased, of(plain), atol=1e-2)


@pytest.mark.parametrize("probability", [1.0, 0.8, 0.5])
def test_ipo_is_least_at_the_scaled_preference(probability: float) -> None:
    """The mean over labels has its minimum where the difference of log-ratios is (2 p - 1) / (2 beta)."""
    beta = 0.25
    difference = torch.tensor([(2 * probability - 1) / (2 * beta)], dtype=torch.float64, requires_grad=True)
    value = alignment.ipo(difference, torch.zeros(1, dtype=torch.float64), beta, torch.full((1,), probability, dtype=torch.float64))
    (slope,) = torch.autograd.grad(value.sum(), difference)
    assert float(slope) == pytest.approx(0, abs=1e-12)


def test_a_margin_is_subtracted_from_the_log_odds() -> None:
    first, second = responses(0), responses(1)
    found = DPOLoss(0.1)(first, second, torch.ones(4, dtype=torch.float64), torch.full((4,), 0.7, dtype=torch.float64), NONE)
    odds = 0.1 * (first.ratios - second.ratios) - 0.7
    close(found, torch.log1p((-odds).exp()))


def test_kto_rises_in_the_desirable_and_falls_in_the_other() -> None:
    ratios = torch.zeros(2, requires_grad=True)
    value = alignment.kto(ratios, torch.tensor(0.3), 0.5, torch.tensor([1.0, 0.0]), 1.0, 2.0)
    (slope,) = torch.autograd.grad(value.sum(), ratios)
    weight = 0.5 * torch.sigmoid(torch.tensor(0.15)) * torch.sigmoid(torch.tensor(-0.15))
    torch.testing.assert_close(slope, torch.stack([-weight, 2 * weight]))


def judged(table: list[list[float]], side: tuple[Responses, Responses]) -> Judged:
    reference, lengths = (torch.stack([getattr(each, name) for each in side], -1).float() for name in ("reference", "lengths"))
    count = len(PAIRS)
    return Judged(torch.tensor([table] * count), torch.zeros(count, 2, 0), reference, torch.full((count, 2), torch.nan), lengths)


def test_online_and_offline_objectives_are_the_same_formulas() -> None:
    """Two responses of which the first wins: the objectives of a round give the losses of the pair."""
    side = responses(0, torch.float32), responses(1, torch.float32)
    labels = judged([[0.0, 2.0], [-2.0, 0.0]], side)
    logprobs = torch.stack([each.logprobs for each in side], -1)
    chosen = torch.tensor([[0, 1]] * len(PAIRS))
    pairs: list[tuple[Any, AlignmentLoss]] = [
        (DPOObjective(0.1), DPOLoss(0.1)), (IPOObjective(0.1), IPOLoss(0.1)), (IPOObjective(0.1, per_token=True), IPOLoss(0.1, True)),
    ]  # fmt: skip
    for online, offline in pairs:
        torch.testing.assert_close(online(logprobs, labels, chosen), of(offline).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", SPPO)
def test_trls_sppo_hard_is_twice_our_mean(beta: float) -> None:
    """A judge that is certain, and a response that is no opponent of its own: P - 1/2 is 1/2. TRL adds two squares, which ours averages."""
    side = responses(0, torch.float32), responses(1, torch.float32)
    labels = judged([[0.0, 60.0], [-60.0, 0.0]], side)
    logprobs = torch.stack([each.logprobs for each in side], -1)
    found = SPPOObjective(beta, self_comparison=False)(logprobs, labels, torch.tensor([[0, 1]] * len(PAIRS)))
    close(2 * found.double(), SPPO[beta])


@pytest.mark.parametrize(
    "make", [lambda: DPOLoss(0.0), lambda: DPOLoss(0.1, 0.5), lambda: RobustDPOLoss(0.1, 0.6), lambda: SimPOLoss(gamma=-1.0),
             lambda: KTOLoss(desirable=0.0), lambda: IPOLoss(math.inf)],
)  # fmt: skip
def test_values_out_of_range_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match="must be"):
        make()
