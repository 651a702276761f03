"""Heads and operators: exact skew symmetry, explicit references, special cases, initial weights, names, and refusals."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from prefrep.errors import ConfigError
from prefrep.functional import skew
from prefrep.nn.context import Context
from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PairHead, PreferenceHead
from prefrep.nn.losses import LogisticLoss
from prefrep.nn.skew import BlockSkew, GatedSkew, LearnedSkew, SkewOperator

H = 16
OPERATORS: dict[str, Callable[[int, int], SkewOperator]] = {
    "block": BlockSkew,
    "softmax": GatedSkew,
    "scaled_softmax": partial(GatedSkew, variant="scaled_softmax"),
    "nonnegative": partial(GatedSkew, variant="nonnegative"),
    "learned": LearnedSkew,
}
HEADS: dict[str, Callable[[int], PreferenceHead]] = {"bt": BTHead, "pair": PairHead} | {
    f"gpm-{name}-{dim}-{'unit' if normalize else 'free'}": partial(GPMHead, dim=dim, skew=operator, normalize=normalize)
    for name, operator in OPERATORS.items()
    for dim in (2, 6)
    for normalize in (True, False)
}
HYBRIDS = {
    "hybrid-block-2": HybridHead,
    "hybrid-softmax-6": partial(HybridHead, dim=6, skew=GatedSkew),
    "hybrid-nonnegative-2-free": partial(HybridHead, skew=OPERATORS["nonnegative"], normalize=False),
    "hybrid-learned-6-free": partial(HybridHead, dim=6, skew=LearnedSkew, normalize=False),
}
HEADS |= HYBRIDS


def made(name: str, seed: int = 0) -> PreferenceHead:
    """A head whose weights are of order one, so that nothing is hidden by small numbers."""
    torch.manual_seed(seed)
    head = HEADS[name](H)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter))
    return head


def read(head: PreferenceHead, n: int = 3, k: int = 7) -> tuple[Tensor, Tensor]:
    """Hidden states of all that a K x K table needs, and of the prompts."""
    shape = (n, k, H) if head.layout == "single" else (n, k, k, H)
    return torch.randn(*shape), torch.randn(n, H)


def pair(head: PreferenceHead, e: Tensor, i: int, j: int) -> tuple[Tensor, Tensor]:
    """What `compare` takes for responses i and j."""
    return (e[..., i, :], e[..., j, :]) if head.layout == "single" else (e[..., i, j, :], e[..., j, i, :])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", HEADS)
def test_tables_are_exactly_skew(name: str, dtype: torch.dtype) -> None:
    """For every head, operator and dtype of hidden states and weights, to the last bit."""
    head = made(name).to(dtype)
    hidden, prompt = read(head)
    table = head.table(head.embed(hidden.to(dtype)), Context(prompt.to(dtype)))
    assert table.shape == (3, 7, 7)
    assert table.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(table, -table.transpose(-1, -2))
    assert not table.diagonal(dim1=-2, dim2=-1).any()
    assert (table != 0).sum() == 3 * 7 * 6


@pytest.mark.parametrize("name", HEADS)
def test_comparisons_are_antisymmetric_and_fill_the_table(name: str) -> None:
    """Compare(a, b) = -compare(b, a) exactly, and equals the entry of the table."""
    head = made(name)
    hidden, prompt = read(head)
    e = head.embed(hidden)
    assert e.shape == (*hidden.shape[:-1], head.dim)
    table = head.table(e, Context(prompt))
    for i in range(7):
        for j in range(7):
            a, b = pair(head, e, i, j)
            scores = head.compare(a, b, Context(prompt))
            assert scores.shape == (3,)
            assert torch.equal(scores, -head.compare(b, a, Context(prompt)))
            torch.testing.assert_close(scores, table[:, i, j], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 4, 8])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_equal_their_matrix(name: str, dim: int) -> None:
    """Score = <R(x) a, b> one response at a time; R(x) is skew; blocks add up."""
    torch.manual_seed(dim)
    operator = OPERATORS[name](dim, H)
    with torch.no_grad():
        for parameter in operator.parameters():
            parameter.add_(torch.randn_like(parameter))
    a, b, prompt = torch.randn(5, dim), torch.randn(5, dim), torch.randn(5, H)
    matrix = operator.matrix(Context(prompt)).expand(5, dim, dim)
    assert torch.equal(matrix, -matrix.transpose(-1, -2))
    reference = torch.stack([torch.dot(matrix[row] @ a[row], b[row]) for row in range(5)])
    torch.testing.assert_close(operator.score(a, b, Context(prompt)), reference, rtol=1e-4, atol=1e-4)
    blocks = operator.block_scores(a, b, Context(prompt))
    assert blocks.shape == (5, dim // 2)
    torch.testing.assert_close(blocks.sum(-1), reference, rtol=1e-4, atol=1e-4)


def test_gates_by_hand() -> None:
    """Logits (0, log 3) from the prompt: weights (1/4, 3/4) on blocks 1 * 4 - 2 * 3 = -2 and 1 * 1 - 1 * 0 = 1."""
    gated = GatedSkew(4, 2)
    with torch.no_grad():
        gated.prompt_head.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    prompt = torch.tensor([5.0, math.log(3)])
    a, b = torch.tensor([1.0, 2.0, 1.0, 1.0]), torch.tensor([3.0, 4.0, 0.0, 1.0])
    torch.testing.assert_close(gated.weights(Context(prompt)), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(gated.block_scores(a, b, Context(prompt)), torch.tensor([-0.5, 0.75]))
    torch.testing.assert_close(gated.score(a, b, Context(prompt)), torch.tensor(0.25))


@pytest.mark.parametrize("variant", ["softmax", "scaled_softmax"])
def test_gated_equals_ungated_in_two_dimensions(variant: str) -> None:
    """Softmax over one block is 1."""
    torch.manual_seed(0)
    gated, plain = GPMHead(H, 2, OPERATORS[variant]), GPMHead(H, 2)
    plain.load_state_dict({"value_head.weight": gated.value_head.weight})
    hidden, prompt = read(gated)
    e = gated.embed(hidden)
    assert torch.equal(gated.table(e, Context(prompt)), plain.table(plain.embed(hidden)))


def test_learned_operator_starts_canonical_and_moves() -> None:
    """Equal to BlockSkew before training; all of its entries get a gradient."""
    torch.manual_seed(0)
    learned, block = LearnedSkew(6, H), BlockSkew(6, H)
    assert torch.equal(learned.matrix(), block.matrix())
    e = torch.randn(4, 6)
    torch.testing.assert_close(learned.table(e), block.table(e))
    learned.table(e)[0, 1].backward()
    assert learned.factor.grad is not None
    assert (learned.factor.grad[~torch.eye(6, dtype=torch.bool)] != 0).all()


def test_learned_blocks_are_ordered_and_pass_gradients_to_embeddings() -> None:
    """Scales 3 and 1, given in the other order, come out largest first, also where scales coincide."""
    learned = LearnedSkew(4, H)
    with torch.no_grad():
        learned.factor[2:] *= 3
    a, b = torch.tensor([1.0, 0.0, 1.0, 0.0], requires_grad=True), torch.tensor([0.0, 1.0, 0.0, 1.0])
    blocks = learned.block_scores(a, b)
    torch.testing.assert_close(blocks, torch.tensor([3.0, 1.0]))
    blocks.sum().backward()
    torch.testing.assert_close(a.grad, torch.tensor([1.0, 0.0, 3.0, 0.0]))
    start = LearnedSkew(4, H)
    torch.testing.assert_close(start.block_scores(a, b).sum(), torch.tensor(2.0))


def test_bradley_terry_is_a_special_case() -> None:
    """V = (r, c) with constant c: s = c (r_i - r_j)."""
    torch.manual_seed(0)
    bt, gpm, c = BTHead(H), GPMHead(H, 2, normalize=False), 3.0
    hidden = torch.randn(4, 5, H)
    hidden[..., -1] = 1.0
    with torch.no_grad():
        gpm.value_head.weight[0] = bt.value_head.weight[0]
        gpm.value_head.weight[1] = 0.0
        gpm.value_head.weight[1, -1] = c
    torch.testing.assert_close(gpm.table(gpm.embed(hidden)), c * bt.table(bt.embed(hidden)))


def test_bradley_terry_by_hand() -> None:
    """Rewards 3, 1 and -1."""
    bt = BTHead(2)
    with torch.no_grad():
        bt.value_head.weight.copy_(torch.tensor([[1.0, 2.0]]))
    e = bt.embed(torch.tensor([[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]))
    assert e.tolist() == [[3.0], [1.0], [-1.0]]
    assert bt.table(e).tolist() == [[0.0, 2.0, 4.0], [-2.0, 0.0, 2.0], [-4.0, -2.0, 0.0]]
    assert bt.compare(e[0], e[1]).item() == 2.0


def test_pair_head_takes_out_the_position() -> None:
    """F = s / 1 + bias towards the first position: (1 + 5) and (-1 + 5) give s = 1."""
    head = PairHead(H)
    assert head.compare(torch.tensor([1.0 + 5.0]), torch.tensor([-1.0 + 5.0])).item() == 1.0
    f = torch.tensor([[math.nan, 6.0], [4.0, math.inf]]).unsqueeze(-1)
    assert head.table(f).tolist() == [[0.0, 1.0], [-1.0, 0.0]]


def test_pair_head_starts_from_the_answers_of_the_language_model() -> None:
    """F is logit(A) - logit(B), so sigmoid(f) is P(A) among the two answers."""
    torch.manual_seed(0)
    lm_head, hidden = torch.nn.Linear(H, 50, bias=False), torch.randn(6, H)
    head = PairHead(H, readout="tokens", answers=("yes", "no"))
    head.set_answer_rows(lm_head.weight[7], lm_head.weight[11])
    f = head.embed(hidden).squeeze(-1)
    torch.testing.assert_close(f.sigmoid(), lm_head(hidden)[:, [7, 11]].softmax(-1)[:, 0])
    assert head.answers == ("yes", "no")
    assert head.value_head.weight.requires_grad
    head.set_answer_rows(lm_head.weight[7].bfloat16(), lm_head.weight[11].bfloat16())
    assert head.value_head.weight.dtype == torch.float32


@pytest.mark.parametrize("size", [3, 4])
def test_cycles(size: int) -> None:
    """A > B > .. > A: Bradley-Terry gets all but one at best, two dimensions hold all of them."""
    hidden, first = torch.eye(size), torch.arange(size)
    second = (first + 1) % size
    correct = {}
    for head, loss in ((BTHead(size), LogisticLoss(1.0)), (GPMHead(size, 2), LogisticLoss(0.1))):
        torch.manual_seed(0)
        with torch.no_grad():
            head.value_head.weight.normal_()
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(200):
            optimizer.zero_grad()
            e = head.embed(hidden)
            scores = head.compare(e[first], e[second])
            loss(scores, torch.ones(size), torch.zeros(size)).mean().backward()
            optimizer.step()
        e = head.embed(hidden)
        correct[type(head)] = int((head.compare(e[first], e[second]) > 0).sum())
    assert correct[BTHead] < size
    assert correct[GPMHead] == size


def test_embeddings_have_length_one_unless_told_otherwise() -> None:
    """And a hidden state of zeros neither divides by zero nor breaks the gradient."""
    torch.manual_seed(0)
    hidden = torch.randn(5, H)
    unit, free = GPMHead(H, 6), GPMHead(H, 6, normalize=False)
    free.load_state_dict(unit.state_dict())
    torch.testing.assert_close(unit.embed(hidden).norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(free.embed(hidden), hidden @ free.value_head.weight.T)
    zeros = torch.zeros(1, H, requires_grad=True)
    e = unit.embed(zeros)
    e.sum().backward()
    assert not e.any()
    assert zeros.grad is not None and zeros.grad.isfinite().all()


@pytest.mark.parametrize("name", HEADS)
def test_autocast_and_low_precision_do_not_reach_the_scores(name: str) -> None:
    """Computed in fp32: under autocast as without; bf16 hidden states as the same numbers in fp32."""
    head = made(name)
    hidden, prompt = read(head)
    hidden, prompt = hidden.bfloat16(), prompt.bfloat16()
    wide = head.table(head.embed(hidden.float()), Context(prompt.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = head.table(head.embed(hidden), Context(prompt))
    assert lowered.dtype == torch.float32
    assert torch.equal(wide, lowered)


@pytest.mark.parametrize("name", HEADS)
def test_initial_weights_and_names(name: str) -> None:
    """N(0, 1/(H+1)^2), no bias, and the names that exported folders use."""
    torch.manual_seed(0)
    size = 4096
    head = HEADS[name](size)
    shapes = {key: tuple(value.shape) for key, value in head.state_dict().items()}
    dim, part = (head.dim - 1, "preference.") if name in HYBRIDS else (head.dim, "")
    expected = {f"{part}value_head.weight": (dim, size)} | ({"reward.value_head.weight": (1, size)} if part else {})
    if head.needs_prompt:
        expected[f"{part}skew.prompt_head.weight"] = (dim // 2, size)
    if "learned" in name:
        expected[f"{part}skew.factor"] = (dim, dim)
    assert shapes == expected
    for key in expected.keys() - {f"{part}skew.factor"}:
        assert head.state_dict()[key].std().item() == pytest.approx(1 / (size + 1), rel=0.1)


@pytest.mark.parametrize("name", HEADS)
def test_what_a_head_says_about_itself(name: str) -> None:
    """Layout, dimension, and whether the prompt is wanted."""
    head = HEADS[name](H)
    assert head.layout == ("pair" if name == "pair" else "single")
    assert head.dim == (6 if "-6" in name else 2 if "-2" in name else 1) + (name in HYBRIDS)
    assert head.needs_prompt == any(gated in name for gated in ("softmax", "nonnegative"))


# --------------------------------------------------------------------------------------------------------------- hybrid head
@pytest.mark.parametrize("name", HYBRIDS)
def test_hybrid_is_the_sum_of_its_parts(name: str) -> None:
    """Blocks: the reward's first, which is Bradley-Terry's score, then the operator's; they add up to the table."""
    head = made(name)
    assert isinstance(head, HybridHead)
    hidden, prompt = read(head)
    e = head.embed(hidden)
    reward, v = head.reward.embed(hidden), head.preference.embed(hidden)
    assert torch.equal(e, torch.cat([reward, v], dim=-1))
    table = head.table(e, Context(prompt))
    torch.testing.assert_close(table, head.reward.table(reward) + head.preference.table(v, Context(prompt)))
    first, second = e[:, 2], e[:, 5]
    blocks = head.block_scores(first, second, Context(prompt))
    assert blocks.shape == (3, 1 + (head.dim - 1) // 2)
    torch.testing.assert_close(blocks.sum(-1), table[:, 2, 5], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(blocks[:, 0], (reward[:, 2] - reward[:, 5])[:, 0])
    torch.testing.assert_close(blocks[:, 1:], head.preference.block_scores(v[:, 2], v[:, 5], Context(prompt)))


def test_hybrid_is_a_general_preference_model_with_a_block_that_is_half_constant() -> None:
    """Embeddings (r, 1, v) of D + 2 free dimensions; so the rank of a table is at most D + 2, and it is reached."""
    head = made("hybrid-block-2").double()
    e = head.embed(torch.randn(9, H, dtype=torch.float64))
    wide = torch.cat([e[:, :1], torch.ones(9, 1, dtype=torch.float64), e[:, 1:]], dim=1)
    torch.testing.assert_close(head.table(e), skew.table(wide))
    assert torch.linalg.matrix_rank(head.table(e)) == 4


def has_cycle(table: Tensor) -> bool:
    """Whether three of the answers beat each other in a circle; in a table without ties, whether there is any cycle."""
    wins = (table > 0).double()
    return bool((wins @ wins @ wins).diagonal().any())


@pytest.mark.parametrize("dim", [2, 4])
def test_two_dimensions_never_hold_a_cycle_below_a_dominant_answer(dim: int) -> None:
    """Random embeddings of any length: 5 answers, of which the first wins all. Four dimensions do hold it, so the search can find it."""
    e = torch.randn(20_000, 5, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    tables = skew.table(e)
    dominated = tables[(tables[:, 0, 1:] > 0).all(-1)]
    assert len(dominated) > 500
    assert any(has_cycle(table[1:, 1:]) for table in dominated) == (dim > 2)
    assert any(has_cycle(table) for table in tables)


def held(head: PreferenceHead, beats: list[tuple[int, int]], answers: int, seed: int) -> int:
    """How many of some comparisons a head gets right with an embedding of its own for each answer, trained on them."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    first, second = torch.tensor(beats).T
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        e = head.embed(torch.eye(answers))
        (-torch.nn.functional.logsigmoid(head.compare(e[first], e[second]) / 0.1)).mean().backward()
        optimizer.step()
    e = head.embed(torch.eye(answers))
    return int((head.compare(e[first], e[second]) > 0).sum())


@pytest.mark.parametrize("size", [3, 6])
def test_hybrid_holds_a_dominant_answer_above_a_cycle(size: int) -> None:
    """In two dimensions, whatever the length of the cycle; a general preference model of two dimensions holds the cycle, or the rest."""
    cycle = [(1 + i, 1 + (i + 1) % size) for i in range(size)]
    both = [(0, 1 + i) for i in range(size)] + cycle
    answers = size + 1
    found = {
        (name, what): max(held(make(answers), beats, answers, seed) for seed in range(3))
        for name, make in {"hybrid": HybridHead, "free": partial(GPMHead, normalize=False), "unit": GPMHead}.items()
        for what, beats in (("cycle", cycle), ("both", both))
    }
    assert found["hybrid", "both"] == 2 * size
    assert found["free", "cycle"] == size, "not for want of training"
    assert max(found["free", "both"], found["unit", "both"]) < 2 * size


def test_hybrid_by_construction() -> None:
    """No training: rewards (1.1, 0, .., 0) and the n-th roots of unity. Each of the cycle beats the next by sin(2 pi / n), for any n."""
    for size in (3, 4, 7, 20):
        angles = 2 * math.pi * torch.arange(size) / size
        v = torch.cat([torch.tensor([[1.0, 0.0]]), torch.stack([angles.cos(), angles.sin()], dim=-1)])
        r = torch.zeros(size + 1, 1)
        r[0] = 1.1
        table = HybridHead(H).table(torch.cat([r, v], dim=-1))
        assert (table[0, 1:] > 0.09).all()
        for i in range(size):
            assert table[1 + i, 1 + (i + 1) % size].item() == pytest.approx(math.sin(2 * math.pi / size), abs=1e-6)


class Table(torch.nn.Module):
    """From hidden states to a table, as one function."""

    def __init__(self, head: PreferenceHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, hidden: Tensor, prompt: Tensor) -> Tensor:
        """The table."""
        return self.head.table(self.head.embed(hidden), Context(prompt))


@pytest.mark.parametrize("name", HEADS)
def test_gradients(name: str) -> None:
    """Against finite differences, from hidden states and weights to scores."""
    table = Table(made(name).double())
    names, weights = zip(*table.named_parameters(), strict=True)
    hidden, prompt = (tensor.double().requires_grad_() for tensor in read(table.head, n=2, k=3))

    def scores(hidden: Tensor, prompt: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(table, dict(zip(names, weights, strict=True)), (hidden, prompt))

    assert torch.autograd.gradcheck(scores, (hidden, prompt, *weights))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GPMHead(H, 3), "GPMHead.dim must be a positive even number, got 3"),
        (lambda: GPMHead(H, 0), "GPMHead.dim must be a positive even number, got 0"),
        (lambda: GPMHead(H, -2), "GPMHead.dim must be a positive even number, got -2"),
        (lambda: GPMHead(0, 3), "GPMHead.dim must be a positive even number, got 3"),
        (lambda: HybridHead(H, 3), "HybridHead.dim must be a positive even number, got 3"),
        (lambda: GPMHead(0, 2), "GPMHead: the hidden size must be positive, got 0"),
        (lambda: BlockSkew(5, H), "BlockSkew.dim must be a positive even number, got 5"),
        (lambda: GatedSkew(1, H), "GatedSkew.dim must be a positive even number, got 1"),
        (lambda: LearnedSkew(7, H), "LearnedSkew.dim must be a positive even number, got 7"),
        (lambda: GatedSkew(4, H, "sigmoid"), "GatedSkew.variant must be softmax, scaled_softmax or nonnegative, got 'sigmoid'"),
        (lambda: PairHead(H, "logits"), "PairHead.readout must be linear or tokens, got 'logits'"),
        (lambda: PairHead(H, "tokens", ("A", "A")), "PairHead.answers must be two different texts, got ('A', 'A')"),
        (lambda: PairHead(H).set_answer_rows(torch.zeros(H), torch.zeros(H)), "PairHead.readout is linear, which has no answer tokens"),
        (
            lambda: PairHead(H, "tokens").set_answer_rows(torch.zeros(H), torch.zeros(3)),
            "answer rows must have 16 numbers, got [16] and [3]",
        ),
        (lambda: GPMHead(H, 4, GatedSkew).compare(torch.zeros(4), torch.zeros(4)), "GatedSkew needs the hidden state of the prompt"),
    ],
)
def test_refusals(make: Callable[[], object], sentence: str) -> None:
    """One sentence each."""
    with pytest.raises(ConfigError) as caught:
        make()
    assert sentence in str(caught.value)


def parser() -> ArgumentParser:
    """A command line that takes a head as the modules do."""
    made = ArgumentParser(exit_on_error=False)
    made.add_argument("--head", type=Callable[[int], PreferenceHead])
    return made


@pytest.mark.parametrize("dim", ["3", "0", "-4"])
def test_odd_dimensions_are_refused_while_parsing(dim: str) -> None:
    """Before a backbone is loaded, although heads are built late."""
    with pytest.raises(argparse.ArgumentError, match=f"GPMHead.dim must be a positive even number, got {dim}"):
        parser().parse_args(["--head", "GPMHead", "--head.dim", dim])


def test_heads_from_the_command_line() -> None:
    """Factories with their settings, operators by class path, numbers as plain ints."""
    made = parser()
    flags = ["--head", "GPMHead", "--head.dim", "8", "--head.skew", "GatedSkew", "--head.skew.variant", "nonnegative"]
    head = made.instantiate_classes(made.parse_args(flags)).head(H)
    assert isinstance(head, GPMHead) and isinstance(head.skew, GatedSkew)
    assert type(head.dim) is int and head.dim == 8 and type(head.skew.dim) is int
    assert head.skew.variant == "nonnegative" and head.normalize
    hybrid = made.instantiate_classes(made.parse_args(["--head", "HybridHead", *flags[2:]])).head(H)
    assert isinstance(hybrid, HybridHead) and isinstance(hybrid.preference.skew, GatedSkew) and hybrid.dim == 9
    pair_head = made.instantiate_classes(
        made.parse_args(["--head", "PairHead", "--head.readout", "tokens", "--head.answers", "[first, second]"])
    ).head(H)
    assert isinstance(pair_head, PairHead) and pair_head.answers == ("first", "second")
