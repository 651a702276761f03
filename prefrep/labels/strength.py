"""Strength of preferences: margins of an ensemble, and what is done about weak and wrong labels (Secrets of RLHF II, arXiv:2401.06080)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from prefrep.data.digests import key
from prefrep.data.firsts import Firsts, Ints, numbered
from prefrep.data.spool import Spool
from prefrep.errors import ConfigError
from prefrep.labels.base import Example, Floats, LabelStep, Outcome, Work, example
from prefrep.labels.heads import STEP, log_odds, train
from prefrep.labels.rows import Labelled, comparisons
from prefrep.labels.states import Spooled, States, digest
from prefrep.nn.heads import BTHead, PreferenceHead
from prefrep.nn.losses import LogisticLoss, PreferenceLoss
from prefrep.parts import recipe
from prefrep.records import Comparison
from prefrep.scoring.loading import Scoring, fingerprint_of

Singles = NDArray[np.float32]
Action = Literal["column", "flip", "soft", "margin", "drop"]
SHOWN = 8  # examples


class Strength(LabelStep):
    """Margins of an ensemble as columns, and a new label for the weakest pairs.

    d_m is the log-odds, by model m, that the labelled winner beats the loser; the strength of a pair is their mean u, with a standard
    deviation. It works for every head, since a pair's log-odds is r(chosen) - r(rejected) for reward models. Out-of-fold margins (each from
    a model that has not seen the prompt) are a variant of ours; the paper's are in-sample. Flipping, softening or dropping weak pairs helps
    models that memorise wrong labels, and does not help well-specified ones.

    Columns: `strength_mean`, `strength_std` (log-odds), `strength_action`.

    Args:
        action: What happens to the `share` of pairs with the lowest mean. `column`: nothing. `flip`: P becomes 1 - P. `soft`: P becomes
            (1 - smoothing) P + smoothing (1 - P). `drop`: they are left out. `margin`: all pairs get the mean as their margin, -log
            sigmoid(s - u), whatever the share.
        share: Share of the pairs, in (0, 1).
        smoothing: See `action`; 0.5 makes ties.
        members: Ensembles of folds, or models under `folds: 1`.
        folds: Parts of the prompts; a pair gets its margin from the model that was trained on the other parts. 1: in-sample, each member
            is trained on a random half of the prompts and all members score all pairs.
        models: Exported folders, hub ids or URLs that give the margins instead; each is a member.
        head: Builds the head that is trained on frozen states.
        loss: Builds its loss.
        steps: Optimizer steps, with all pairs in each, or of many pairs with as many as `labels.heads.STEP`.
        lr: Learning rate.
        seed: Seed of folds and heads.

    Raises:
        ConfigError: A value is out of range.
    """

    def __init__(
        self,
        action: Action = "column",
        share: float = 0.2,
        smoothing: float = 0.5,
        members: int = 3,
        folds: int = 5,
        models: list[str] | None = None,
        head: Callable[[int], PreferenceHead] = BTHead,
        loss: Callable[[], PreferenceLoss] = LogisticLoss,
        steps: int = 200,
        lr: float = 0.005,
        seed: int = 0,
    ) -> None:
        if action not in get_args(Action):
            raise ConfigError(f"Strength.action must be one of {', '.join(get_args(Action))}, got {action!r}")
        for name, value, high in (("share", share, 1.0), ("smoothing", smoothing, 0.5)):
            if not 0 < value <= high or value == 1:
                raise ConfigError(f"Strength.{name} must be above 0 and {'at most 0.5' if high < 1 else 'below 1'}, got {value}")
        for name, least in (("members", members), ("folds", folds), ("steps", steps)):
            if least < 1:
                raise ConfigError(f"Strength.{name} must be 1 or more, got {least}")
        self.action, self.share, self.smoothing, self.models = action, share, smoothing, models
        self.members, self.folds, self.steps, self.lr, self.seed = members, folds, steps, lr, seed
        self.head, self.loss = head, loss

    def apply(self, pairs: Sequence[Labelled], work: Work) -> Outcome:  # noqa: D102
        signs = np.fromiter((each.sign for each in pairs), np.int8)
        labelled = np.flatnonzero(signs)
        if not len(labelled):
            raise ConfigError("Strength: all pairs are ties, which have no winner; use data with preferences")
        margins: Floats | Singles = self._of_models(pairs, work) if self.models else self._trained(pairs, work)  # [M, P]
        margins *= signs
        mean, spread = margins.mean(0, dtype=np.float64), margins.std(0, dtype=np.float64)
        weakest = labelled[np.argsort(mean[labelled], kind="stable")[: round(self.share * len(labelled))]]
        weak = np.zeros(len(pairs), bool)
        weak[weakest] = True
        changed = weakest if self.action in ("flip", "soft", "drop") else weakest[:0]
        names = {"flip": "flipped", "soft": "softened", "drop": "left out"}
        return Outcome(
            Spool(
                self._treated(each, bool(weak[i]), float(mean[i]), float(spread[i]))
                for i, each in enumerate(pairs)
                if not (self.action == "drop" and weak[i])
            ),
            {
                "pairs": len(pairs),
                "members": len(margins),
                "mean strength, log-odds": float(mean[labelled].mean()),
                "share with a negative mean": float((mean[labelled] < 0).mean()),
                "share on which all members disagree with the label": float(np.logical_and.reduce(margins < 0)[labelled].mean()),
                **({names[self.action]: len(changed)} if len(changed) else {}),
                **({"pairs with a margin": len(labelled)} if self.action == "margin" else {}),
            },
            {"strength, log-odds": mean[labelled]},
            [self._shown(names[self.action], pairs[i], mean[i], margins[:, i]) for i in changed[:SHOWN].tolist()],
            [f"Of more than {STEP:,} pairs, a step takes so many, dealt anew in each epoch."] if self._cut(len(pairs)) else [],
        )

    def _cut(self, pairs: int) -> bool:
        """Return whether members may see more pairs than a step takes."""
        return not self.models and pairs * (0.5 if self.folds == 1 else 1 - 1 / self.folds) > STEP

    def _treated(self, each: Labelled, weak: bool, mean: float, spread: float) -> Labelled:
        each = each.noted(strength_mean=round(mean, 6), strength_std=round(spread, 6))
        p = each.comparison.probability
        if self.action == "margin" and each.sign:
            return each.relabelled(margin=round(mean, 6)).noted(strength_action="margin")
        if self.action == "flip" and weak:
            return each.relabelled(probability=1 - p).noted(strength_action="flip")
        if self.action == "soft" and weak:
            return each.relabelled(probability=(1 - self.smoothing) * p + self.smoothing * (1 - p)).noted(strength_action="soft")
        return each

    def _shown(self, what: str, each: Labelled, mean: float, margins: Floats | Singles) -> Example:
        against = int((margins < 0).sum())
        return example(f"{what}, strength {mean:.2f}; {against} of {len(margins)} members prefer the other answer", each.comparison)

    # ---- margins: log-odds of chosen over rejected [M, P]

    def _of_models(self, pairs: Sequence[Labelled], work: Work) -> Floats:
        from prefrep.scoring.workers import open_scorer

        def scores(model: str) -> Floats:
            scorer = open_scorer(model, Scoring())
            if scorer.describe().get("abstains"):
                raise ConfigError(f"Strength.models {model}: a judge that writes may give no verdict; use the step Verdicts")
            return np.fromiter(scorer.compare(comparisons(pairs)), np.float64)

        texts = hashlib.sha256()
        for each in comparisons(pairs):
            texts.update(repr((each.prompt, each.chosen, each.rejected)).encode())
        known = texts.hexdigest()
        return np.stack([work.kept("scores", partial(scores, model), fingerprint_of(model), known) for model in self.models or ()])

    def _trained(self, pairs: Sequence[Labelled], work: Work) -> Singles:
        plain = comparisons(pairs)
        states = work.states(plain, self.head(2))
        labels = np.fromiter((value for each in plain for value in (each.probability, each.margin, each.weight)), np.float32)
        prompts = groups(plain)
        count = int(prompts.max()) + 1
        if self.folds > count:
            raise ConfigError(f"Strength.folds is {self.folds}, and there are only {count} prompts; use fewer folds")
        if count < 2:
            raise ConfigError("Strength: all pairs are on one prompt, and members are trained on half of the prompts; name other data")
        return margins(self, states, labels.reshape(-1, 3), prompts, work)


def groups(pairs: Iterable[Comparison]) -> Ints:
    """Return the number of each pair's prompt [P]: pairs on one prompt belong to one fold. Texts without a prompt stand alone."""
    return numbered(Firsts().add(key(each.prompt) if each.prompt else b"%d" % i for i, each in enumerate(pairs)))


