"""Heads on real pairs after flipping, softening, dropping weak labels, or with margins, against plain ones: seeds and paired tests.

Each seed draws 80 % of the training pairs, folds and heads. The strength of a pair is its out-of-fold margin by five heads of the kind that
is then trained; the weakest 20 % are treated.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from prefrep.data.sources import Source
from prefrep.labels import Strength, Work
from prefrep.labels.heads import log_odds, train
from prefrep.labels.rows import read_pairs
from prefrep.labels.strength import groups
from prefrep.metrics.intervals import accuracy_interval
from prefrep.metrics.paired import bootstrap_difference, holm, mcnemar
from prefrep.nn.heads import BTHead, GPMHead, PreferenceHead
from prefrep.nn.losses import LogisticLoss, PreferenceLoss

ACTIONS = ("plain", "flip", "soft", "drop", "margin")
HEADS: dict[str, tuple[Callable[[int], PreferenceHead], Callable[[], PreferenceLoss]]] = {
    "Bradley-Terry": (BTHead, LogisticLoss),
    "GPM, d = 4": (partial(GPMHead, dim=4), partial(LogisticLoss, tau=0.1)),
}
STEPS, LR, SHARE = 200, 0.005, 0.8


def main() -> None:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="pairs to train on")
    parser.add_argument("--test", required=True, help="pairs to measure on")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--test-limit", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="bundled:smollm2-135m")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        study(options, Path(folder))


def study(options: argparse.Namespace, folder: Path) -> None:
    """Train, measure and print."""
    work = Work(options.model, folder)
    pairs = read_pairs(Source(options.data, limit=options.limit))
    test = [each.comparison for each in read_pairs(Source(options.test, limit=options.test_limit))]
    held, prompts = work.states(test), groups(test)
    work.states([each.comparison for each in pairs])  # all at once
    print(f"{len(pairs)} pairs to train on, {len(test)} to measure on ({len(set(prompts.tolist()))} prompts), {options.seeds} seeds")
    right: dict[tuple[str, str], list[NDArray[np.bool_]]] = {}
    strengths: dict[str, list[float]] = {}
    for name, (head, loss) in HEADS.items():
        for seed in range(options.seeds):
            drawn = np.sort(np.random.default_rng(seed).permutation(len(pairs))[: round(SHARE * len(pairs))])
            own = [pairs[i] for i in drawn]
            for action in ACTIONS:
                step = Strength("column" if action == "plain" else action, members=1, head=head, loss=loss, steps=STEPS, lr=LR, seed=seed)  # type: ignore[arg-type]
                outcome = step.apply(own, work)
                if action == "plain":
                    strengths.setdefault(name, []).append(1 - outcome.numbers["share with a negative mean"])
                labels = torch.tensor([(e.comparison.probability, e.comparison.margin) for e in outcome.pairs], dtype=torch.float64)
                states = work.states([each.comparison for each in outcome.pairs])
                model = train(states, labels[:, 0], head, loss, STEPS, LR, seed, margin=labels[:, 1])
                right.setdefault((name, action), []).append(log_odds(model, held).numpy() > 0)
    for name, found in strengths.items():
        listed = ", ".join(f"{value:.3f}" for value in found)
        print(f"{name}: a share of {np.mean(found):.3f} of the pairs has a positive out-of-fold strength (by seed: {listed})")
    columns = ("head", "labels", "accuracy", "95 %, seed 0", "by seed", "against plain, 95 %", "p", "p (Holm)", "McNemar's p, by seed")
    print(f"\n| {' | '.join(columns)} |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    tested = [key for key in right if key[1] != "plain"]
    share = {key: np.mean(found, axis=0) for key, found in right.items()}
    against = {key: bootstrap_difference(share[key], share[key[0], "plain"], 4000, np.random.default_rng(0), prompts) for key in tested}
    corrected = dict(zip(tested, holm([against[key].p for key in tested]), strict=True))
    for key, found in right.items():
        low, high = accuracy_interval(int(found[0].sum()), len(test))
        cells = [*key, f"{share[key].mean():.3f}", f"[{low:.3f}, {high:.3f}]", ", ".join(f"{each.mean():.3f}" for each in found)]
        if key in against:
            d = against[key]
            tests = [f"{mcnemar(each, plain, prompts).p:.2f}" for each, plain in zip(found, right[key[0], "plain"], strict=True)]
            cells += [f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]", f"{d.p:.2f}", f"{corrected[key]:.2f}", ", ".join(tests)]
        print(f"| {' | '.join(cells + [''] * (9 - len(cells)))} |", flush=True)


if __name__ == "__main__":
    main()
