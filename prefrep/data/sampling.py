"""Which records make which batch: seeded, the same for every head, exact under resuming and distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler


class BatchOrder(Sampler[list[tuple[int, bool]]]):
    """Batches of record indices for one process.

    A batch of the whole run is cut into one slice per process, so the gradient averaged over processes is that of the batch. Where a
    batch does not divide, the missing places are filled with its first records at weight zero: every record counts exactly once an epoch.

    The order has a generator of its own, so that nothing else that draws random numbers (the size of a head, for one) changes it; and it
    does not count batches itself but asks how many are done, so a resumed run goes on with the very next batch.

    Args:
        size: Number of records.
        batch_size: Records in a batch, over all processes.
        shuffle: A new order every epoch.
        seed: Of the order.
        rank: This process.
        world_size: Number of processes.
        done: How many batches this run has trained on so far, over all epochs.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        done: Callable[[], int] = lambda: 0,
    ) -> None:
        self.size, self.batch_size, self.shuffle, self.seed = size, batch_size, shuffle, seed
        self.rank, self.world_size, self.done = rank, world_size, done

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, bool]]]:
        """Yields (record, whether it counts) of each batch that is left of the present epoch."""
        epoch, first = divmod(self.done(), len(self)) if self.shuffle else (0, 0)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.size) if self.shuffle else np.arange(self.size)
        for start in range(first * self.batch_size, self.size, self.batch_size):
            batch = [(int(i), True) for i in order[start : start + self.batch_size]]
            missing = -len(batch) % self.world_size
            batch += [(batch[i % len(batch)][0], False) for i in range(missing)]
            yield batch[self.rank :: self.world_size]


def batches_before(trainer: Any, batches: int) -> int:
    """Batches before the next one, if every epoch had all its batches: the trainer may be told to take fewer (`limit_train_batches`).

    Args:
        trainer: The trainer.
        batches: Of a whole epoch.
    """
    done = int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # all epochs, and before a resume
    epoch, within = divmod(done, max(int(trainer.num_training_batches), 1))
    return epoch * batches + within


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that Lightning may resume within an epoch: its `BatchOrder` finds the place from the trainer's own progress."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Begins when the first batch is asked for, and not before.

        Workers draw ahead, and Lightning asks for an iterator before it knows how many batches an epoch has, and a checkpoint has seen.
        """
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Nothing of its own; that the method exists tells Lightning that resuming is exact."""
        return {"position": "taken from the trainer"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
