"""Heads that ask who judges, against slow explicit references; who is not known is the population; nothing else has changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from prefrep.annotators import Annotators
from prefrep.errors import ConfigError
from prefrep.io.heads import describe_head, make_head
from prefrep.nn.context import Context
from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PairHead, PreferenceHead
from prefrep.nn.mixture import MixtureHead
from prefrep.nn.people import People, Types, annotators_of, introduce, members_of
from prefrep.nn.personal import IdealPointHead, PersonalHead, PersonalSkew
from prefrep.nn.skew import GatedSkew

H, K = 6, 4
NAMES = {"ann": 3, "ben": 1, "cy": 8}
HEADS: dict[str, Callable[[int], PreferenceHead]] = {
    "personal": partial(PersonalHead, rank=3),
    "ideal A": partial(IdealPointHead, prototypes=3, dim=4),
    "ideal B": partial(IdealPointHead, prototypes=2, dim=3, variant="B"),
    "skew": partial(GPMHead, dim=6, skew=PersonalSkew),
    "hybrid": partial(HybridHead, dim=4, skew=PersonalSkew),
    "mixture": partial(MixtureHead, types=3, head=partial(GPMHead, dim=4, skew=GatedSkew)),
}


def head_of(name: str) -> PreferenceHead:
    """A head that knows three people, whose numbers are drawn."""
    torch.manual_seed(0)
    head = HEADS[name](H)
    introduce(head, Annotators(NAMES))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    return head.double()


@torch.no_grad()
def reward(head: PreferenceHead, h: Tensor, x: Tensor, person: int) -> float:
    """r_u by the formulas of the papers, number by number."""
    psi = [sum(float(head.value_head.weight[f, i] * h[i]) for i in range(H)) for f in range(head.dim)]  # type: ignore[index, union-attr]
    members = next(members_of(head))
    assert isinstance(members, People)
    vector = [float(m) + (float(members.offsets[person, f]) if person >= 0 else 0.0) for f, m in enumerate(members.mean)]
    if isinstance(head, PersonalHead):
        return sum(p * t for p, t in zip(psi, vector, strict=True))
    assert isinstance(head, IdealPointHead)
    total = sum(map(math.exp, vector))
    points = head.points.clone()
    if head.variant == "B":
        assert head.shift is not None
        points = points + (head.shift.weight @ x).reshape(points.shape)
    ideal = [sum(math.exp(v) / total * float(points[m, f]) for m, v in enumerate(vector)) for f in range(head.dim)]
    return -math.sqrt(sum((p - i) ** 2 for p, i in zip(psi, ideal, strict=True)))


@pytest.mark.parametrize("name", ["personal", "ideal A", "ideal B"])
@pytest.mark.parametrize("person", [-1, 0, 2])
def test_rewards_are_those_of_the_papers(name: str, person: int) -> None:
    head, x = head_of(name), torch.randn(H, dtype=torch.double)
    hidden = torch.randn(K, H, dtype=torch.double)
    table = head.table(head.embed(hidden), Context(x, torch.tensor(person)))
    slow = [reward(head, h, x, person) for h in hidden]
    expected = torch.tensor([[a - b for b in slow] for a in slow], dtype=torch.double)
    torch.testing.assert_close(table, expected, rtol=0, atol=1e-9)


def test_blocks_of_a_person_weigh_as_the_formula_says() -> None:
    head = head_of("skew")
    assert isinstance(head, GPMHead) and isinstance(head.skew, PersonalSkew)
    e = head.embed(torch.randn(K, H, dtype=torch.double))
    weights = head.skew.people.mean + head.skew.people.offsets[1]
    for i in range(K):
        for j in range(K):
            slow = sum(float(weights[n] * (e[i, 2 * n] * e[j, 2 * n + 1] - e[i, 2 * n + 1] * e[j, 2 * n])) for n in range(3))
            assert float(head.compare(e[i], e[j], Context(None, torch.tensor(1)))) == pytest.approx(slow, abs=1e-12)
    matrix = head.skew.matrix(Context(None, torch.tensor(1)))
    torch.testing.assert_close(e @ matrix.T @ e.T, head.table(e, Context(None, torch.tensor(1))), atol=1e-12, rtol=0)


def test_a_mixture_is_the_mean_of_its_types() -> None:
    head, x = head_of("mixture"), torch.randn(H, dtype=torch.double)
    assert isinstance(head, MixtureHead)
    hidden = torch.randn(K, H, dtype=torch.double)
    parts = [each.table(each.embed(hidden), Context(x)) for each in head.heads]  # type: ignore[operator]
    for person, shares in ((0, head.types.responsibilities[0]), (-1, head.types.prior)):
        expected = sum(share * part for share, part in zip(shares, parts, strict=True))
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(head.table(head.embed(hidden), Context(x, torch.tensor(person))), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", HEADS)
def test_all_at_once_is_one_by_one_and_exactly_skew(name: str) -> None:
    head, x = head_of(name), torch.randn(H, dtype=torch.double)
    e = head.embed(torch.randn(K, H, dtype=torch.double))
    people = torch.tensor([0, 1, 2, -1])
    tables = head.table(e, Context(x, people))
    assert tables.shape == (4, K, K) and torch.equal(tables, -tables.mT) and not tables.diagonal(dim1=-2, dim2=-1).any()
    for table, person in zip(tables, people, strict=True):
        torch.testing.assert_close(table, head.table(e, Context(x, person)), atol=1e-12, rtol=0)
        pairs = head.compare(e[:, None].expand(K, K, -1), e[None].expand(K, K, -1), Context(x.expand(K, K, H), person.expand(K, K)))
        torch.testing.assert_close(table, pairs, atol=1e-12, rtol=0)
    torch.testing.assert_close(tables[3], head.table(e, Context(x)), atol=0, rtol=0)  # -1 and None: the population
    assert not torch.allclose(tables[0], tables[1])


@pytest.mark.parametrize("name", HEADS)
def test_recipes_make_the_head_again(name: str) -> None:
    head = head_of(name).float()
    again = make_head(describe_head(head), H)
    assert len(annotators_of(again) or ()) == 0, "a recipe holds nothing about people"
    introduce(again, Annotators(NAMES))
    again.load_state_dict(head.state_dict())
    e, x = head.embed(torch.randn(K, H)), torch.randn(H)
    assert torch.equal(again.table(e, Context(x, torch.arange(3))), head.table(e, Context(x, torch.arange(3))))


@pytest.mark.parametrize("make", [BTHead, PairHead, GPMHead, partial(GPMHead, dim=4, skew=GatedSkew), partial(HybridHead, skew=GatedSkew)])
def test_other_heads_answer_everybody_alike_to_the_last_bit(make: Callable[[int], PreferenceHead]) -> None:
    head, x = make(H), torch.randn(H)
    assert annotators_of(head) is None
    e = head.embed(torch.randn(K, K, H) if head.layout == "pair" else torch.randn(K, H))
    assert torch.equal(head.table(e, Context(x)), head.table(e, Context(x, torch.tensor(2))))


def test_one_prototype_is_one_ideal_point_for_all() -> None:
    torch.manual_seed(0)
    head = IdealPointHead(H, prototypes=1, dim=4)
    introduce(head, Annotators(NAMES))
    torch.nn.init.normal_(head.weights.offsets)
    e = head.embed(torch.randn(K, H))
    distances = (e - head.points[0]).norm(dim=-1)
    for person in (-1, 0, 1):
        expected = distances[None, :] - distances[:, None]
        torch.testing.assert_close(head.table(e, Context(None, torch.tensor(person))), expected, atol=1e-5, rtol=0)


def test_the_penalty_is_the_prior_counted_once_for_each_annotator() -> None:
    """Summed over the labels of a person it is |delta|^2 / (2 spread^2), whatever the number of labels; the population has none."""
    people = People(torch.zeros(2), spread=0.5)
    people.introduce(Annotators(NAMES))
    torch.nn.init.normal_(people.offsets)
    for person, count in enumerate(NAMES.values()):
        total = people.penalty(torch.full((count,), person)).sum()
        assert float(total) == pytest.approx(float(people.offsets[person].square().sum()) / (2 * 0.25), rel=1e-5)
    assert not people.penalty(torch.tensor([-1, -1])).any()


def test_newcomers_leave_the_others_as_they_are() -> None:
    head = head_of("hybrid")
    before = {name: t.clone() for name, t in head.state_dict().items()}
    introduce(head, Annotators({"ben": 4, "dee": 2}))
    found = annotators_of(head)
    assert found is not None and found.names == ("ann", "ben", "cy", "dee") and found.labels["ben"] == 4
    after = head.state_dict()
    assert all(torch.equal(after[name][: len(t)] if t.ndim and "offsets" in name else after[name], t) for name, t in before.items())
    assert not next(iter(members_of(head))).of(torch.tensor(3)).sub(next(iter(members_of(head))).of(None)).any()


def test_expectation_is_bayes_rule() -> None:
    types = Types(2, 0.3)
    types.introduce(Annotators(NAMES))
    types.prior = torch.tensor([0.25, 0.75])
    likelihood = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.6]])
    total = types.expect(likelihood.log())
    joint = likelihood * torch.tensor([0.25, 0.75])
    torch.testing.assert_close(types.responsibilities, joint / joint.sum(-1, keepdim=True))
    torch.testing.assert_close(types.prior, types.responsibilities.mean(0))
    assert total == pytest.approx(float(joint.sum(-1).log().sum()), rel=1e-5)


def test_a_uniform_start_never_leaves_its_saddle() -> None:
    """Why it is refused: equal responsibilities give types equal losses, and equal types give equal responsibilities."""
    torch.manual_seed(0)
    head = MixtureHead(H, 2)
    introduce(head, Annotators({str(u): 4 for u in range(6)}))
    head.types.responsibilities = torch.full((6, 2), 0.5)
    head.heads[1].load_state_dict(head.heads[0].state_dict())
    x, who = torch.randn(24, H), torch.arange(6).repeat_interleave(4)
    x = torch.where((who % 2 == 0).unsqueeze(-1), x, -x)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.5)
    for _ in range(5):
        by_type = head.by_type(head.embed(x), head.embed(torch.zeros_like(x)))
        optimizer.zero_grad()
        (-torch.nn.functional.logsigmoid(by_type) * head.types.of(who)).sum(-1).mean().backward()
        optimizer.step()
        by_type = head.by_type(head.embed(x), head.embed(torch.zeros_like(x)))
        head.types.expect(torch.zeros(6, 2).index_add_(0, who, torch.nn.functional.logsigmoid(by_type.detach())))
        assert bool((head.types.responsibilities == 0.5).all())
    with pytest.raises(ConfigError, match="from a uniform start all types learn the same"):
        MixtureHead(H, 2, start=math.inf)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PersonalHead(H, rank=0), "must be 1 or more, got 0"),
        (lambda: PersonalHead(H, spread=0.0), "spread must be a positive number"),
        (lambda: IdealPointHead(H, prototypes=0), "prototypes must be 1 or more"),
        (lambda: IdealPointHead(H, variant="C"), "variant must be A or B"),
        (lambda: IdealPointHead(H, variant="B").table(torch.zeros(2, 8)), r"pass Context\(prompt\)"),
        (lambda: MixtureHead(H, 2, head=PairHead), "must read single responses"),
        (lambda: MixtureHead(H, 0), "1 type or more"),
        (lambda: GPMHead(H, 3, skew=PersonalSkew), "positive even number"),
    ],
)
def test_values_that_make_no_sense(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()
