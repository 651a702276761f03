"""Preferences of persons: K reads answer for any number of annotators, since who prefers enters the comparison and not the reading.

Letters: `H` hidden size, `D` embedding dimension, `K` responses to a prompt, `U` annotators, `M` prototypes. With `Context.annotator` of
shape [U] the table of K responses is [U, K, K].
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from prefrep.errors import ConfigError
from prefrep.functional import skew
from prefrep.nn.context import ANYBODY, Context
from prefrep.nn.heads import PreferenceHead
from prefrep.nn.people import People
from prefrep.nn.skew import SkewOperator, linear, project


class PersonalRewardHead(PreferenceHead):
    """One reward per person and response, s_u(a > b) = r_u(a) - r_u(b): each person is transitive, and a majority of them may not be.

    Args:
        hidden_size: Hidden size H of the backbone.
        dim: Embedding dimension D.

    Raises:
        ConfigError: dim is below 1.
    """

    def __init__(self, hidden_size: int, dim: int) -> None:
        if dim < 1:
            raise ConfigError(f"{type(self).__name__}: the dimension of its embeddings must be 1 or more, got {dim}")
        super().__init__()
        self.dim = int(dim)
        self.value_head = linear(self, hidden_size, self.dim)

    def embed(self, hidden: Tensor) -> Tensor:  # noqa: D102
        return project(self.value_head, hidden)

    @abstractmethod
    def rewards(self, e: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return the rewards of responses.

        Args:
            e: Embeddings, [.., K, D].
            context: The prompts, and who is asked, [..].

        Returns:
            [.., K].
        """

    def compare(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        first, second = self.rewards(torch.stack(torch.broadcast_tensors(skew.widen(a), skew.widen(b)), -2), context).unbind(-1)
        return first - second

    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        rewards = self.rewards(skew.widen(e), context)
        return rewards.unsqueeze(-1) - rewards.unsqueeze(-2)


class PersonalHead(PersonalRewardHead):
    """Personal rewards of low rank: r_u = <psi, theta_u> with psi = W h shared by all (RLHF from heterogeneous feedback, arXiv:2405.00254).

    theta_u is shrunk to the mean theta, which answers for the population. A new annotator fits theta_u alone (`prefrep adapt`).

    Args:
        hidden_size: Hidden size H of the backbone.
        rank: Number of features psi, the directions in which people differ.
        spread: Standard deviation of theta_u around the mean that the penalty expects; see `nn.people`.

    Raises:
        ConfigError: The rank is below 1, or the spread is not above 0.
    """

    def __init__(self, hidden_size: int, rank: int = 8, spread: float = 1.0) -> None:
        super().__init__(hidden_size, rank)
        self.theta = People(torch.randn(self.dim) / self.dim**0.5, spread)

    def rewards(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return (e * self.theta.of(context.annotator).to(e.dtype).unsqueeze(-2)).sum(-1)


class IdealPointHead(PersonalRewardHead):
    """Ideal points: the nearer a response to what a person wants, the better, r_u = -|f - a_u| (PAL, arXiv:2406.08469).

    f = W h; a_u = sum_m w_um p_m with w_u = softmax of the person's vector. Variant A has M prototypes p_m for all prompts; variant B makes
    them of the prompt, p_m = g_m(x). One prototype is one ideal point for everybody. The published code maps h by an MLP; here f is linear,
    as in all heads of prefrep. A new annotator fits w_u alone.

    Args:
        hidden_size: Hidden size H of the backbone.
        prototypes: M.
        dim: Embedding dimension D.
        variant: A or B.
        spread: Standard deviation of annotators' logits of w around the population's that the penalty expects; see `nn.people`.

    Raises:
        ConfigError: A number is out of range, or the variant is unknown.
    """

    def __init__(self, hidden_size: int, prototypes: int = 2, dim: int = 8, variant: Literal["A", "B"] = "A", spread: float = 3.0) -> None:
        if prototypes < 1:
            raise ConfigError(f"IdealPointHead.prototypes must be 1 or more, got {prototypes}")
        if variant not in ("A", "B"):
            raise ConfigError(f"IdealPointHead.variant must be A or B, got {variant!r}")
        super().__init__(hidden_size, dim)
        self.variant: Literal["A", "B"] = variant
        self.prototypes = int(prototypes)
        self.weights = People(torch.zeros(self.prototypes), spread)
        # Prototypes of length about 1, far from all responses at first: rewards then begin as linear functions, in M directions.
        self.points = nn.Parameter(torch.randn(self.prototypes, self.dim) / self.dim**0.5)
        self.shift = linear(self, hidden_size, self.prototypes * self.dim) if variant == "B" else None

    @property
    def needs_prompt(self) -> bool:
        """Whether prototypes depend on the prompt."""
        return self.shift is not None

    def ideal(self, context: Context = ANYBODY) -> Tensor:
        """Return the ideal points of people, [.., D].

        Raises:
            ConfigError: Variant B got no prompt.
        """
        weights, points = self.weights.of(context.annotator).softmax(-1), self.points
        if self.shift is not None:
            if context.prompt is None:
                raise ConfigError("IdealPointHead, variant B, makes its prototypes of the prompt; pass Context(prompt), or use variant A")
            points = points + project(self.shift, context.prompt).unflatten(-1, (self.prototypes, self.dim))
        return (weights.unsqueeze(-1) * points).sum(-2)

    def rewards(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        away = e - self.ideal(context).to(e.dtype).unsqueeze(-2)
        return -(away.square().sum(-1) + 1e-12).sqrt()  # a distance of 0 has no gradient


class PersonalSkew(SkewOperator):
    """Canonical blocks weighed by the person: s_u(a > b) = sum_l w_ul (a[2l] b[2l+1] - a[2l+1] b[2l]), general preferences for each.

    Weights begin at 1 and may become negative, so that two people can disagree on a block throughout. The operator is ours; it joins
    arXiv:2410.02197, section 4, with the low-rank model of arXiv:2405.00254.

    Args:
        dim: Embedding dimension D, positive and even.
        hidden_size: Not used; all operators share one signature.
        spread: Standard deviation of weights around the population's that the penalty expects; see `nn.people`.

    Raises:
        ConfigError: dim is odd or not positive, or the spread is not above 0.
    """

    def __init__(self, dim: int, hidden_size: int, spread: float = 1.0) -> None:
        super().__init__(dim, hidden_size)
        self.people = People(torch.ones(self.dim // 2), spread)

    def score(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return skew.score(a, b, self.people.of(context.annotator))

    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return skew.table(e, self.people.of(context.annotator))

    def block_scores(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return skew.block_scores(a, b, self.people.of(context.annotator))

    def matrix(self, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        weights = self.people.of(context.annotator)
        return skew.block_matrix(self.dim, weights.dtype, weights.device) * weights.repeat_interleave(2, -1).unsqueeze(-1)
