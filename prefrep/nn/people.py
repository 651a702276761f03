"""What a head knows of annotators: a vector for each, shrunk to that of the population (`People`), or a share in latent types (`Types`).

Letters: `U` annotators, `F` numbers for each of them, `Z` types, `P` comparisons. The index -1 is the population, which answers for whoever
is not known.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from prefrep.annotators import Annotators
from prefrep.errors import ConfigError
from prefrep.nn.losses import check_positive


class Members(nn.Module, ABC):
    """Something that a head knows of each annotator."""

    def __init__(self) -> None:
        super().__init__()
        self.annotators = Annotators({})

    @abstractmethod
    def of(self, annotator: Tensor | None) -> Tensor:
        """Return what is known of annotators.

        Args:
            annotator: Indices, [..]; -1, or None: the population.

        Returns:
            [.., F], or [F] for None.
        """

    def introduce(self, annotators: Annotators) -> None:
        """Make room for annotators: those that are known keep their index and what is known of them."""
        joined = self.annotators.joined(annotators)
        self._extend(len(joined) - len(self.annotators), joined)
        self.annotators = joined

    @abstractmethod
    def _extend(self, new: int, joined: Annotators) -> None:
        """Make room for a number of new annotators."""

    def penalty(self, annotator: Tensor) -> Tensor:
        """Return the share of each label in the penalty of its annotator: [P] -> [P]; 0 for the population."""
        return torch.zeros(annotator.shape, device=annotator.device)


class People(Members):
    """One vector for each annotator, shrunk to that of the population.

        theta_u = theta + delta_u,     loss + |delta_u|^2 / (2 spread^2) once for each annotator

    The penalty is the negative logarithm of a normal prior, so whoever has few labels stays near the population.

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
        self.register_buffer("labels", mean.new_zeros(0), persistent=False)  # numbers of labels, which exported folders hold by name

    def of(self, annotator: Tensor | None) -> Tensor:  # noqa: D102
        return self.mean if annotator is None else self.mean + self._offsets(annotator)

    def _offsets(self, annotator: Tensor) -> Tensor:
        nobody = self.offsets.new_zeros(1, self.offsets.shape[1])  # the last row, which the index -1 reads
        return torch.cat([self.offsets, nobody])[annotator]

    def penalty(self, annotator: Tensor) -> Tensor:  # noqa: D102
        shares = torch.cat([1 / self.labels.clamp_min(1), self.labels.new_zeros(1)])[annotator]
        return shares * self._offsets(annotator).square().sum(-1) / (2 * self.spread**2)

    @torch.no_grad()
    def _extend(self, new: int, joined: Annotators) -> None:
        self.offsets = nn.Parameter(torch.cat([self.offsets, self.offsets.new_zeros(new, self.offsets.shape[1])]))
        self.labels = self.labels.new_tensor(list(joined.labels.values()))


class Types(Members):
    """Responsibilities: the probability that each annotator is of each latent type, p(z | labels of u) (EM, arXiv:2405.15065).

    They begin as draws from a Dirichlet distribution. From a uniform start all types would learn the same and responsibilities stay where
    they are: a saddle that expectation-maximisation never leaves.

    Args:
        types: Z.
        start: Concentration of the draws: the smaller, the nearer each annotator begins to a single type.

    Raises:
        ConfigError: There is no type, or the start is uniform or not above 0.
    """

    prior: Tensor
    responsibilities: Tensor

    def __init__(self, types: int, start: float) -> None:
        if types < 1:
            raise ConfigError(f"a mixture needs 1 type or more, got {types}")
        if not 0 < start <= 100:
            why = "from a uniform start all types learn the same for ever" if start > 100 else "it is a concentration"
            raise ConfigError(f"the start of a mixture must be above 0 and at most 100, got {start}: {why}; leave it at 0.3")
        super().__init__()
        self.start = float(start)
        self.register_buffer("prior", torch.full((types,), 1 / types))
        self.register_buffer("responsibilities", torch.zeros(0, types))

    def of(self, annotator: Tensor | None) -> Tensor:  # noqa: D102
        return self.prior if annotator is None else torch.cat([self.responsibilities, self.prior[None]])[annotator]

    def _extend(self, new: int, joined: Annotators) -> None:
        drawn = torch.distributions.Dirichlet(torch.full_like(self.prior, self.start)).sample((new,)) if new else self.responsibilities[:0]
        self.responsibilities = torch.cat([self.responsibilities, drawn])

    @torch.no_grad()
    def expect(self, log_likelihood: Tensor) -> float:
        """Set responsibilities, and the prior to their mean: the E-step, and the M-step of the prior.

        Args:
            log_likelihood: Of the labels of each annotator under each type, [U, Z].

        Returns:
            The log-likelihood of all labels under the prior of before.
        """
        joint = self._log_prior() + log_likelihood
        self.responsibilities = joint.softmax(-1)
        self.prior = self.responsibilities.mean(0)
        return float(joint.logsumexp(-1).sum())

    @torch.no_grad()
    def expect_last(self, log_likelihood: Tensor) -> None:
        """Set the responsibilities of the annotator who came last, and nothing else: [Z]."""
        self.responsibilities[-1] = (self._log_prior() + log_likelihood).softmax(-1)

    def _log_prior(self) -> Tensor:
        return self.prior.clamp_min(torch.finfo(self.prior.dtype).tiny).log()

    def told_apart(self) -> bool:
        """Return whether annotators have labels enough to tell their types: most have two (one label says no more than a coin)."""
        counts = list(self.annotators.labels.values())
        return math.fsum(count > 1 for count in counts) * 2 >= len(counts)


def members_of(part: nn.Module) -> Iterator[Members]:
    """Yield what a head knows of annotators, if it asks who judges."""
    return (module for module in part.modules() if isinstance(module, Members))


def annotators_of(part: nn.Module) -> Annotators | None:
    """Return whom a head knows; None: it answers everybody alike."""
    return next((members.annotators for members in members_of(part)), None)


def introduce(part: nn.Module, annotators: Annotators) -> None:
    """Make room for annotators in a head, see `Members.introduce`."""
    for members in members_of(part):
        members.introduce(annotators)


def penalty(part: nn.Module, annotator: Tensor) -> Tensor:
    """Return the sum of the penalties of a head, [P]; see `Members.penalty`."""
    return torch.stack([members.penalty(annotator) for members in members_of(part)]).sum(0)
