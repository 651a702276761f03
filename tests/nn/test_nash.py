"""Nash objectives, pessimistic distillation and the sign rule against their formulas, written out as loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.functional import gpo
from prefrep.functional.gpo import Judged
from prefrep.nn.objectives import (
    DistillObjective,
    DPOObjective,
    ExtragradientObjective,
    INPOObjective,
    IPOObjective,
    MagneticObjective,
    OptimisticObjective,
    PessimisticDistillObjective,
    PolicyObjective,
    SemiPolicyObjective,
)

N, K, M, J = 3, 4, 2, 3
ETA, TAU = 0.5, 0.2


def example() -> tuple[Tensor, Judged]:
    """Log-probabilities and a judged batch of random numbers."""
    generator = torch.Generator().manual_seed(0)
    tables = torch.randn(N, J, K, K, generator=generator, dtype=torch.float64)
    tables = tables - tables.mT
    logprobs, reference, initial, earlier = -10 + torch.randn(4, N, K, generator=generator, dtype=torch.float64)
    other = torch.randn(N, K, M, generator=generator, dtype=torch.float64)
    return logprobs, Judged(tables.mean(1), other[..., :0], reference, initial, torch.ones(N, K), tables, earlier, other)


def loss(objective: PolicyObjective, logprobs: Tensor, judged: Judged) -> Tensor:
    selected = objective.selected(judged)
    return objective(logprobs.gather(-1, selected), judged, selected)


def wins(log_odds: Tensor | float) -> float:
    return 1 / (1 + math.exp(-float(log_odds)))


def own(judged: Judged, n: int, i: int) -> float:
    return sum(wins(judged.table[n, i, j]) for j in range(K)) / K


PAIRS = [(i, j) for i in range(K) for j in range(i + 1, K)]


def test_inpo() -> None:
    """Eq. of the population loss: h_ij = d log pi - tau/eta d log pi_0 - (1 - tau/eta) d log pi_t, on the difference of win rates / eta."""
    logprobs, judged = example()
    expected = []
    for n in range(N):
        errors = []
        for i, j in PAIRS:
            h = [
                float(each[n, i] - each[n, j]) * share
                for each, share in [(logprobs, 1), (judged.initial, -TAU / ETA), (judged.reference, TAU / ETA - 1)]
            ]
            errors.append((sum(h) - (own(judged, n, i) - own(judged, n, j)) / ETA) ** 2)
        expected.append(sum(errors) / len(errors))
    objective = INPOObjective(ETA, TAU)
    torch.testing.assert_close(loss(objective, logprobs, judged), torch.tensor(expected, dtype=torch.float64))
    assert objective.needs_initial and not INPOObjective(ETA, 0.0).needs_initial and objective.earlier(3) is None


def test_inpo_has_the_gradient_of_sampled_labels() -> None:
    """The published loss: both orders of a pair with their probability, and 1 / (2 eta) as the target of the winner over the loser."""
    logprobs, judged = example()
    logprobs.requires_grad_()
    anchor = TAU / ETA * judged.initial + (1 - TAU / ETA) * judged.reference
    h = (logprobs - anchor)[..., :, None] - (logprobs - anchor)[..., None, :]
    published = (judged.table.sigmoid() * (h - 1 / (2 * ETA)) ** 2).sum((-1, -2)) / len(PAIRS)  # of i over j; j over i is another entry
    expected = torch.autograd.grad((published - 0).sum(), logprobs)[0]
    found = torch.autograd.grad(loss(INPOObjective(ETA, TAU), logprobs, judged).sum(), logprobs)[0]
    torch.testing.assert_close(found, expected)


def test_inpo_of_the_best_and_the_worst_is_ipo_without_a_pull() -> None:
    logprobs, judged = example()
    own_rates = gpo.mean_over_opponents(judged.table.sigmoid(), True)
    same = (gpo.best_and_worst(own_rates) == gpo.best_and_worst(judged.table.mean(-1))).all(-1)
    assert same.any()
    found, ipo = loss(INPOObjective(ETA, 0.0, "best_worst"), logprobs, judged), loss(IPOObjective(ETA), logprobs, judged)
    torch.testing.assert_close(found[same], ipo[same])
    tied = Judged(torch.zeros(1, K, K), torch.zeros(1, K, 0), *torch.zeros(2, 1, K), torch.ones(1, K))
    assert loss(INPOObjective(ETA, 0.0, "best_worst"), torch.randn(1, K), tied).tolist() == [0.0]


def test_optimistic_gains_foresee_the_opponent() -> None:
    logprobs, judged = example()
    assert judged.earlier_table is not None
    for tau in (0.0, TAU):
        expected = []
        for n in range(N):
            gains = [2 * own(judged, n, i) - sum(wins(judged.earlier_table[n, i, m]) for m in range(M)) / M for i in range(K)]
            ratios = [float(logprobs[n, i] - (1 - tau / ETA) * judged.reference[n, i] - tau / ETA * judged.initial[n, i]) for i in range(K)]
            expected.append(sum((ratios[i] - ratios[j] - (gains[i] - gains[j]) / ETA) ** 2 for i, j in PAIRS) / len(PAIRS))
        torch.testing.assert_close(loss(OptimisticObjective(ETA, tau), logprobs, judged), torch.tensor(expected, dtype=torch.float64))


def test_extragradient_starts_from_the_even_round() -> None:
    logprobs, judged = example()
    assert judged.earlier is not None
    moved = Judged(judged.table, judged.initial_table, judged.earlier, judged.initial, judged.lengths)
    expected = loss(INPOObjective(ETA, TAU), logprobs, moved)
    torch.testing.assert_close(loss(ExtragradientObjective(ETA, TAU), logprobs, judged), expected)


def test_a_magnet_is_an_earlier_policy() -> None:
    logprobs, judged = example()
    assert judged.earlier is not None
    moved = Judged(judged.table, judged.initial_table, judged.reference, judged.earlier, judged.lengths)
    torch.testing.assert_close(loss(MagneticObjective(ETA, TAU, 2), logprobs, judged), loss(INPOObjective(ETA, TAU), logprobs, moved))
    assert not MagneticObjective(ETA, TAU).needs_initial


def test_magnetic_mirror_descent_in_its_own_letters() -> None:
    """argmax <q, pi> - alpha KL(pi, magnet) - KL(pi, pi_t) / eta: its first-order condition, solved for log pi, has no error."""
    _, judged = example()
    assert judged.earlier is not None
    eta, alpha = 0.7, 0.4
    q = gpo.mean_over_opponents(judged.table.sigmoid(), True)
    best = (q + alpha * judged.earlier + judged.reference / eta) / (alpha + 1 / eta) + 5.0
    torch.testing.assert_close(loss(MagneticObjective(1 / eta + alpha, alpha), best, judged), torch.zeros(N, dtype=torch.float64))


@pytest.mark.parametrize(
    ("objective", "rounds"),
    [
        (OptimisticObjective(), [0, 0, 1, 2, 3]),
        (ExtragradientObjective(), [0, 0, 2, 2, 4]),
        (MagneticObjective(every=3), [0, 0, 0, 3, 3]),
        (DPOObjective(), [None] * 5),
    ],
)
def test_rounds_that_are_referred_to(objective: PolicyObjective, rounds: list[int | None]) -> None:
    assert [objective.earlier(number) for number in range(5)] == rounds
    assert objective.needs_earlier_responses == isinstance(objective, OptimisticObjective)


def test_replayed_rounds_are_uniform_and_the_same_in_every_process() -> None:
    objective = SemiPolicyObjective(seed=1)
    assert [objective.earlier(9) for _ in range(3)] == [objective.earlier(9)] * 3 and objective.earlier(0) == 0
    drawn = [SemiPolicyObjective(seed=seed).earlier(3) for seed in range(2000)]
    # A share of 1/4 in 2000 draws has a standard deviation of .01.
    assert all(abs(drawn.count(number) / 2000 - 0.25) < 0.05 for number in range(4))


def test_the_sign_rule() -> None:
    """By hand, beta 1: winner .5, loser .2 gives -log sigmoid(.3); winner -.5 gives -log sigmoid(-.3), which raises both."""
    winner, loser = torch.tensor([0.5, -0.5], requires_grad=True), torch.tensor([0.2, 0.2], requires_grad=True)
    values = gpo.semi_policy(winner, loser, 1.0)
    torch.testing.assert_close(values, torch.tensor([math.log1p(math.exp(-0.3)), math.log1p(math.exp(0.3))]))
    gradients = torch.autograd.grad(values.sum(), (winner, loser))
    assert gradients[0][0] < 0 < gradients[1][0], "the winner is raised, the loser lowered"
    assert gradients[0][1] < 0 and gradients[1][1] < 0, "both are raised"


def test_semi_policy_with_the_last_checkpoint_is_spin() -> None:
    """Equal to DPO against pi_t, which is SPIN's loss, wherever pi gives the winner no less than pi_t does."""
    logprobs, judged = example()
    last = Judged(judged.table, judged.initial_table, judged.reference, judged.initial, judged.lengths, earlier=judged.reference)
    raised = judged.reference + (logprobs - judged.reference).abs()
    assert torch.equal(loss(SemiPolicyObjective(0.3), raised, last), loss(DPOObjective(0.3), raised, last))
    lowered = judged.reference - (logprobs - judged.reference).abs()
    assert not torch.equal(loss(SemiPolicyObjective(0.3), lowered, last), loss(DPOObjective(0.3), lowered, last))


