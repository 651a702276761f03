"""Preference heads: from hidden states to log-odds times tau. Bradley-Terry, pair, general and hybrid models differ in their heads alone.

Letters: `H` hidden size, `D` embedding dimension, `K` responses to a prompt. Heads compute in fp32, whatever the dtype of the backbone and
under autocast (the official code uses the dtype of the model). The loss and the scorer divide by tau.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prefrep.errors import ConfigError
from prefrep.functional import skew as functional
from prefrep.nn.context import ANYBODY, Context
from prefrep.nn.skew import BlockSkew, EvenDim, SkewOperator, check_dim, linear, project
from prefrep.parts import Part


class PreferenceHead(Part, nn.Module, ABC):
    """Map from hidden states to comparisons.

    `layout` names what the backbone reads: `single` responses, so that K reads give a K x K table, or ordered `pair`s of responses. It
    determines the shapes:

    | | one hidden state per | `compare(a, b)` | `table(e)` |
    | --- | --- | --- | --- |
    | `single` | response | embeddings of the two responses | [.., K, D] of K responses |
    | `pair` | ordered pair | embeddings of (first, second) and (second, first) | [.., K, K, D], entry [i, j] of (i, j) |
    """

    layout: ClassVar[Literal["single", "pair"]] = "single"
    dim: int

    @property
    def needs_prompt(self) -> bool:
        """Whether `compare` and `table` need the hidden state of the prompt."""
        return False

    @abstractmethod
    def embed(self, hidden: Tensor) -> Tensor:
        """Return the embeddings of texts.

        Args:
            hidden: Hidden states at the last token of each text, [.., H].

        Returns:
            [.., D].
        """

    @abstractmethod
    def compare(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return scores of first against second: positive if the first wins; exchanging the two flips the sign.

        Args:
            a: Embeddings, [.., D].
            b: Embeddings, [.., D].
            context: The prompts, and who is asked.

        Returns:
            [..].
        """

    @abstractmethod
    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return scores of all against all, exactly skew: s_ij = -s_ji and s_ii = 0.

        Args:
            e: Embeddings, [.., K, D]; of ordered pairs, [.., K, K, D], if `layout` is `pair`.
            context: The prompts, and who is asked.

        Returns:
            [.., K, K].
        """

    def alone(self, e: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return what one reading says: the reward of a Bradley-Terry model, f of one order of a pair model.

        Args:
            e: Embeddings, [.., D].
            context: The prompts, and who is asked.

        Returns:
            [..].
        """
        return functional.widen(e)[..., 0]


