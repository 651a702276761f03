"""Whether the steps of `prefrep label` do what their papers promise, on synthetic states with known labels.

Each check is a function of a seed that returns its figures; texts stand for states, which are computed instead of read. The set-ups follow
small calibrations in numpy; heads, losses and steps are those of prefrep.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.step_checks import first_wrong
from prefrep.disk import replace_lines
from prefrep.functional.groups import probabilities
from prefrep.judges.base import Judge, Verdict
from prefrep.labels import CrossPrompt, Labelled, LabelStep, Relevance, Route, Strength, Work
from prefrep.labels.heads import log_odds, train
from prefrep.labels.rows import written
from prefrep.labels.states import States
from prefrep.metrics.paired import t_interval
from prefrep.modules.models import BradleyTerry
from prefrep.nn.heads import BTHead
from prefrep.nn.losses import LogisticLoss, PointwiseLoss, PreferenceLoss
from prefrep.records import Comparison, Message, Messages, RankedResponses

Floats = NDArray[np.float64]
Read = Callable[[Messages], Floats]  # (prompt, response) -> state [H]
SHARE = 0.2  # planted flips


class Computed(Work):
    """States that a function computes from conversations.

    Args:
        read: The function.
        folder: See `Work`.
    """

    def __init__(self, read: Read, folder: Path) -> None:
        super().__init__("none", folder)
        self._read = read

    def states(self, pairs: Sequence[Comparison], layout: Literal["single", "pair"] = "single") -> States:
        """The computed states; `layout` is single."""
        ends = [np.stack([self._read(each.prompt + side) for side in (each.chosen, each.rejected)]) for each in pairs]
        prompts = [self._read(each.prompt) if each.prompt else np.zeros_like(ends[0][0]) for each in pairs]
        return States(torch.as_tensor(np.stack(ends), dtype=torch.float32), torch.as_tensor(np.stack(prompts), dtype=torch.float32))


def pair(prompt: str, chosen: str, rejected: str, **more: Any) -> Labelled:
    """A pair of texts."""
    return Labelled(Comparison((Message("user", prompt),), (Message("assistant", chosen),), (Message("assistant", rejected),), **more))


def ordered(i: int, first_wins: object, **more: Any) -> Labelled:
    """Answers 2 i and 2 i + 1 to the prompt 2 i, the winner first."""
    a, b = (2 * i, 2 * i + 1) if first_wins else (2 * i + 1, 2 * i)
    return pair(str(2 * i), str(a), str(b), **more)


def fit(
    work: Work, pairs: Sequence[Labelled], steps: int, lr: float, seed: int, loss: Callable[[], PreferenceLoss] = LogisticLoss
) -> Callable[[States], Floats]:
    """A Bradley-Terry head of labelled pairs; returns its log-odds of other pairs."""
    labels = torch.tensor([(e.comparison.probability, e.comparison.margin, e.comparison.weight) for e in pairs], dtype=torch.float64)
    p, margin, weight = labels.T
    states = work.states([each.comparison for each in pairs])
    model = train(states, p, BTHead, loss, steps, lr, seed, margin=margin, weight=weight, module=BradleyTerry)
    return lambda states: log_odds(model, states).numpy()


def accuracy(scores: Floats) -> float:
    """Share of pairs whose better answer, the first one, scores higher."""
    return float((scores > 0).mean())


def auc(wrong: NDArray[np.bool_], score: Floats) -> float:
    """P(the score of a wrong label exceeds that of a right one)."""
    ranks, n = rankdata(score), int(wrong.sum())
    return float((ranks[wrong].sum() - n * (n + 1) / 2) / (n * (len(wrong) - n)))


# ---------------------------------------------------------------------------------------------------------------------- strength
def _strength(
    work: Work, truth: Sequence[Labelled], test: Sequence[Labelled], seed: int, steps: int, lr: float, members: int, least: int
) -> dict[str, float]:
    """Plant flips, detect them, and compare heads trained on what `Strength` makes of them.

    Args:
        work: States.
        truth: Pairs with right labels.
        test: Others.
        seed: Seed of everything.
        steps: Optimizer steps.
        lr: Learning rate.
        members: Members of out-of-fold ensembles; twice as many in-sample.
        least: Optimizer steps of the ensembles.
    """
    draw = np.random.default_rng([seed, 1])
    wrong = np.zeros(len(truth), bool)
    wrong[draw.permutation(len(truth))[: round(SHARE * len(truth))]] = True
    flipped = [each.relabelled(probability=0.0) if w else each for each, w in zip(truth, wrong, strict=True)]
    held = work.states([each.comparison for each in test])

    def learnt(pairs: Sequence[Labelled]) -> float:
        return accuracy(fit(work, pairs, steps, lr, seed)(held))

    clean = fit(work, truth, steps, lr, seed)
    found = {
        "clean": accuracy(clean(held)),
        "clean, accuracy on its training pairs": accuracy(clean(work.states([each.comparison for each in truth]))),
        "20 % flipped": learnt(flipped),
    }
    for name, folds, count in (("out-of-fold", 5, members), ("in-sample", 1, 2 * members)):
        make = partial(Strength, share=SHARE, folds=folds, members=count, steps=least, lr=lr, seed=seed)
        done = make("column").apply(flipped, work).pairs
        mean = np.array([each.columns["strength_mean"] for each in done])
        found[f"AUC of planted flips, {name}"] = auc(wrong, -mean)
        found[f"precision of the weakest 20 %, {name}"] = float(wrong[np.argsort(mean)[: round(SHARE * len(mean))]].mean())
        found[f"flip the weakest 20 %, {name}"] = learnt(make("flip").apply(flipped, work).pairs)
        if folds > 1:
            for action in ("drop", "soft", "margin"):
                found[f"{action}, {name}"] = learnt(make(action).apply(flipped, work).pairs)
    return found


def strength_linear(seed: int, folder: Path, n: int = 1000, d: int = 100, members: int = 3, tests: int = 2000) -> dict[str, float]:
    """A well-specified linear reward, w = 3 g / sqrt(d): detection works, and repairing labels does not help."""
    draw = np.random.default_rng(seed)
    w, table = 3 * draw.standard_normal(d) / np.sqrt(d), draw.standard_normal((2 * (n + tests), d)) / np.sqrt(2)
    work = Computed(lambda turns: table[int(turns[-1].content)], folder)
    pairs = [ordered(i, (table[2 * i] - table[2 * i + 1]) @ w > 0) for i in range(n + tests)]
    return _strength(work, pairs[:n], pairs[n:], seed, steps=200, lr=0.05, members=members, least=200)


def strength_memorising(seed: int, folder: Path, n: int = 600, members: int = 2, tests: int = 1500, steps: int = 800) -> dict[str, float]:
    """A head of 2000 random features that memorises wrong labels: repairing labels helps."""
    draw = np.random.default_rng(seed)
    w, inputs = draw.standard_normal(6), draw.standard_normal((2 * (n + tests), 6))
    table = np.maximum(inputs @ draw.standard_normal((6, 2000)) / np.sqrt(6) + draw.standard_normal(2000), 0) / np.sqrt(200)
    reward = 2 * np.tanh(inputs @ w)
    work = Computed(lambda turns: table[int(turns[-1].content)], folder)
    pairs = [ordered(i, reward[2 * i] > reward[2 * i + 1]) for i in range(n + tests)]
    return _strength(work, pairs[:n], pairs[n:], seed, steps=steps, lr=0.05, members=members, least=steps // 2)


# ------------------------------------------------------------------------------------------------------------------------- route
_HUMAN, _AI = (0.02, 0.02, 0.35, 0.35, 0.2, 0.2), (0.45, 0.45, 0.05, 0.05, 0.2, 0.2)  # error rates by type


def routed(seed: int, folder: Path, n: int = 1500, d: int = 40, mixes: int = 60, tests: int = 1500) -> dict[str, float]:
    """Two label sources that err on different types: routed pairs beat both sources, and random ones, at a budget of 30 %."""
    draw = np.random.default_rng(seed)
    w, table = 3 * draw.standard_normal(d) / np.sqrt(d), draw.standard_normal((2 * (n + tests), d)) / np.sqrt(2)
    work = Computed(lambda turns: table[int(turns[-1].content)], folder)
    kinds = draw.integers(0, 6, n)

    def told(i: int, source: str, wrong: bool) -> Labelled:
        right = (table[2 * i] - table[2 * i + 1]) @ w > 0
        return ordered(i, right != wrong, label_source=source, tags={"type": str(kinds[i % n])})

    human = [told(i, "human", draw.random() < _HUMAN[kinds[i]]) for i in range(n)]
    ai = [told(i, "ai", draw.random() < _AI[kinds[i]]) for i in range(n)]
    test = [told(i, "", False) for i in range(n, n + tests)]
    gold = folder / f"gold-{seed}.jsonl"
    replace_lines(gold, written(test))
    step = Route(str(gold), budget=0.3, features=("tag:type",), mixes=mixes, seed=seed)
    outcome = step.apply([*human, *ai], work)
    held = work.states([each.comparison for each in test])
    gain = np.array([each.columns["route_gain"] for each in outcome.pairs])
    random = draw.permutation(n) < round(0.3 * n)
    by_type = [float(gain[kinds == kind].mean()) for kind in range(6)]
    sets = {
        "all human": human,
        "all AI": ai,
        "random 30 % human": [human[i] if random[i] else ai[i] for i in range(n)],
        "routed 30 % human": outcome.pairs,
        "human where the gain is positive": [human[i] if gain[i] > 0 else ai[i] for i in range(n)],
    }
    return {
        **{name: accuracy(fit(work, pairs, 200, 0.02, seed)(held)) for name, pairs in sets.items()},
        "signs of the four one-sided types right": float(np.mean([g > 0 for g in by_type[:2]] + [g < 0 for g in by_type[2:4]])),
        "correlation on held-out mixes": float(outcome.numbers["correlation of predicted and measured accuracy, held-out mixes"]),
    }


# ------------------------------------------------------------------------------------------------------------------------ axioms
def relevance(seed: int, folder: Path, n: int = 1500, tests: int = 1500) -> dict[str, float]:
    """Votes on one prompt do not teach relevance; pairs with answers to other prompts do, at a price in accuracy of votes."""
    draw = np.random.default_rng(seed)
    topics = draw.standard_normal((n + tests, 12))
    qualities = draw.standard_normal((2 * (n + tests), 8))
    of = topics.repeat(2, axis=0) + 0.5 * draw.standard_normal((2 * (n + tests), 12))
    better = np.full(8, 1 / np.sqrt(8))

    def read(turns: Messages) -> Floats:
        prompt, answer = int(turns[0].content) // 2, turns[-1].content
        i, lifted = int(answer.removesuffix("+")), answer.endswith("+")
        if len(turns) == 1:  # the prompt alone
            return np.concatenate([np.zeros(8), topics[prompt], topics[prompt] ** 2])
        return np.concatenate([qualities[i] + 2 * better * lifted, of[i], topics[prompt] * of[i]])

    work, score = Computed(read, folder), qualities @ better
    chance, won = probabilities(2 * (score[::2] - score[1::2])), score[::2] > score[1::2]
    votes = [ordered(i, draw.random() < chance[i]) for i in range(n)]
    true = [ordered(i, won[i]) for i in range(n, n + tests)]
    other = n + (np.arange(tests) + draw.integers(1, tests)) % tests
    off = [pair(str(2 * (n + i)), str(2 * (n + i)), f"{2 * j}+") for i, j in enumerate(other)]
    sets: dict[str, list[LabelStep]] = {"votes alone": [], **{f"+ 20 % {kind}": [Relevance(kind, share=0.2, seed=seed)] for kind in KINDS}}
    found = {}
    for name, steps in sets.items():
        pairs = votes
        for step in steps:
            pairs = step.apply(pairs, work).pairs
        head = fit(work, pairs, 200, 0.02, seed)
        for what, test in (("votes", true), ("relevance", off)):
            found[f"{what}: {name}"] = accuracy(head(work.states([each.comparison for each in test])))
    return found


# -------------------------------------------------------------------------------------------------------- cross-prompt, pointwise
class Sampled(Judge):
    """Draws labels with P(a > b) = sigmoid(beta * (reward of a - reward of b)).

    Args:
        reward: Reward of a conversation, by its text.
        beta: See above.
        seed: Seed of the draws.
    """

    def __init__(self, reward: Callable[[str], float], beta: float, seed: int) -> None:
        self._reward, self._beta, self._draw = reward, beta, np.random.default_rng([seed, 2])

    def verdicts(self, records: Sequence[RankedResponses]) -> Iterator[Verdict]:
        """See `Judge`; a label is 30 nats."""
        for record in records:
            a, b = (self._reward(response[-1].content) for response in record.responses)
            won = 30.0 if self._draw.random() < probabilities(np.array(self._beta * (a - b))) else -30.0
            yield Verdict(np.array([[0, won], [-won, 0]], np.float32))


def across(
    seed: int, folder: Path, spread: float = 1.0, beta: float = 2.0, n: int = 2000, d: int = 24, tests: int = 1500
) -> dict[str, float]:
    """Bradley-Terry and pointwise heads on pairs of one prompt, and on as many across prompts; `spread`: how the answers to one differ."""
    draw = np.random.default_rng(seed)
    w, u = draw.standard_normal((2, d)) / np.sqrt(d)
    prompts, common = draw.standard_normal((n + tests, d)), draw.standard_normal((n + tests, d))
    answers = draw.standard_normal((2 * (n + tests), d))
    answers = answers if spread == 1 else common.repeat(2, axis=0) + spread * answers
    rewards = answers @ w + (prompts @ u).repeat(2)
    work = Computed(lambda turns: np.concatenate([prompts[int(turns[-1].content) // 2], answers[int(turns[-1].content)]]), folder)
    chance, better = probabilities(beta * (rewards[::2] - rewards[1::2])), rewards[::2] > rewards[1::2]
    same = [ordered(i, draw.random() < chance[i]) for i in range(n)]
    test = [ordered(i, better[i]) for i in range(n, n + tests)]
    other = CrossPrompt(judge=Sampled(lambda text: float(rewards[int(text)]), beta, seed), alone=True, seed=seed).apply(same, work).pairs
    held = work.states([each.comparison for each in test])
    wrong = [(each.comparison.chosen[-1].content == str(2 * i)) != better[i] for i, each in enumerate(same)]
    return {
        "wrong labels": float(np.mean(wrong)),
        **{
            f"{name}, {where}": accuracy(fit(work, pairs, 200, 0.02, seed, loss)(held))
            for where, pairs in (("same prompt", same), ("across prompts", other))
            for name, loss in (("BT", LogisticLoss), ("pointwise", PointwiseLoss))
        },
    }


KINDS: tuple[Literal["random", "near", "liked"], ...] = ("random", "near", "liked")
CHECKS: dict[str, Callable[..., dict[str, float]]] = {
    "strength, well-specified": strength_linear,
    "strength, memorising": strength_memorising,
    "route": routed,
    "relevance": relevance,
    "cross-prompt, normal diversity": partial(across, beta=10.0),
    "cross-prompt, nearly identical answers": partial(across, spread=0.1),
    "steps, wrong ones show in all later states": first_wrong,
    "steps, wrong ones fade by half a step": partial(first_wrong, fade=0.5),
    "steps, answers give the outcome away": partial(first_wrong, answer=5.0),
    "pointwise, many wrong labels": partial(across, beta=0.2),
}


def main() -> None:
    """Run the checks and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=CHECKS, action="append", help="run this check; may be repeated")
    options = parser.parse_args()
    for name in options.only or CHECKS:
        found = []
        for seed in range(options.seeds):
            with tempfile.TemporaryDirectory() as folder:
                found.append(CHECKS[name](seed, Path(folder)))
        print(f"\n{name}, {options.seeds} seeds\n\n| | mean | 95 % | by seed |\n| --- | --- | --- | --- |")
        for key in found[0]:
            values = [each[key] for each in found]
            interval = t_interval(values)
            said = "-" if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"
            print(f"| {key} | {np.mean(values):.3f} | {said} | {', '.join(f'{value:.3f}' for value in values)} |", flush=True)


if __name__ == "__main__":
    main()
