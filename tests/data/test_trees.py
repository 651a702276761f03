"""Trees: what sequences share, where every token lands, which labels follow; each against a slow reading of the batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch

from prefrep.data.trees import Datum, Layout, Tree, TreeBatch, alike, collate, pack

LAYOUTS: tuple[Layout, ...] = ("trees", "padded")
PAD = 0


def tree(*sequences: list[int], prompt: int = 1) -> Tree:
    return Tree(tuple(np.asarray(ids, np.int32) for ids in sequences), prompt)


def random_data(seed: int, count: int = 12) -> list[Datum]:
    """Data of one or two trees, one to four sequences each, with prompts that end at the branch point or before."""
    rng = np.random.default_rng(seed)
    data = []
    for _ in range(count):
        trees = []
        for _ in range(rng.integers(1, 3)):
            shared = rng.integers(1, 9, size=rng.integers(1, 8)).tolist()
            sequences = [[*shared, *rng.integers(1, 9, size=rng.integers(1, 6)).tolist()] for _ in range(rng.integers(1, 5))]
            made = tree(*sequences)
            trees.append(Tree(made.sequences, int(rng.integers(0, made.shared + 1))))
        total = sum(len(t.sequences) for t in trees)
        pairs = tuple((int(a), int(b)) for a, b in rng.integers(0, total, size=(rng.integers(0, 4), 2)))
        numbers = [tuple(rng.random(len(pairs)).tolist()) for _ in range(3)]
        data.append(Datum(tuple(trees), pairs, *numbers))
    return data


def sequences_of(data: list[Datum]) -> list[tuple[Tree, list[int]]]:
    return [(t, ids.tolist()) for datum in data for t in datum.trees for ids in t.sequences]


def path(batch: TreeBatch, rank: int) -> list[int]:
    """Indices of the tokens on the way to a sequence's end, read off the batch token by token."""
    length = batch.ids.shape[1]
    row, last = divmod(int(batch.end[rank]), length)
    return [row * length + u for u in range(last + 1) if last < int(batch.until[row, u])]


def prefixes(sequences: Iterable[Sequence[int]]) -> int:
    """The number of distinct prefixes."""
    return len({tuple(ids[:end]) for ids in sequences for end in range(1, len(ids) + 1)})


@pytest.mark.parametrize(
    ("sequences", "shared"),
    [
        ([[1, 2, 3, 9], [1, 2, 4, 9]], 2),
        ([[1, 2, 3, 9], [1, 2, 3, 9]], 3),  # identical: each keeps a token to be read at
        ([[1, 2, 9], [1, 2, 9, 4, 9]], 2),  # one is the other's beginning
        ([[1, 2, 5, 6, 9], [1, 2, 5, 7, 9]], 3),  # the responses begin alike
        ([[1, 9], [2, 9]], 0),
        ([[1, 2, 3, 4, 9], [1, 2, 3, 5, 9], [1, 2, 9]], 2),
        ([[1, 2, 3, 4, 9], [1, 7, 3, 4, 9], [1, 2, 3, 4, 9]], 1),  # alike again later does not count
        ([[1, 2, 3]], 2),
        ([[9]], 0),
    ],
)
def test_common_prefix(sequences: list[list[int]], shared: int) -> None:
    made = tree(*sequences)
    assert made.shared == shared
    assert made.size == prefixes(sequences)


def test_prefix_against_a_loop() -> None:
    for datum in random_data(0, 50):
        for made in datum.trees:
            columns = list(zip(*(ids.tolist() for ids in made.sequences), strict=False))
            expected = next((i for i, column in enumerate(columns) if len(set(column)) > 1), len(columns))
            assert made.shared == min(expected, len(columns) - 1)


@pytest.mark.parametrize("capacity", [1, 7, 20, 1000])
def test_packing_places_everything_once(capacity: int) -> None:
    sizes = np.random.default_rng(0).integers(1, 15, size=40).tolist()
    rows = pack(sizes, capacity)
    assert sorted(i for row in rows for i in row) == list(range(40))
    for row in rows:
        assert sum(sizes[i] for i in row) <= capacity or len(row) == 1
    if capacity == 1000:
        assert len(rows) == 1


