"""Losses of TRL 1.16 on given log-probabilities, by its own code: the golden numbers of tests/nn/test_alignment.py.

    python -m venv trl && trl/bin/pip install trl==1.16 && trl/bin/python benchmarks/parity/trl_losses.py

Trainers need models and data; here their loss functions get one pair at a time, as token log-probabilities in float64 in place of a model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

# log pi, log pi_ref and number of tokens of the chosen response, and of the rejected one.
PAIRS = [
    ((-12.5, -14.0, 5), (-20.25, -18.5, 9)),
    ((-33.0, -31.5, 12), (-7.75, -9.0, 3)),
    ((-2.0, -2.0, 1), (-4.5, -3.25, 2)),
    ((-80.5, -95.0, 40), (-61.0, -60.0, 25)),
]
BETAS = (0.1, 0.5)
SMOOTHING = 0.2
# log pi - log pi_ref of responses to other prompts.
DIVERGENCES = ([1.5, -0.25, 0.75, 2.0], [-3.0, -0.5, 0.25, -1.0])


class _Accelerator(SimpleNamespace):
    device = torch.device("cpu")

    @staticmethod
    def gather(x: torch.Tensor) -> torch.Tensor:
        return x

    gather_for_metrics = gather


def _trainer(**settings: Any) -> Any:
    return SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=_Accelerator(), aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True,
        f_divergence_type="reverse_kl", loss_weights=[1.0], use_weighting=False, _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0, _tp_size=1, alpha=0.0, **settings,
    )  # fmt: skip


def _outputs(sums: list[float], lengths: list[int]) -> tuple[Any, torch.Tensor]:
    """Rows of a prompt of one token and a response whose log-probabilities have the given sums."""
    longest = max(lengths)
    mask = torch.tensor([[0] + [1] * n + [0] * (longest - n) for n in lengths])
    each = torch.tensor([[total / n] * n + [0.0] * (longest - n) for total, n in zip(sums, lengths, strict=True)], dtype=torch.float64)
    return SimpleNamespace(log_probs=each, entropy=each, mean_logits=each, is_top1=each > 1), mask


def dpo(kind: str, beta: float, pair: Any) -> float:
    """Return the loss of a pair by TRL's DPO trainer."""
    (a, ref_a, n), (b, ref_b, m) = pair
    outputs, mask = _outputs([a, b], [n, m])
    inputs = {
        "input_ids": mask, "attention_mask": mask, "completion_mask": mask,
        "ref_chosen_logps": torch.tensor([ref_a], dtype=torch.float64), "ref_rejected_logps": torch.tensor([ref_b], dtype=torch.float64),
    }  # fmt: skip
    trainer = _trainer(beta=beta, label_smoothing=SMOOTHING, loss_types=[kind])
    return float(DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False))


def cpo(kind: str, beta: float, first: float, second: float, gamma: float = 0.0, smoothing: float = 0.0) -> float:
    """Return the loss of two (mean) log-probabilities by its CPO trainer."""
    trainer = _trainer(beta=beta, loss_type=kind, simpo_gamma=gamma, label_smoothing=smoothing)
    return float(CPOTrainer.cpo_loss(trainer, torch.tensor([first], dtype=torch.float64), torch.tensor([second], dtype=torch.float64))[0])


def odds(beta: float, pair: Any) -> float:
    """Return the weighted log sigmoid of ORPO's odds ratio."""
    (a, _, n), (b, _, m) = pair
    return float(ORPOTrainer.odds_ratio_loss(_trainer(beta=beta), torch.tensor([a / n]), torch.tensor([b / m]))[0])


def kto(beta: float, divergences: list[float], weights: tuple[float, float], pair: Any) -> float:
    """Loss of a batch of two responses, the chosen one desirable and the rejected one not."""
    (a, ref_a, n), (b, ref_b, m) = pair
    outputs, mask = _outputs([a, b], [n, m])
    trainer = _trainer(beta=beta, loss_type="kto", calculate_KL=True, desirable_weight=weights[0], undesirable_weight=weights[1])
    trainer._compute_kl_logps = lambda model, batch: torch.tensor(divergences, dtype=torch.float64)
    inputs = {
        "input_ids": mask, "attention_mask": mask, "completion_mask": mask, "label": torch.tensor([True, False]),
        "ref_logps": torch.tensor([ref_a, ref_b], dtype=torch.float64), "ref_KL_logps": torch.zeros(len(divergences), dtype=torch.float64),
    }  # fmt: skip
    return float(KTOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False))


def main() -> None:
    """Print the numbers by loss and setting, one for each pair."""
    found: dict[str, list[float]] = {}
    for beta in BETAS:
        for kind in ("sigmoid", "ipo", "robust", "sppo_hard"):
            found[f"{kind} {beta}"] = [dpo(kind, beta, pair) for pair in PAIRS]
        ratios = [((a - ref_a), (b - ref_b)) for (a, ref_a, _), (b, ref_b, _) in PAIRS]
        found[f"conservative {beta}"] = [cpo("sigmoid", beta, a, b, smoothing=SMOOTHING) for a, b in ratios]
        found[f"odds {beta}"] = [odds(beta, pair) for pair in PAIRS]
        for number, divergences in enumerate(DIVERGENCES):
            found[f"kto {beta} {number}"] = [kto(beta, divergences, (1.0, 1.33), pair) for pair in PAIRS]
    means = [(a / n, b / m) for (a, _, n), (b, _, m) in PAIRS]
    found["simpo 2.0 0.5"] = [cpo("simpo", 2.0, a, b, gamma=0.5) for a, b in means]
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