class BTHead(PreferenceHead):
    """Bradley-Terry: one reward per response, s = r_a - r_b.

    It is the general preference model with D = 2 and v = (r, 1). Embeddings keep a last axis of size 1, which the official code drops for
    this model alone.

    Args:
        hidden_size: Hidden size H of the backbone.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dim = 1
        self.value_head = linear(self, hidden_size, 1)

    def embed(self, hidden: Tensor) -> Tensor:  # noqa: D102
        return project(self.value_head, hidden)

    def compare(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return (functional.widen(a) - functional.widen(b)).squeeze(-1)

    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        rewards = functional.widen(e)
        return rewards - rewards.transpose(-1, -2)


class PairHead(PreferenceHead):
    """Pair preference model: reads both responses in one text, f = <w, h>, once in each order; s = (f(a, b) - f(b, a)) / 2.

    The mean over both orders removes position bias and makes s exactly antisymmetric. K responses cost K (K - 1) reads.

    Args:
        hidden_size: Hidden size H of the backbone.
        readout: `linear`: w is randomly initialised. `tokens`: w starts as the difference between the output embeddings of two answer
            tokens, so f is logit(A) - logit(B), as in RLHFlow's pair model; see `set_answer_rows`.
        answers: The answers of readout `tokens` for the first and for the second response. Quote `yes` and `no` in YAML, which parses
            them as booleans.

    Raises:
        ConfigError: The readout is unknown, or the answers are empty or equal.
    """

    layout: ClassVar[Literal["single", "pair"]] = "pair"

    def __init__(
        self,
        hidden_size: int,
        readout: Literal["linear", "tokens"] = "linear",
        answers: tuple[str, str] = ("A", "B"),
    ) -> None:
        if readout not in ("linear", "tokens"):
            raise ConfigError(f"PairHead.readout must be linear or tokens, got {readout!r}")
        if len(answers) != 2 or not all(answers) or answers[0] == answers[1]:
            raise ConfigError(f"PairHead.answers must be two different texts, got {answers!r}")
        super().__init__()
        self.dim = 1
        self.readout: Literal["linear", "tokens"] = readout
        self.answers = (answers[0], answers[1])
        self.value_head = linear(self, hidden_size, 1)

    @torch.no_grad()
    def set_answer_rows(self, row_a: Tensor, row_b: Tensor) -> None:
        """Initialise the readout from the output layer: w = row_a - row_b.

        Args:
            row_a: Row of the output layer for the token of the first answer, [H].
            row_b: Row of the output layer for the token of the second answer, [H].

        Raises:
            ConfigError: The readout is not `tokens`, or a row does not have H numbers.
        """
        if self.readout != "tokens":
            raise ConfigError(f"PairHead.readout is {self.readout}, which has no answer tokens; set it to tokens")
        weight = self.value_head.weight
        if row_a.shape != weight.shape[1:] or row_b.shape != weight.shape[1:]:
            raise ConfigError(f"PairHead: answer rows must have {weight.shape[1]} numbers, got {list(row_a.shape)} and {list(row_b.shape)}")
        weight.copy_((functional.widen(row_a) - functional.widen(row_b)).unsqueeze(0))

    def embed(self, hidden: Tensor) -> Tensor:
        """Return f of ordered pairs, in favour of the first response.

        Args:
            hidden: Hidden states at the last token of the text of each ordered pair, [.., H].

        Returns:
            [.., 1].
        """
        return project(self.value_head, hidden)

    def compare(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return order-averaged scores.

        Args:
            a: f of (first, second), [.., 1].
            b: f of (second, first), [.., 1].
            context: Not used.

        Returns:
            [..].
        """
        return (functional.widen(a) - functional.widen(b)).squeeze(-1) / 2

    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return order-averaged scores among K responses, (f - f^T) / 2.

        Args:
            e: f of all ordered pairs, [.., K, K, 1], entry [i, j] with i first. The diagonal is ignored.
            context: Not used.

        Returns:
            [.., K, K].
        """
        scores = functional.antisymmetric(functional.widen(e).squeeze(-1)) / 2
        diagonal = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
        return scores.masked_fill(diagonal, 0.0)


class GPMHead(PreferenceHead):
    """General preference model: an embedding per response, compared by a skew-symmetric form (arXiv:2410.02197, section 4).

    v = W h, or W h / ||W h||; s(a > b) = <R(x) v_a, v_b>. Where the sources disagree: embeddings are normalised by default (the paper and
    the example code do so, the training code has it commented out); W has no bias; all dimensions share one code path, so D = 2 with a
    softmax gate equals D = 2 without.

    Args:
        hidden_size: Hidden size H of the backbone.
        dim: Embedding dimension D, positive and even.
        skew: Builds the operator from (dim, hidden_size): BlockSkew, GatedSkew or LearnedSkew.
        normalize: Scale embeddings to length 1. Official checkpoints do not record it, so an import must state it.

    Raises:
        ConfigError: dim is odd or not positive.
    """

    def __init__(
        self,
        hidden_size: int,
        dim: EvenDim = 2,
        skew: Callable[[int, int], SkewOperator] = BlockSkew,
        normalize: bool = True,
    ) -> None:
        check_dim("GPMHead.dim", dim)
        super().__init__()
        self.dim = int(dim)
        self.normalize = normalize
        self.value_head = linear(self, hidden_size, self.dim)
        self.skew = skew(self.dim, hidden_size)

    @property
    def needs_prompt(self) -> bool:
        """Whether the prompt gates the operator."""
        return self.skew.needs_prompt

    def embed(self, hidden: Tensor) -> Tensor:  # noqa: D102
        v = project(self.value_head, hidden)
        return F.normalize(v, dim=-1, eps=1e-12) if self.normalize else v

    def compare(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return self.skew.score(a, b, context)

    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return self.skew.table(e, context)

    def block_scores(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return scores by 2 x 2 block; their sum is `compare`.

        Args:
            a: Embeddings of the first responses, [.., D].
            b: Embeddings of the second responses, [.., D].
            context: The prompts, and who is asked.

        Returns:
            [.., D/2].
        """
        return self.skew.block_scores(a, b, context)


