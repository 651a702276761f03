"""Who prefers: cycles from transitive people, and models that take them apart; the checks of four papers, with controls.

    python -m benchmarks.annotators theory synthetic park pal em communities --seeds 5 --out benchmarks/results/annotators.json

No language model is needed: hidden states are drawn. Every figure is a mean over seeds with Student's 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from prefrep.annotators import Annotators
from prefrep.functional.aggregation import majority_margins
from prefrep.functional.intransitivity import triples
from prefrep.functional.losses import logistic
from prefrep.nn.context import ANYBODY, Context
from prefrep.nn.heads import BTHead, GPMHead, PreferenceHead
from prefrep.nn.mixture import MixtureHead
from prefrep.nn.people import introduce, members_of, penalty
from prefrep.nn.personal import IdealPointHead, PersonalHead, PersonalSkew

Labels = tuple[Tensor, Tensor, Tensor]  # states of winners [P, H], of losers [P, H], annotators [P]


def fit(head: PreferenceHead, labels: Labels, people: int, steps: int = 400, rate: float = 0.05, decay: float = 0.0) -> PreferenceHead:
    """Full-batch AdamW on the mean loss of labels, with the penalties of people; mixtures get an E-step every 20 steps."""
    a, b, who = labels
    if any(members_of(head)):
        introduce(head, Annotators({str(u): max(int((who == u).sum()), 1) for u in range(people)}))
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        optimizer.zero_grad()
        ones = torch.ones(len(a))
        if isinstance(head, MixtureHead):
            if step and step % 20 == 0:
                expect(head, labels)
            by_type = head.by_type(head.embed(a), head.embed(b))
            losses = (torch.stack([logistic(s, ones) for s in by_type.unbind(-1)], -1) * head.types.of(who)).sum(-1)
        else:
            losses = logistic(head.compare(head.embed(a), head.embed(b), Context(None, who)), ones)
            if any(members_of(head)):
                losses = losses + penalty(head, who)
        losses.mean().backward()
        optimizer.step()
        schedule.step()
    if isinstance(head, MixtureHead):
        expect(head, labels)
    return head.eval()


@torch.no_grad()
def expect(head: MixtureHead, labels: Labels) -> float:
    """The E-step."""
    a, b, who = labels
    by_type = head.by_type(head.embed(a), head.embed(b))
    likelihood = torch.stack([-logistic(s, torch.ones(len(a))) for s in by_type.unbind(-1)], -1)
    return head.types.expect(torch.zeros_like(head.types.responsibilities).index_add_(0, who, likelihood))


def restarts(make: Callable[[], MixtureHead], labels: Labels, people: int, times: int = 3, **options: Any) -> MixtureHead:
    """The mixture of largest likelihood among several starts."""
    found = [fit(make(), labels, people, **options) for _ in range(times)]
    return max((each for each in found if isinstance(each, MixtureHead)), key=lambda each: expect(each, labels))


@torch.no_grad()
def accuracy(head: PreferenceHead, labels: Labels, ask: bool = True) -> float:
    """Share of labels whose winner scores higher."""
    a, b, who = labels
    scores = head.compare(head.embed(a), head.embed(b), Context(None, who) if ask else ANYBODY)
    return float((scores > 0).float().mean())


def newcomers(head: PreferenceHead, labels: Labels, people: int) -> None:
    """Vectors of new annotators alone are fitted; everything shared stays."""
    a, b, who = labels
    known = next(members_of(head))
    first = len(known.annotators)
    introduce(head, Annotators({f"new {u}": max(int((who == u).sum()), 1) for u in range(people)}))
    with torch.no_grad():
        e = head.embed(a), head.embed(b)
    head.requires_grad_(False)
    vectors = [each.offsets.requires_grad_() for each in members_of(head) if hasattr(each, "offsets")]
    optimizer = torch.optim.LBFGS(vectors, max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        context = Context(None, who + first)
        loss = (logistic(head.compare(*e, context), torch.ones(len(a))) + penalty(head, who + first)).sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)


# ---- theory


def theory(seed: int) -> dict[str, float]:
    """Share of prompts with a cyclic majority among three responses, by the number of equally large types with random orders.

    Impartial culture: Z types are Z voters. 1/18 for Z = 3 (Guilbaud 1952), 0.0877 for many: 1/4 - 3/(2 pi) arcsin(1/3), from the
    probability that three normal variables of correlation 1/3 agree in sign.
    """
    generator = np.random.default_rng(seed)
    found = {}
    for types in (1, 3, 5, 7, 15, 101):
        rewards = generator.normal(size=(20_000, types, 3))
        tables = rewards[..., :, None] - rewards[..., None, :]
        found[f"Z = {types}"] = float(triples(np.sign(tables).mean(1)).cyclic.mean())
    return found


# ---- synthetic society


def society(seed: int, people: int = 60, types: int = 3, prompts: int = 60, size: int = 4, share: float = 0.3) -> dict[str, Any]:
    """Types with random tastes over responses; each person judges a share of the pairs, P = sigmoid(difference of the type's rewards)."""
    generator = np.random.default_rng(seed)
    rewards = generator.normal(0, 2, (types, prompts, size))
    kind = np.arange(people) % types
    pairs = [(p, i, j) for p in range(prompts) for i in range(size) for j in range(i + 1, size)]
    train: list[tuple[int, int, int]] = []
    test: list[tuple[int, int, int]] = []
    for u in range(people):
        for p, i, j in pairs:
            difference = rewards[kind[u], p, i] - rewards[kind[u], p, j]
            seen = generator.random() < share
            first = generator.random() < 1 / (1 + math.exp(-difference)) if seen else difference > 0
            winner, loser = (i, j) if first else (j, i)
            (train if seen else test).append((p * size + winner, p * size + loser, u))
    states = torch.eye(prompts * size)

    def labels(rows: list[tuple[int, int, int]]) -> Labels:
        a, b, who = torch.tensor(rows).unbind(1)
        return states[a], states[b], who

    tables = rewards[kind][..., :, None] - rewards[kind][..., None, :]
    return {"train": labels(train), "test": labels(test), "states": states.view(prompts, size, -1), "majority": majority_margins(tables)}


@torch.no_grad()
def social(head: PreferenceHead, states: Tensor, people: int) -> np.ndarray[Any, Any]:
    """What a model says of the society, [prompts, K, K]: the majority of the people that it knows, or its one table."""
    tables = []
    for each in states:
        e = head.embed(each)
        if any(members_of(head)):
            tables.append(np.sign(head.table(e, Context(None, torch.arange(people))).numpy()).mean(0))
        else:
            tables.append(head.table(e).numpy())
    return np.array(tables)


def held(found: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Cyclic triples of the true majority, and how many of them a model holds in the same direction."""
    total = same = 0
    size = truth.shape[-1]
    for table, true in zip(found, truth, strict=True):
        for i in range(size):
            for j in range(i + 1, size):
                for k in range(j + 1, size):
                    edges = ((i, j), (j, k), (k, i))
                    signs = {np.sign(true[x, y]) for x, y in edges}
                    if len(signs) == 1 and 0 not in signs:
                        total += 1
                        same += {np.sign(table[x, y]) for x, y in edges} == signs
    return total, same


SOCIETY: dict[str, Callable[[int], PreferenceHead]] = {
    "Bradley-Terry, pooled": BTHead,
    **{f"GPM, d = {d}, pooled": partial(GPMHead, dim=d, normalize=False) for d in (2, 4, 8)},
    "PersonalHead, rank 4": partial(PersonalHead, rank=4),
    "IdealPointHead, 3 prototypes, d = 8": partial(IdealPointHead, prototypes=3, dim=8),
    "PersonalSkew, d = 8": partial(GPMHead, dim=8, normalize=False, skew=PersonalSkew),
    "MixtureHead, 3 types": partial(MixtureHead, types=3),
}


def synthetic(seed: int) -> dict[str, float]:
    """Who holds the cycles of the majority, and who predicts what people say of pairs that they have not judged."""
    data = society(seed)
    found: dict[str, float] = {}
    total = 0
    for name, make in SOCIETY.items():
        torch.manual_seed(seed)
        build = partial(make, data["train"][0].shape[1])
        if name.startswith("Mixture"):
            head: PreferenceHead = restarts(build, data["train"], 60)  # type: ignore[arg-type]
        else:
            head = fit(build(), data["train"], 60, decay=0.02)
        total, same = held(social(head, data["states"], 60), data["majority"])
        found[f"{name}: held-out labels"] = accuracy(head, data["test"])
        found[f"{name}: cycles held"] = same / total if total else math.nan
    found["cyclic triples of the true majority"] = total
    return found


# ---- the checks of four papers


def rows(weights: Tensor, who: Tensor, size: int, generator: torch.Generator, noisy: bool, scale: float = 1.0) -> Labels:
    """Labels of linear tastes: differences of features, drawn (noisy) or by sign."""
    x = torch.randn(len(who), size, generator=generator)
    odds = scale * (x * weights[who]).sum(-1)
    first = torch.rand(len(who), generator=generator) < odds.sigmoid() if noisy else odds > 0
    sign = torch.where(first, 1.0, -1.0).unsqueeze(-1)
    return sign * x / 2, -sign * x / 2, who  # the states of winner and loser differ by x


def park(seed: int) -> dict[str, float]:
    """arXiv:2405.00254: shared low rank against one model for all and one for each; 60 people with 15 labels, rank 3 of 30."""
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(30, 3, generator=g))[0]
    theta = 3 * torch.randn(80, 3, generator=g) @ basis.T
    old, new = torch.arange(60), torch.arange(60, 80)
    train = rows(theta, old.repeat_interleave(15), 30, g, True)
    test = rows(theta, old.repeat_interleave(100), 30, g, False)
    few, later = rows(theta, new.repeat_interleave(15), 30, g, True), rows(theta, new.repeat_interleave(100), 30, g, False)
    torch.manual_seed(seed)
    shared = fit(PersonalHead(30, 3, spread=3.0), train, 60, steps=1500, decay=0.01)
    found = {
        "one for all": accuracy(fit(BTHead(30), train, 60), test),
        "one for each": float(
            np.mean([accuracy(fit(BTHead(30), _of(train, u), 1, steps=300, decay=0.1), _of(test, u)) for u in range(60)])
        ),
        "shared": accuracy(shared, test),
    }
    newcomers(shared, (few[0], few[1], few[2] - 60), 20)
    found["newcomers, shared"] = accuracy(shared, later)
    found["newcomers, one for each"] = float(
        np.mean([accuracy(fit(BTHead(30), _of(few, u), 1, steps=300, decay=0.1), _of(later, u)) for u in range(60, 80)])
    )
    return found


def _of(labels: Labels, person: int) -> Labels:
    mine = labels[2] == person
    return labels[0][mine], labels[1][mine], torch.zeros(int(mine.sum()), dtype=torch.long)


def pal(seed: int) -> dict[str, float]:
    """arXiv:2406.08469: two groups by ideal points, 10 labels for each of 200 people, 5 labels for 40 newcomers; d = 8."""
    g = torch.Generator().manual_seed(seed)
    points = torch.nn.functional.normalize(torch.randn(2, 8, generator=g), dim=-1) * 3
    points[1] = -0.5 * points[0] + 1.5 * torch.randn(8, generator=g)

    def labels(people: Tensor, noisy: bool) -> Labels:
        x, y = torch.randn(2, len(people), 8, generator=g)
        ideal = points[people % 2]
        odds = 4 * ((y - ideal).norm(dim=-1) - (x - ideal).norm(dim=-1))
        first = (torch.rand(len(people), generator=g) < odds.sigmoid() if noisy else odds > 0).unsqueeze(-1)
        return torch.where(first, x, y), torch.where(first, y, x), people

    old, new = torch.arange(200), torch.arange(40)
    train, test = labels(old.repeat_interleave(10), True), labels(old.repeat_interleave(20), False)
    few, later = labels(new.repeat_interleave(5), True), labels(new.repeat_interleave(20), False)
    torch.manual_seed(seed)
    head = fit(IdealPointHead(8, 2, 8), train, 200, steps=800)
    weights = next(members_of(head)).of(old).softmax(-1).argmax(-1)
    match = float((weights == old % 2).float().mean())
    found = {"Bradley-Terry": accuracy(fit(BTHead(8), train, 200), test), "ideal points": accuracy(head, test)}
    found["group found"] = max(match, 1 - match)
    newcomers(head, few, 40)
    found["newcomers, 5 labels"] = accuracy(head, (later[0], later[1], later[2] + 200))
    return found


def em(seed: int) -> dict[str, float]:
    """arXiv:2405.15065: two types, linear in 8 features; the control has opposite types, whom one label does not tell apart."""
    found: dict[str, float] = {}
    for control in (False, True):
        for count, people in (
            (1, 1000 if not control else 600),
            (2, 1000 if not control else 600),
            (5, 200 if not control else 600),
            (10, 200),
        ):
            if control and count == 10:
                continue
            g = torch.Generator().manual_seed(seed)
            first = torch.randn(8, generator=g)
            second = -first if control else -0.5 * first + 1.5 * torch.randn(8, generator=g)
            weights, old = torch.stack([first, second]), torch.arange(people)
            who = old.repeat_interleave(count)
            a, b, _ = rows(weights, who % 2, 8, g, True, 2.0)
            x, y, _ = rows(weights, old.repeat_interleave(20) % 2, 8, g, False)
            torch.manual_seed(seed)
            head = restarts(partial(MixtureHead, 8, 2), (a, b, who), people, steps=500)
            match = float((head.types.responsibilities.argmax(-1) == old % 2).float().mean())
            name = f"{'opposite types' if control else 'types'}, {count} label{'s' * (count > 1)}"
            found[f"{name}: types found"] = max(match, 1 - match)
            found[f"{name}: held-out labels"] = accuracy(head, (x, y, old.repeat_interleave(20)))
            found[f"{name}: one model"] = accuracy(fit(BTHead(8), (a, b, who), people), (x, y, who[:0]), ask=False)
    return found


def communities(seed: int) -> dict[str, float]:
    """arXiv:2410.16027: three communities, two of them opposite; a model that reads the community, and the two controls."""
    g = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, 10, generator=g)
    weights[1] = -weights[0]
    who, later = torch.randint(3, (1500,), generator=g), torch.randint(3, (3000,), generator=g)

    def block(labels: Labels, named: Tensor) -> Labels:
        """States in the block of the community, as a language model that has read its name would have them."""
        marks = torch.nn.functional.one_hot(named, 3).float().unsqueeze(-1)
        return (marks * labels[0].unsqueeze(1)).flatten(1), (marks * labels[1].unsqueeze(1)).flatten(1), labels[2]

    train, test = rows(weights, who, 10, g, True, 2.0), rows(weights, later, 10, g, False)
    shuffled = who[torch.randperm(len(who), generator=g)]
    conditioned = fit(BTHead(30), block(train, who), 3)
    return {
        "not told": accuracy(fit(BTHead(10), train, 3), test),
        "told": accuracy(conditioned, block(test, later)),
        "told a wrong one": accuracy(conditioned, block(test, (later + torch.randint(1, 3, (3000,), generator=g)) % 3)),
        "trained on shuffled ones": accuracy(fit(BTHead(30), block(train, shuffled), 3), block(test, later)),
    }


PARTS = {"theory": theory, "synthetic": synthetic, "park": park, "pal": pal, "em": em, "communities": communities}


def main() -> None:
    """Run parts over seeds and write means with intervals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/annotators.json"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    for part in asked.parts:
        found = [PARTS[part](seed) for seed in range(asked.seeds)]
        results[part] = {name: summary([each[name] for each in found]) for name in found[0]}
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(results, indent=1) + "\n")
        print(part)
        for name, figure in results[part].items():
            print(f"  {name:50} {figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]", flush=True)


def summary(values: list[float]) -> dict[str, Any]:
    """Mean and Student's 95 % interval over seeds."""
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    half = error * float(stats.t.ppf(0.975, max(len(values) - 1, 1)))
    return {"mean": mean, "low": mean - half, "high": mean + half, "values": values}


if __name__ == "__main__":
    main()