# ---- pessimistic distillation


def test_the_pessimistic_loss_is_the_smallest_of_a_family_plus_a_forward_kl() -> None:
    logprobs, judged = example()
    assert judged.tables is not None
    expected = []
    for n in range(N):
        ratios = logprobs[n] - judged.reference[n]
        errors = [sum(float(ratios[i] - ratios[j] - judged.tables[n, f, i, j] / ETA) ** 2 for i, j in PAIRS) / len(PAIRS) for f in range(J)]
        expected.append(min(errors) - 0.3 * float(ratios.mean()))
    torch.testing.assert_close(loss(PessimisticDistillObjective(ETA, 0.3), logprobs, judged), torch.tensor(expected, dtype=torch.float64))


def test_a_family_of_one_is_plain_distillation() -> None:
    logprobs, judged = example()
    alone = Judged(judged.table, judged.initial_table, judged.reference, judged.initial, judged.lengths)
    assert torch.equal(loss(PessimisticDistillObjective(ETA, 0.0), logprobs, alone), loss(DistillObjective(ETA), logprobs, alone))


def optimum(rewards: Tensor, reference: Tensor, beta: float) -> Tensor:
    return (reference + rewards / beta).log_softmax(-1)


def test_the_worst_reward_has_the_policy_with_the_smallest_forward_kl() -> None:
    """max_pi E_pi r - E_ref r - beta KL(pi, ref), evaluated at its optimum, is beta KL(ref, optimum)."""
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    for seed in range(5):
        rewards = torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        pi = optimum(rewards, reference, 0.7)
        value = (pi.exp() * (rewards - 0.7 * (pi - reference))).sum() - (reference.exp() * rewards).sum()
        torch.testing.assert_close(value, 0.7 * (reference.exp() * (reference - pi)).sum())