def folds_of(prompts: Ints, folds: int, seed: int) -> Ints:
    """Return the fold of each pair [P] from the number of its prompt, by a seeded permutation; fold sizes differ by one prompt at most."""
    order = np.random.default_rng(seed).permutation(int(prompts.max()) + 1)
    return np.asarray((order % folds).astype(np.int32)[prompts])


def margins(step: Strength, states: States | Spooled, labels: Singles, prompts: Ints, work: Work) -> Singles:
    """Return the log-odds of chosen over rejected by each member [M, P].

    Args:
        step: The settings.
        states: States of the pairs.
        labels: P(chosen > rejected), margin and weight [P, 3].
        prompts: Prompt of each pair [P].
        work: Keeps the margins of each member.
    """
    settings = {name: value for name, value in recipe(step).items() if name not in ("action", "share", "smoothing", "members", "models")}
    depends = (digest(states), labels, prompts, sorted(settings.items()), STEP)
    return np.stack([work.kept(f"member-{m}", partial(_member, step, m, states, labels, prompts), *depends) for m in range(step.members)])


def _member(step: Strength, member: int, states: States | Spooled, labels: Singles, prompts: Ints) -> Singles:
    seed = step.seed * 1000 + member
    inside = step.folds == 1
    fold = folds_of(prompts, 2 if inside else step.folds, seed)
    found = np.zeros(len(prompts), np.float32)
    for number in range(1 if inside else step.folds):
        seen = np.flatnonzero(fold != number)
        p, margin, weight = (torch.as_tensor(column) for column in labels[seen].T)
        model = train(states.at(seen), p, step.head, step.loss, step.steps, step.lr, seed, margin=margin, weight=weight)
        scored = np.arange(len(prompts)) if inside else np.flatnonzero(fold == number)
        found[scored] = log_odds(model, states.at(scored)).numpy()
    return found
