"""Batch order: seeded, the same for every head, exact under resuming and distributed training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler


class BatchOrder(Sampler[list[tuple[int, bool]]]):
    """Batches of record indices for one process.

    Each global batch is split into one slice per process, so the gradient averaged over processes is that of the batch. Batches that do
    not divide evenly are padded with their first records at weight zero: every record counts exactly once per epoch.

    The order has its own generator, so no other consumer of random numbers (such as a head's initialization) changes it. It does not count
    batches but asks for their number, so a resumed run continues with the next batch.

    Args:
        size: Number of records.
        batch_size: Records per batch, over all processes.
        shuffle: Whether to shuffle every epoch.
        seed: Seed of the order.
        rank: Rank of this process.
        world_size: Number of processes.
        done: Returns the number of batches trained on so far, over all epochs.
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
        """Yield the remaining batches of the present epoch, each a list of (record, whether it counts)."""
        epoch, first = divmod(self.done(), len(self)) if self.shuffle else (0, 0)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.size) if self.shuffle else np.arange(self.size)
        for start in range(first * self.batch_size, self.size, self.batch_size):
            batch = [(int(i), True) for i in order[start : start + self.batch_size]]
            missing = -len(batch) % self.world_size
            batch += [(batch[i % len(batch)][0], False) for i in range(missing)]
            yield batch[self.rank :: self.world_size]


def batches_before(trainer: Any, batches: int) -> int:
    """Return the position of the next batch as if every epoch were complete, whatever `limit_train_batches` is.

    Args:
        trainer: The trainer.
        batches: Batches of a complete epoch.
    """
    done = int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # all epochs, and before a resume
    epoch, within = divmod(done, max(int(trainer.num_training_batches), 1))
    return epoch * batches + within


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that resumes within an epoch: its `BatchOrder` takes the position from the trainer's progress."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Start when the first batch is requested.

        Workers prefetch, and Lightning creates the iterator before it knows the length of an epoch and the progress of a checkpoint.
        """
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return a placeholder; the method tells Lightning that the loader is resumable."""
        return {"position": "taken from the trainer"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""