def test_packing_fills_the_fullest_row_that_fits() -> None:
    assert pack([6, 5, 4, 3], capacity=10) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("row_tokens", [1, 40, 10_000])
@pytest.mark.parametrize("share", [False, True])
def test_every_sequence_can_be_read_back(layout: Layout, row_tokens: int, share: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefrep.data.trees.ALIKE", 1)
    data = random_data(1, 40 if share else 12)
    groups = alike(data, row_tokens) if share else [[i] for i in range(len(data))]
    batch = collate(data, PAD, layout, row_tokens, groups=groups if share else None)
    wanted = sequences_of(data)
    assert len(batch.end) == len(batch.prompt_end) == len(wanted)
    seen: set[int] = set()
    for rank, (made, ids) in enumerate(wanted):
        way = path(batch, rank)
        assert batch.ids.flatten()[way].tolist() == ids
        assert batch.positions.flatten()[way].tolist() == list(range(len(ids)))
        assert int(batch.prompt_end[rank]) == way[max(made.prompt, 1) - 1]
        seen.update(way)
    real = set(batch.until.flatten().nonzero()[:, 0].tolist())
    assert seen == real and batch.tokens == len(real)
    assert batch.to("meta").tokens == len(real), "no device is asked"
    whole = [prefixes(ids for _, ids in sequences_of([datum])) for datum in data]
    assert [datum.size for datum in data] == whole
    shared = [prefixes(ids for _, ids in sequences_of([data[i] for i in group])) for group in groups]
    assert batch.tokens == (sum(shared) if layout == "trees" else sum(len(ids) for _, ids in wanted))
    assert (sum(shared) < sum(whole)) == share
    assert (batch.ids.flatten()[[i for i in range(batch.ids.numel()) if i not in real]] == PAD).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_equal_a_loop(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefrep.data.trees.ALIKE", 1)
    data = random_data(2)
    batch = collate(data, PAD, layout, row_tokens=50, groups=alike(data, 50))
    expected = []
    for rank, (made, ids) in enumerate(sequences_of(data)):
        way = path(batch, rank)
        expected += [[way[t - 1], way[t], rank] for t in range(1, len(ids)) if t >= made.prompt]
    assert batch.labels.tolist() == expected and len(expected) > 50


def test_labels_of_a_worked_example() -> None:
    """Prompt 1 2, responses 3 9 and 4 5 9: the last prompt token predicts the first token of both."""
    batch = collate([Datum((tree([1, 2, 3, 9], [1, 2, 4, 5, 9], prompt=2),))], PAD)
    ids = batch.ids.flatten()
    assert ids.tolist() == [1, 2, 3, 9, 4, 5, 9]
    assert batch.labels.tolist() == [[1, 2, 0], [2, 3, 0], [1, 4, 1], [4, 5, 1], [5, 6, 1]]
    assert batch.end.tolist() == [3, 6] and batch.prompt_end.tolist() == [1, 1]


def test_order_does_not_depend_on_the_layout() -> None:
    data = random_data(3)
    a, b = collate(data, PAD, "trees", 30), collate(data, 7, "padded")
    for name in ("pairs", "probability", "margin", "weight", "sizes"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    for name in ("end", "prompt_end"):
        assert torch.equal(a.positions.flatten()[getattr(a, name)], b.positions.flatten()[getattr(b, name)]), name
    assert torch.equal(a.labels[:, 2], b.labels[:, 2])
    assert torch.equal(a.ids.flatten()[a.labels[:, :2]], b.ids.flatten()[b.labels[:, :2]])
    sequence = pair = 0
    for datum, (sequences, pairs) in zip(data, a.sizes.tolist(), strict=True):
        assert (a.pairs[pair : pair + pairs] - sequence).tolist() == [list(p) for p in datum.pairs]
        assert sequences == sum(len(t.sequences) for t in datum.trees) and pairs == len(datum.pairs)
        sequence, pair = sequence + sequences, pair + pairs
    assert len(a) == len(data) and not a.padded and b.padded


def test_rows_keep_to_their_tokens() -> None:
    data = random_data(4)
    batch = collate(data, PAD, "trees", row_tokens=40)
    largest = max(datum.size for datum in data)
    assert largest <= batch.ids.shape[1] <= max(40, largest)
    assert len(batch.ids) < len(data)


def test_equal_sequences_are_read_once_in_a_record() -> None:
    batch = collate([Datum((tree([1, 2, 9]), tree([1, 2, 9], [1, 2]))), Datum((tree([1, 2, 9]),))], PAD)
    assert batch.tokens == 6 and batch.end.tolist() == [2, 2, 1, 5]


def under(system: Sequence[int], own: Sequence[int], i: int) -> Datum:
    """A record under a system prompt: so many tokens of its prompt, and two answers of so many."""
    first, second = ([*system, *[i] * own[0], *[mark + i] * own[1]] for mark in (100, 200))
    return Datum((tree(first, second, prompt=len(system) + own[0]),))


@pytest.mark.parametrize(("alike_tokens", "count", "tokens"), [
    (70, 6, 70 + 6 * 14),  # one row
    (70, 50, 2 * 70 + 50 * 14),  # a row is 8 x 70 wide at most, which 35 records fill
    (15, 6, 6 * (15 + 14)),  # too little
])  # fmt: skip
def test_records_that_begin_alike_share(alike_tokens: int, count: int, tokens: int) -> None:
    data = [under(range(1000, 1000 + alike_tokens), (4, 5), i) for i in range(count)]
    groups = alike(data, row_tokens=100)
    batch = collate(data, PAD, row_tokens=100, groups=groups)
    assert batch.tokens == tokens and batch.ids.shape[1] <= max(100, 8 * alike_tokens)
    assert collate(data, PAD, row_tokens=100).tokens == count * (alike_tokens + 14), "only in groups"
    assert collate(data, PAD, "padded", groups=groups).tokens == 2 * count * (alike_tokens + 9)
    for rank, (_, ids) in enumerate(sequences_of(data)):
        assert batch.ids.flatten()[path(batch, rank)].tolist() == ids
    assert batch.prompt_end.tolist() == [path(batch, rank)[alike_tokens + 3] for rank in range(2 * count)]


def test_groups_are_of_those_that_share_most() -> None:
    """Two long prompts in turn under one system prompt of 70 tokens: all four would be too wide, and short data are alone."""
    system = range(1000, 1070)
    prompts = [[*system, *range(2000, 2400)], [*system, *range(3000, 3400)]]
    data = [*(under(prompts[i % 2], (4, 5), i) for i in range(4)), under([7], (1, 1), 9), Datum(())]
    assert alike(data) == [[0, 2], [1, 3], [4], [5]]
    assert alike(data, most=470 + 14) == [[i] for i in range(6)]
    assert alike(data, row_tokens=1000) == [[0, 1, 2, 3], [4], [5]]


def test_groups_keep_to_their_tokens() -> None:
    rng = np.random.default_rng(0)
    system = range(1000, 1080)
    data = [under(system, rng.integers(1, 300, 2).tolist(), i) for i in range(40)]
    groups = alike(data, 256, 500)
    assert sorted(i for group in groups for i in group) == list(range(40)) and len(groups) < 40
    for group in groups:
        assert len(group) == 1 or prefixes(ids for _, ids in sequences_of([data[i] for i in group])) <= 500


def test_a_fill_has_no_say() -> None:
    (datum,) = random_data(3, 1)
    datum = Datum(datum.trees, ((0, 0), (0, 0)), (0.7, 1.0), (0.5, 0.0), (1.0, 2.0))
    fill = datum.unweighted()
    assert fill.weight == (0.0, 0.0)
    assert (fill.trees, fill.pairs, fill.probability, fill.margin) == (datum.trees, datum.pairs, datum.probability, datum.margin)


def test_moving_a_batch_moves_every_tensor() -> None:
    moved = collate(random_data(5), PAD).to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 11 and all(t.device.type == "meta" for t in tensors)