class HybridHead(PreferenceHead):
    """Sum of a reward model and a general preference model: s(a > b) = (r_a - r_b) + <R(x) v_a, v_b> (arXiv:2605.17342).

    Separate linear maps give r and v. An embedding is (r, v), with D + 1 numbers.

    It represents what a general preference model of the same D cannot: one response that beats all others, above a cycle among these. In
    two dimensions s(a > b) = |v_a| |v_b| sin(angle from v_a to v_b). If one response beats all others, these lie within the half turn
    that follows it. Any two of them are then less than half a turn apart, so each beats those that come later, which is an order, whatever
    the lengths. Here the reward lifts the one response and v holds the cycle, of any length. (A general preference model with D + 2
    dimensions, free lengths and one block (r, 1) is this head, so tables reach rank D + 2.)

    The parts are not the transitive and the cyclic part of a table: v can hold rankings, too. The paper clips r and always has a gate;
    here r is free, and a gate is one of the operators. The paper uses the opposite sign.

    Args:
        hidden_size: Hidden size H of the backbone.
        dim: Dimension D of v, positive and even.
        skew: Builds the operator from (dim, hidden_size): BlockSkew, GatedSkew or LearnedSkew.
        normalize: Scale v to length 1, as the paper does; r stays as it is.

    Raises:
        ConfigError: dim is odd or not positive.
    """

    def __init__(
        self,
        hidden_size: int,
        dim: EvenDim = 2,
        skew: Callable[[int, int], SkewOperator] = BlockSkew,
        normalize: bool = True,
    ) -> None:
        check_dim("HybridHead.dim", dim)
        super().__init__()
        self.reward = BTHead(hidden_size)
        self.preference = GPMHead(hidden_size, dim, skew, normalize)
        self.dim = self.reward.dim + self.preference.dim

    @property
    def needs_prompt(self) -> bool:
        """Whether the prompt gates the operator."""
        return self.preference.needs_prompt

    def embed(self, hidden: Tensor) -> Tensor:
        """Return reward and embedding of texts, (r, v).

        Args:
            hidden: Hidden states at the last token of each text, [.., H].

        Returns:
            [.., 1 + D].
        """
        return torch.cat([self.reward.embed(hidden), self.preference.embed(hidden)], dim=-1)

    def compare(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return self.reward.compare(a[..., :1], b[..., :1]) + self.preference.compare(a[..., 1:], b[..., 1:], context)

    def table(self, e: Tensor, context: Context = ANYBODY) -> Tensor:  # noqa: D102
        return self.reward.table(e[..., :1]) + self.preference.table(e[..., 1:], context)

    def block_scores(self, a: Tensor, b: Tensor, context: Context = ANYBODY) -> Tensor:
        """Return scores by 2 x 2 block; their sum is `compare`. First comes the reward, r_a - r_b (the block (r, 1)), then v.

        Args:
            a: Embeddings of the first responses, [.., 1 + D].
            b: Embeddings of the second responses, [.., 1 + D].
            context: The prompts, and who is asked.

        Returns:
            [.., 1 + D/2].
        """
        rewards = self.reward.compare(a[..., :1], b[..., :1])
        return torch.cat([rewards.unsqueeze(-1), self.preference.block_scores(a[..., 1:], b[..., 1:], context)], dim=-1)
