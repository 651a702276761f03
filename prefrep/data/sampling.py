"""The order of training batches: seeded, independent of the head, exact under resuming and data parallelism."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler


class BatchOrder(Sampler[list[tuple[int, bool]]]):
    """Batches of record indices for one process.

    Each process gets a slice of every batch, so that the gradient averaged over processes is that of the batch. If a batch does not divide
    evenly, its first records fill it up with weight zero: every record counts exactly once per epoch.

    The order has its own generator, so that other random draws (such as the initialisation of a head) do not change it. The sampler takes
    its position from `done`, so that a resumed run continues with the next batch.

    Args:
        size: Number of records.
        batch_size: Records per batch, over all processes.
        shuffle: Shuffle every epoch.
        seed: Seed of the order.
        rank: Rank of this process.
        world_size: Number of processes.
        done: Returns the number of batches trained so far, over all epochs.
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
        """Yield the remaining batches of the current epoch, as pairs (index, whether the record counts)."""
        epoch, first = divmod(self.done(), len(self)) if self.shuffle else (0, 0)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.size) if self.shuffle else np.arange(self.size)
        for start in range(first * self.batch_size, self.size, self.batch_size):
            batch = [(int(i), True) for i in order[start : start + self.batch_size]]
            missing = -len(batch) % self.world_size
            batch += [(batch[i % len(batch)][0], False) for i in range(missing)]
            yield batch[self.rank :: self.world_size]


def batches_before(trainer: Any, batches: int) -> int:
    """Return the number of batches before the next one as if every epoch were complete, whatever `limit_train_batches` is.

    Args:
        trainer: The trainer.
        batches: Number of batches of a complete epoch.
    """
    done = int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)  # over all epochs and across resumes
    epoch, within = divmod(done, max(int(trainer.num_training_batches), 1))
    return epoch * batches + within


class Drawn:
    """A dataset whose items are what the sampler draws, for `collate_fn` to look up."""

    def __getitem__(self, item: tuple[int, bool]) -> tuple[int, bool]:
        return item


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that resumes within an epoch: its `BatchOrder` takes the position from the trainer's progress."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Start on the first `next`.

        Workers prefetch, and Lightning creates the iterator before it knows the length of the epoch and the progress of a checkpoint.
        """
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Return a placeholder; the method tells Lightning that the loader resumes exactly."""
        return {"position": "taken from the trainer"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore nothing."""
