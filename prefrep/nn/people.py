"""Parameters of people: one vector for each annotator, shrunk to that of the population.

    theta_u = theta + delta_u,     loss + |delta_u|^2 / (2 spread^2) once for each annotator

The penalty is the negative logarithm of a normal prior, so whoever has few labels stays near the population, and whoever is not known is
answered by the population itself, delta = 0. Letters: `U` annotators, `F` numbers for each of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from prefrep.annotators import Annotators
from prefrep.nn.losses import check_positive


class People(nn.Module):
    """One vector for each annotator.

    Args:
        mean: Vector of the population to begin with, [F].
        spread: Standard deviation of annotators around the population that the penalty expects.

    Raises:
        ConfigError: The spread is not above 0.
    """

    labels: Tensor

    def __init__(self, mean: Tensor, spread: float) -> None:
        check_positive("spread", spread)
        super().__init__()
        self.spread = float(spread)
        self.mean = nn.Parameter(mean.clone())
        self.offsets = nn.Parameter(mean.new_zeros(0, len(mean)))
        self.annotators = Annotators({})
        self.register_buffer("labels", mean.new_zeros(0), persistent=False)  # numbers of labels, which exported folders hold by name

    def of(self, annotator: Tensor | None) -> Tensor:
        """Return the vectors of annotators.

        Args:
            annotator: Indices, [..]; -1, or None: the population.

        Returns:
            [.., F], or [F] for None.
        """
        return self.mean if annotator is None else self.mean + self._offsets(annotator)

    def _offsets(self, annotator: Tensor) -> Tensor:
        nobody = self.offsets.new_zeros(1, self.offsets.shape[1])  # the last row, which the index -1 reads
        return torch.cat([self.offsets, nobody])[annotator]

    def penalty(self, annotator: Tensor) -> Tensor:
        """Return each label's share of the penalty of its annotator: [P] -> [P]; 0 for the population."""
        shares = torch.cat([1 / self.labels.clamp_min(1), self.labels.new_zeros(1)])[annotator]
        return shares * self._offsets(annotator).square().sum(-1) / (2 * self.spread**2)

    @torch.no_grad()
    def introduce(self, annotators: Annotators) -> None:
        """Make room for annotators: those that are known keep their index and vector, new ones begin as the population."""
        joined = self.annotators.joined(annotators)
        new = len(joined) - len(self.annotators)
        self.annotators = joined
        self.offsets = nn.Parameter(torch.cat([self.offsets, self.offsets.new_zeros(new, self.offsets.shape[1])]))
        self.labels = self.labels.new_tensor(list(joined.labels.values()))

    def extra_repr(self) -> str:
        """Return sizes, for printing."""
        return f"annotators={len(self.annotators)}, numbers={len(self.mean)}, spread={self.spread}"


def people_of(part: nn.Module) -> Iterator[People]:
    """Yield the vectors of people in a head, if it asks who judges."""
    return (module for module in part.modules() if isinstance(module, People))


def annotators_of(part: nn.Module) -> Annotators | None:
    """Return whom a head knows; None: it answers everybody alike."""
    return next((people.annotators for people in people_of(part)), None)


def introduce(part: nn.Module, annotators: Annotators) -> None:
    """Make room for annotators in all vectors of people of a head, see `People.introduce`."""
    for people in people_of(part):
        people.introduce(annotators)


def penalty(part: nn.Module, annotator: Tensor) -> Tensor:
    """Return the sum of the penalties of a head, [P]; see `People.penalty`."""
    return torch.stack([people.penalty(annotator) for people in people_of(part)]).sum(0)
