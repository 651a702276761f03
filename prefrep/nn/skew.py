"""Skew operators: how a general preference model compares two embeddings. A positive score means that the first one wins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jsonargparse.typing import extend_base_type
from torch import Tensor, nn
from torch.nn import functional as F

from prefrep.errors import ConfigError
from prefrep.functional import skew
from prefrep.functional.skew import GateVariant
from prefrep.nn.context import ANYBODY, Context
from prefrep.parts import Part


def check_dim(owner: str, dim: int) -> None:
    """Check that an embedding dimension consists of 2 x 2 blocks.

    Args:
        owner: Name of the parameter, for the message.
        dim: The dimension.

    Raises:
        ConfigError: The dimension is odd or not positive.
    """
    if dim < 2 or dim % 2:
        raise ConfigError(f"{owner} must be a positive even number, got {dim}")


MYPY = False  # mypy evaluates this name as True; so does jsonargparse with TYPE_CHECKING, which would hide the restriction
if MYPY:
    EvenDim = int
else:
    # The command line calls head factories late; this type rejects an odd dimension at parse time.
    EvenDim = extend_base_type("EvenDim", int, lambda _, value: check_dim("GPMHead.dim", int(value)))


def linear(owner: nn.Module, in_features: int, out_features: int) -> nn.Linear:
    """Return a linear layer without bias, initialised as N(0, 1/(in_features + 1)^2) like the heads of the official checkpoints.

    The official code does so only if flags are set; here every new head does.

    Args:
        owner: The module that the layer belongs to, for the error message.
        in_features: H.
        out_features: Rows of the weight.

    Raises:
        ConfigError: The hidden size is not positive.
    """
    if in_features < 1:
        raise ConfigError(f"{type(owner).__name__}: the hidden size must be positive, got {in_features}")
    layer = nn.Linear(in_features, out_features, bias=False)
    nn.init.normal_(layer.weight, std=1 / (in_features + 1))
    return layer


def project(layer: nn.Linear, hidden: Tensor) -> Tensor:
    """Apply a linear layer in fp32, whatever the dtypes of hidden states and weight, and under autocast too.

    Args:
        layer: A layer without bias.
        hidden: [.., H].

    Returns:
        [.., rows of the weight].
    """
    hidden = skew.widen(hidden)
    with skew.full_precision(hidden):
        return F.linear(hidden, layer.weight.to(hidden.dtype))


class SkewOperator(Part, nn.Module, ABC):
    """Skew-symmetric form: s(a > b) = <R(x) a, b> with R(x)^T = -R(x).

    Args:
        dim: Embedding dimension D, positive and even.
        hidden_size: Hidden size H of the backbone, for operators that read the prompt.

    Raises:
        ConfigError: dim is odd or not positive.
    """

    needs_prompt: ClassVar[bool] = False

    def __init__(self, dim: int, hidden_size: int) -> None:
        check_dim(f"{type(self).__name__}.dim", dim)
        super().__init__()
        self.dim, self.hidden_size = int(dim), int(hidden_size)

    @abstractmethod
    def score(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return scores of pairs.

        Args:
            a: Embeddings of the first responses, [.., D].
            b: Embeddings of the second responses, [.., D].
            context: The prompts, and who is asked.

        Returns:
            [..].
        """

    @abstractmethod
    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return scores among K responses, exactly skew: s_ij = -s_ji and s_ii = 0.

        Args:
            e: Embeddings, [.., K, D].
            context: The prompts, and who is asked.

        Returns:
            [.., K, K].
        """

    @abstractmethod
    def block_scores(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return scores of pairs by 2 x 2 block; their sum is `score`.

        Args:
            a: Embeddings of the first responses, [.., D].
            b: Embeddings of the second responses, [.., D].
            context: The prompts, and who is asked.

        Returns:
            [.., D/2].
        """

    @abstractmethod
    def matrix(self, context: Context = ANYBODY) -> Tensor:
        """Return R(x), for analysis.

        Args:
            context: The prompts, and who is asked.

        Returns:
            [.., D, D], or [D, D] if R does not depend on the prompt.
        """