def descend(objective: PolicyObjective, judged: Judged, reference: Tensor, arms: Tensor, steps: int, rate: float = 1.0) -> Tensor:
    """Log-probabilities of a softmax policy after plain gradient descent from the reference, on some of its arms."""
    logits = reference.clone().requires_grad_()
    selected = objective.selected(judged)
    for _ in range(steps):
        value = objective(logits.log_softmax(0)[arms][None].gather(-1, selected), judged, selected).sum()
        (gradient,) = torch.autograd.grad(value, logits)
        with torch.no_grad():
            logits -= rate * gradient
    return logits.detach().log_softmax(0)


def labelled(reference: Tensor, arms: Tensor, *rewards: list[float]) -> Judged:
    """The arms of one prompt, judged by several Bradley-Terry judges."""
    scores = torch.tensor(rewards, dtype=torch.float64)[:, arms]
    tables = (scores[:, :, None] - scores[:, None, :])[None]
    own = reference[arms][None]
    return Judged(tables.mean(1), torch.zeros(1, len(arms), 0), own, own, torch.ones(1, len(arms)), tables)


REFERENCE = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64).log()


def test_distillation_stops_where_dpo_goes_on_for_ever() -> None:
    """One pair, always won by the same response, and a third that nobody compared; beta .1, a target difference of 1."""
    pair = torch.tensor([0, 1])
    judged = labelled(REFERENCE, pair, [1.0, 0.0, 0.0])

    def implicit(logs: Tensor) -> float:
        ratios = logs - REFERENCE
        return 0.1 * float(ratios[0] - ratios[1])

    dpo = [implicit(descend(DPOObjective(0.1), judged, REFERENCE, pair, steps)) for steps in (200, 2000)]
    assert dpo == pytest.approx([1.30, 3.62], abs=0.01)
    logs = descend(DistillObjective(0.1), judged, REFERENCE, pair, 2000, rate=0.1)
    assert implicit(logs) == pytest.approx(1.0, abs=1e-3)


