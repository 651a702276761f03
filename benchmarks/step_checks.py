"""Whether step training finds the first wrong step, and training on whole solutions does not; a check of `benchmarks.label_checks`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from prefrep.data.pairs import learnable_pairs
from prefrep.data.trees import NOBODY
from prefrep.evaluation.steps import StepScore, evaluate
from prefrep.labels.heads import Kept
from prefrep.labels.states import States
from prefrep.modules import on_states
from prefrep.modules.models import BradleyTerry
from prefrep.nn.heads import BTHead
from prefrep.nn.losses import LogisticLoss, PreferenceLoss, ValueLoss
from prefrep.records import VALUE, Message, RankedResponses

Floats = NDArray[np.float64]


def first_wrong(
    seed: int, folder: Path, fade: float = 1.0, answer: float = 0.0, n: int = 200, length: int = 6, d: int = 24, tests: int = 1000
) -> dict[str, float]:
    """The first wrong step, found by heads of step values, of step pairs, and of as many pairs of whole solutions.

    A state after a step is noise, -5 on one axis from the wrong step on, and on another axis `answer` after the last step, + or - as the
    solution ends right or wrong: what an outcome can be told by without its steps.

    Args:
        seed: Seed.
        folder: Not used.
        fade: Share of the evidence for a wrong step that each later state keeps.
        answer: See above.
        n: Problems to train on, each with a right solution, and one for each place of a wrong step that leaves it.
        length: Steps.
        d: Dimensions of the noise.
        tests: Held-out solutions with a wrong step; as many others, and right ones, choose the threshold and test it.
    """
    draw = np.random.default_rng(seed)

    def states(wrong: int | None) -> Floats:
        found = draw.standard_normal((length, d))
        first = length if wrong is None else wrong
        found[first:, 0] -= 5 * fade ** np.arange(length - first)
        found[-1, 1] += answer if wrong is None else -answer
        return found

    read: dict[str, Floats] = {}
    trees: list[RankedResponses] = []
    whole: list[RankedResponses] = []
    for i in range(n):
        solutions = {name: states(name) for name in (None, *range(length))}
        read |= {f"{i} {name} {k}": found for name, states_of in solutions.items() for k, found in enumerate(states_of)}

        def siblings(names: Sequence[str], rights: Sequence[bool], i: int = i) -> RankedResponses:
            values = tuple(float(draw.binomial(8, 0.9 if right else 0.05) / 8) for right in rights)
            return RankedResponses(
                (Message("user", str(i)),), tuple((Message("assistant", f"{i} {name}"),) for name in names), values, criterion=VALUE
            )

        for k in range(length):
            trees.append(siblings([f"None {k}", f"{k} {k}"], [True, False]))
            trees += [siblings([f"{k} {later}"], [False]) for later in range(k + 1, length)]
            whole.append(replace(siblings([f"None {length - 1}", f"{k} {length - 1}"], [True, False]), scores=(1.0, 0.0), criterion=""))

    def rewards(records: Sequence[RankedResponses], alone: bool, loss: Callable[[], PreferenceLoss]) -> Callable[[Floats], Floats]:
        pairs = [(record, pair) for record in records for pair in learnable_pairs(record, alone)[0]]
        ends = np.stack([np.stack([read[record.responses[j][0].content] for j in (pair.a, pair.b)]) for record, pair in pairs])
        p, margin, weight = torch.tensor([(pair.probability, pair.margin, pair.weight) for _, pair in pairs], dtype=torch.float64).T
        both = States(torch.as_tensor(ends, dtype=torch.float32), torch.zeros(len(pairs), d))
        batch = both.batch(p, margin, weight)
        batch.pairs[torch.tensor([pair.b == NOBODY for _, pair in pairs]), 1] = NOBODY
        optimizer = partial(torch.optim.AdamW, lr=0.02, betas=(0.9, 0.95), weight_decay=0.0)
        model = on_states.train(BradleyTerry(lambda: cast(Any, Kept(d)), BTHead, loss, optimizer=optimizer), [batch] * 300, seed)
        with torch.no_grad():
            return lambda states: model.head.embed(torch.as_tensor(states, dtype=torch.float32))[:, 0].double().numpy(force=True)

    def scored(read_by: Callable[[Floats], Floats], held: Sequence[tuple[int | None, Floats]]) -> list[StepScore]:
        return [StepScore("", "", length if wrong is None else wrong, tuple(read_by(found).tolist())) for wrong, found in held]

    sets = [[(wrong, states(wrong)) for wrong in (*draw.integers(0, length, tests).tolist(), *[None] * tests)] for _ in range(2)]
    found = {}
    for name, records, alone, loss in (
        ("values and pairs of steps", trees, True, ValueLoss),
        ("pairs of steps", trees, False, LogisticLoss),
        ("pairs of whole solutions", whole, False, LogisticLoss),
    ):
        head = rewards(records, alone, loss)
        results = evaluate(scored(head, sets[0]), scored(head, sets[1]))["subsets"]
        found[f"largest drop: {name}"] = results["largest drop, wrong solutions"]["score"]
        found[f"threshold: {name}"] = results["threshold, wrong solutions"]["score"]
        found[f"threshold, right solutions: {name}"] = results["threshold, right solutions"]["score"]
    return found