class BlockSkew(SkewOperator):
    """Canonical operator R = blockdiag([[0, -1], [1, 0]]), without parameters (arXiv:2410.02197, Definition 4.2).

    With embeddings of length 1 a score lies in [-1, 1].
    """

    anchor: Tensor

    def __init__(self, dim: int, hidden_size: int) -> None:
        super().__init__(dim, hidden_size)
        self.register_buffer("anchor", torch.empty(0), persistent=False)  # carries the device, in place of a parameter

    def score(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return skew.score(a, b)

    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return skew.table(e)

    def block_scores(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return skew.block_scores(a, b)

    def matrix(self, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return skew.block_matrix(self.dim, device=self.anchor.device)


class GatedSkew(SkewOperator):
    """Canonical blocks with weights w(x) >= 0 that depend on the prompt: s = sum_l w_l(x) (a[2l] b[2l+1] - a[2l+1] b[2l]).

    Where the sources disagree: weights enter linearly, as in the official code (the paper squares them); the default variant is plain
    softmax, as in the released checkpoints; all responses share the gate of their prompt (the official code computes it in the sequence of
    the chosen response), so a table stays exactly skew. With D = 2 a softmax gate is always 1.

    Args:
        dim: Embedding dimension D, positive and even.
        hidden_size: Hidden size H of the backbone.
        variant: `softmax`, `scaled_softmax` (D/2 softmax(z / sqrt(H)), the published training code), `nonnegative` (softplus, any sum).

    Raises:
        ConfigError: dim is odd or not positive, or the variant is unknown.
    """

    needs_prompt: ClassVar[bool] = True

    def __init__(self, dim: int, hidden_size: int, variant: GateVariant = "softmax") -> None:
        super().__init__(dim, hidden_size)
        if variant not in ("softmax", "scaled_softmax", "nonnegative"):
            raise ConfigError(f"GatedSkew.variant must be softmax, scaled_softmax or nonnegative, got {variant!r}")
        self.variant: GateVariant = variant
        self.prompt_head = linear(self, hidden_size, dim // 2)

    def weights(self, context: Context) -> Tensor:
        """Return the weights of the blocks.

        Args:
            context: The prompts.

        Returns:
            w, [.., D/2].

        Raises:
            ConfigError: The context has no prompt.
        """
        if context.prompt is None:
            raise ConfigError("GatedSkew needs the hidden state of the prompt to compute its gate; pass Context(prompt), or use BlockSkew")
        return skew.gate(project(self.prompt_head, context.prompt), self.variant, self.hidden_size)

    def score(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return skew.score(a, b, self.weights(context))

    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return skew.table(e, self.weights(context))

    def block_scores(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return skew.block_scores(a, b, self.weights(context))

    def matrix(self, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        weights = self.weights(context)
        return skew.block_matrix(self.dim, weights.dtype, weights.device) * weights.repeat_interleave(2, -1).unsqueeze(-1)


class LearnedSkew(SkewOperator):
    """Learned operator R = A - A^T, initialised as the canonical one.

    It is not in the paper, whose Proposition A.1 needs R to preserve lengths; here block scales are learned and shared by all prompts.
    Scores of unit embeddings are bounded by the largest scale, not by 1.

    Args:
        dim: Embedding dimension D, positive and even.
        hidden_size: Not used; all operators share one signature.

    Raises:
        ConfigError: dim is odd or not positive.
    """

    def __init__(self, dim: int, hidden_size: int) -> None:
        super().__init__(dim, hidden_size)
        self.factor = nn.Parameter(skew.block_matrix(dim) / 2)  # A; A - A^T is then the canonical R

    def score(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        a, b = skew.widen(a), skew.widen(b)
        factor = self.factor.to(a.dtype)
        with skew.full_precision(a):
            return (F.linear(a, factor) * b - F.linear(b, factor) * a).sum(-1)

    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        e = skew.widen(e)
        with skew.full_precision(e):
            return skew.antisymmetric(F.linear(e, self.factor.to(e.dtype)) @ e.transpose(-1, -2))

    def block_scores(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return scores of pairs by block of the canonical form of R, from the largest scale to the smallest, for analysis.

        Gradients reach a and b but not R: the canonical form is not differentiable where scales coincide, as they do at initialisation.

        Args:
            a: Embeddings of the first responses, [.., D].
            b: Embeddings of the second responses, [.., D].
            context: Not used.

        Returns:
            [.., D/2].
        """
        scales, basis = skew.canonical_form(self.matrix().detach().double())
        a, b = skew.widen(a), skew.widen(b)
        basis = basis.to(a.dtype)
        with skew.full_precision(a):
            return skew.block_scores(a @ basis, b @ basis, scales.to(a.dtype))

    def matrix(self, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return skew.antisymmetric(skew.widen(self.factor))