def test_the_gap_of_every_trained_pair_is_its_target() -> None:
    """Four responses, three compared with each other, the fourth with nobody: differences converge to r_i - r_j, labels are not needed."""
    reference = torch.tensor([0.3, 0.3, 0.2, 0.2], dtype=torch.float64).log()
    some, rewards = torch.tensor([0, 1, 2]), [0.3, -0.2, 0.1, 0.0]
    logs = descend(DistillObjective(0.5), labelled(reference, some, rewards), reference, some, 3000, rate=0.1)
    found = 0.5 * (logs - reference)
    for i in range(3):
        for j in range(3):
            assert float(found[i] - found[j]) == pytest.approx(rewards[i] - rewards[j], abs=1e-3)


def test_pessimism_follows_the_judge_in_which_little_is_to_be_gained() -> None:
    """One judge sees much to gain in the second response, the other little in the first: the policy becomes the second judge's optimum."""
    everything = torch.tensor([0, 1, 2])
    judged = labelled(REFERENCE, everything, [0.0, 2.0, 0.0], [0.4, 0.0, 0.0])
    mild = optimum(torch.tensor([0.4, 0.0, 0.0], dtype=torch.float64), REFERENCE, 0.5)
    logs = descend(PessimisticDistillObjective(0.5, 1e-3), judged, REFERENCE, everything, 3000, rate=0.1)
    torch.testing.assert_close(logs, mild, atol=5e-3, rtol=0)


def test_a_family_loses_less_to_a_length_bias_than_one_biased_judge() -> None:
    """Judges add 2, 0 or -1 times the length of a response to its quality, and long responses are bad ones here.

    Alone, the judge that likes length gives a policy that is worse than the reference. With the family, the loss is lowest at a policy
    that is better: of the optima of all judges, that with the smallest forward KL.
    """
    generator = torch.Generator().manual_seed(0)
    changes = []
    for _ in range(20):
        quality, length = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        length = length - quality
        reference = torch.full((6,), 1 / 6, dtype=torch.float64).log()
        family = [quality + bias * length for bias in (2.0, 0.0, -1.0)]
        optima = torch.stack([optimum(rewards, reference, 1.0) for rewards in family])
        judged = labelled(reference, torch.arange(6), *[rewards.tolist() for rewards in family])
        objective = PessimisticDistillObjective(1.0, 0.1)
        losses = torch.cat([loss(objective, logs[None], judged) for logs in optima])
        torch.testing.assert_close(losses, 0.1 * (reference - optima).mean(-1))
        gains = optima.exp() @ quality - quality.mean()
        changes.append([float(gains[0]), float(gains[losses.argmin()])])
    alone, together = torch.tensor(changes).mean(0)
    assert alone < 0 < together


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: INPOObjective(0.1, 0.2), "tau must be between 0 .* and beta, got 0.2 with beta 0.1"),
        (lambda: OptimisticObjective(0.1, -0.1), "tau must be between"),
        (lambda: MagneticObjective(every=0), "every must be 1 round or more"),
        (lambda: PessimisticDistillObjective(kl=-1.0), "kl must be 0 or more"),
    ],
)
def test_values_out_of_range(make: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()  # type: ignore[operator]
