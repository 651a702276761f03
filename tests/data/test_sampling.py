"""The order of batches: everything once, nobody else's random numbers, exact resuming, fair shares."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from prefrep.data.sampling import BatchOrder, batches_before


def epoch(size: int, batch: int, **options: object) -> list[list[tuple[int, bool]]]:
    return list(BatchOrder(size, batch, shuffle=bool(options.pop("shuffle", True)), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "batch"), [(1, 1), (1, 8), (7, 3), (8, 4), (9, 4), (10, 1), (13, 5), (5, 64)])
def test_every_record_counts_once(size: int, batch: int, world_size: int, shuffle: bool) -> None:
    shares = [epoch(size, batch, shuffle=shuffle, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert {len(share) for share in shares} == {-(-size // batch)} == {len(BatchOrder(size, batch, shuffle))}
    counted = Counter(i for share in shares for part in share for i, counts in part if counts)
    assert counted == Counter(range(size))
    for parts in zip(*shares, strict=True):
        assert len({len(part) for part in parts}) == 1, "processes wait for each other, so their shares are of one size"
        of_batch = {i for part in parts for i, counts in part if counts}
        assert {i for part in parts for i, _ in part} == of_batch, "filled up with records of the same batch"
        assert len(of_batch) <= batch


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_batches_of_one(world_size: int) -> None:
    alone = epoch(13, 4, seed=5)
    shares = [epoch(13, 4, seed=5, rank=rank, world_size=world_size) for rank in range(world_size)]
    for number, batch in enumerate(alone):
        together = {i for share in shares for i, counts in share[number] if counts}
        assert together == {i for i, _ in batch}


def test_order_is_the_seed_s_alone() -> None:
    first = epoch(50, 8, seed=3)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert epoch(50, 8, seed=3) == first
    assert epoch(50, 8, seed=4) != first


def test_without_shuffling_the_order_of_the_data() -> None:
    order = BatchOrder(7, 3, shuffle=False, done=lambda: 2)  # progress of training is not that of a validation
    assert [[i for i, _ in batch] for batch in order] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("world_size", [1, 2])
def test_resuming_gives_the_tail(world_size: int) -> None:
    size, batch = 17, 4
    for rank in range(world_size):
        options = {"rank": rank, "world_size": world_size, "seed": 1}
        per_epoch = len(BatchOrder(size, batch, True))
        whole: list[list[tuple[int, bool]]] = []
        for number in range(3):
            whole += epoch(size, batch, done=lambda n=number * per_epoch: n, **options)
        assert len(whole) == 3 * per_epoch
        for done in range(3 * per_epoch):
            rest = epoch(size, batch, done=lambda d=done: d, **options)
            end = (done // per_epoch + 1) * per_epoch
            assert rest == whole[done:end]


def test_epochs_that_are_cut_short() -> None:
    """Of 10 batches an epoch takes 7: the 8th is the first of the second epoch's order, not the 8th of the first."""
    progress = SimpleNamespace(total=SimpleNamespace(processed=0))
    trainer = SimpleNamespace(num_training_batches=7, fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)))
    order = BatchOrder(30, 3, shuffle=True, done=lambda: batches_before(trainer, 10))
    seen = []
    for _ in range(3):
        for batch in itertools.islice(order, 7):
            seen.append(batch)
            progress.total.processed += 1
    whole = [epoch(30, 3, done=lambda n=n: 10 * n) for n in range(3)]
    assert seen == [batch for part in whole for batch in part[:7]]
    progress.total.processed = 9  # resumed within the second
    assert next(iter(order)) == whole[1][2]


def test_epochs_differ_and_progress_is_asked_for_anew() -> None:
    progress = [0]
    order = BatchOrder(20, 20, shuffle=True, done=lambda: progress[0])
    (first,) = order
    progress[0] = 1
    (second,) = order
    assert first != second and sorted(first) == sorted(second)
