"""Preference heads: hidden states in, log-odds times tau out. Bradley-Terry, pair, general and hybrid preference models differ here only.

Letters: `H` hidden size, `D` embedding dimension, `K` responses to a prompt. Everything is computed in fp32, whatever the backbone's dtype
and under autocast (the official code computes in the model's dtype). Division by tau belongs to the loss and to the scorer.
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
from prefrep.nn.skew import BlockSkew, EvenDim, SkewOperator, check_dim, linear, project


class PreferenceHead(nn.Module, ABC):
    """What turns hidden states into comparisons.

    `layout` says what is encoded: `single` responses, so that K encodes give a K x K table, or ordered `pair`s of responses. It decides the
    shapes that `embed`, `compare` and `table` work with:

    | | one hidden state per | `compare(a, b)` | `table(e)` |
    | --- | --- | --- | --- |
    | `single` | response | embeddings of the two responses | [.., K, D] of K responses |
    | `pair` | ordered pair | embeddings of (first, second) and (second, first) | [.., K, K, D], entry [i, j] of (i, j) |
    """

    layout: ClassVar[Literal["single", "pair"]] = "single"
    dim: int

    @property
    def needs_prompt(self) -> bool:
        """Whether `compare` and `table` want the prompt's hidden state."""
        return False

    @abstractmethod
    def embed(self, hidden: Tensor) -> Tensor:
        """Embeddings of what was read.

        Args:
            hidden: Hidden states at the last token of each text, [.., H].

        Returns:
            [.., D].
        """

    @abstractmethod
    def compare(self, a: Tensor, b: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Scores of first against second: positive if the first wins, and of opposite sign if they are exchanged.

        Args:
            a: Embeddings, [.., D].
            b: Embeddings, [.., D].
            prompt: Hidden states of the prompts, [.., H], if `needs_prompt`.

        Returns:
            [..].
        """

    @abstractmethod
    def table(self, e: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Scores of all against all, exactly skew: s_ij = -s_ji and s_ii = 0.

        Args:
            e: Embeddings, [.., K, D]; of ordered pairs, [.., K, K, D], if `layout` is `pair`.
            prompt: Hidden states of the prompts, [.., H], if `needs_prompt`.

        Returns:
            [.., K, K].
        """


class BTHead(PreferenceHead):
    """Bradley-Terry: one reward per response, s = r_a - r_b.

    The special case of a general preference model with D = 2 and v = (r, 1). Embeddings keep a last axis of size 1 (the official code drops
    it for this model alone).

    Args:
        hidden_size: Hidden size H of the backbone.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dim = 1
        self.value_head = linear(self, hidden_size, 1)

    def embed(self, hidden: Tensor) -> Tensor:  # noqa: D102
        return project(self.value_head, hidden)

    def compare(self, a: Tensor, b: Tensor, prompt: Tensor | None = None) -> Tensor:  # noqa: D102
        return (functional.widen(a) - functional.widen(b)).squeeze(-1)

    def table(self, e: Tensor, prompt: Tensor | None = None) -> Tensor:  # noqa: D102
        rewards = functional.widen(e)
        return rewards - rewards.transpose(-1, -2)


class PairHead(PreferenceHead):
    """Pair preference model: reads both responses in one text, f = <w, h>, once in each order; s = (f(a, b) - f(b, a)) / 2.

    The mean over both orders takes out the preference for a position and makes s exactly antisymmetric. K responses cost K (K - 1) encodes.

    Args:
        hidden_size: Hidden size H of the backbone.
        readout: `linear`: w is new. `tokens`: w starts as the difference between the output embeddings of two answer tokens, so f is
            logit(A) - logit(B), as RLHFlow's pair model reads its answer; see `set_answer_rows`.
        answers: The two answers, for the first response and for the second: which tokens `tokens` looks up. Quote `yes` and `no` in
            YAML, which takes them for booleans.

    Raises:
        ConfigError: No such readout, or the answers are empty or the same.
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
        """Start from the language model's own answer: w = row_a - row_b.

        Args:
            row_a: Row of the output embedding of the first answer's token, [H].
            row_b: Row of the output embedding of the second answer's token, [H].

        Raises:
            ConfigError: The readout is not `tokens`, or a row has another size.
        """
        if self.readout != "tokens":
            raise ConfigError(f"PairHead.readout is {self.readout}, which has no answer tokens; set it to tokens")
        weight = self.value_head.weight
        if row_a.shape != weight.shape[1:] or row_b.shape != weight.shape[1:]:
            raise ConfigError(f"PairHead: answer rows must have {weight.shape[1]} numbers, got {list(row_a.shape)} and {list(row_b.shape)}")
        weight.copy_((functional.widen(row_a) - functional.widen(row_b)).unsqueeze(0))

    def embed(self, hidden: Tensor) -> Tensor:
        """What each text says for its first response, f.

        Args:
            hidden: Hidden states at the last token of each ordered pair's text, [.., H].

        Returns:
            [.., 1].
        """
        return project(self.value_head, hidden)

    def compare(self, a: Tensor, b: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Order-averaged scores.

        Args:
            a: f of (first, second), [.., 1].
            b: f of (second, first), [.., 1].
            prompt: Not used.

        Returns:
            [..].
        """
        return (functional.widen(a) - functional.widen(b)).squeeze(-1) / 2

    def table(self, e: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Order-averaged scores among K responses, (f - f^T) / 2.

        Args:
            e: f of all ordered pairs, [.., K, K, 1], entry [i, j] of the text with i first. The diagonal is not looked at.
            prompt: Not used.

        Returns:
            [.., K, K].
        """
        scores = functional.antisymmetric(functional.widen(e).squeeze(-1)) / 2
        diagonal = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
        return scores.masked_fill(diagonal, 0.0)


class GPMHead(PreferenceHead):
    """General preference model: an embedding per response, compared by a skew-symmetric form (arXiv:2410.02197, section 4).

    v = W h, or W h / ||W h||; s(a > b) = <R(x) v_a, v_b>. Decisions where the sources disagree: embeddings are normalised unless said
    otherwise (the paper and the example code do, the training code has it commented out); W has no bias; every dimension takes the same
    path, so D = 2 with a softmax gate equals D = 2 without.

    Args:
        hidden_size: Hidden size H of the backbone.
        dim: Embedding dimension D, positive and even.
        skew: Makes the operator from (dim, hidden_size): BlockSkew, GatedSkew or LearnedSkew.
        normalize: Bring embeddings to length 1. It is not recorded in official checkpoints, so it has to be stated when one is read.

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
        """Whether the operator is gated by the prompt."""
        return self.skew.needs_prompt

    def embed(self, hidden: Tensor) -> Tensor:  # noqa: D102
        v = project(self.value_head, hidden)
        return F.normalize(v, dim=-1, eps=1e-12) if self.normalize else v

    def compare(self, a: Tensor, b: Tensor, prompt: Tensor | None = None) -> Tensor:  # noqa: D102
        return self.skew.score(a, b, prompt)

    def table(self, e: Tensor, prompt: Tensor | None = None) -> Tensor:  # noqa: D102
        return self.skew.table(e, prompt)

    def block_scores(self, a: Tensor, b: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Scores by 2 x 2 block, whose sum is `compare`.

        Args:
            a: Embeddings of the first responses, [.., D].
            b: Embeddings of the second responses, [.., D].
            prompt: Hidden states of the prompts, [.., H], if `needs_prompt`.

        Returns:
            [.., D/2].
        """
        return self.skew.block_scores(a, b, prompt)


class HybridHead(PreferenceHead):
    """A reward and a general preference model side by side: s(a > b) = (r_a - r_b) + <R(x) v_a, v_b> (arXiv:2605.17342).

    r and v come from linear maps of their own. An embedding is (r, v), with D + 1 numbers.

    What it can hold and a general preference model of the same D cannot: one answer that beats all others, above others that run in a
    cycle. In two dimensions s(a > b) = |v_a| |v_b| sin(angle from v_a to v_b). If one answer beats all others, these lie within the half
    turn that follows it; two of them are then less than half a turn apart, so each beats those that come later, and that is an order. No
    lengths help. Here the reward lifts the one answer and the cycle stays in v, for cycles of any length. (With D + 2 dimensions, free
    lengths and one block (r, 1) a general preference model is this head, so ranks of tables reach D + 2 here.)

    The two parts are not the transitive and the cyclic part of a table: v can hold rankings too, and nothing but training keeps them out.
    The paper clips r and has a gate; here r is free, and a gate is an operator like others. The paper's own sign is the opposite one.

    Args:
        hidden_size: Hidden size H of the backbone.
        dim: Dimension D of v, positive and even.
        skew: Makes the operator from (dim, hidden_size): BlockSkew, GatedSkew or LearnedSkew.
        normalize: Bring v to length 1, as the paper does; r is not touched.

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
        """Whether the operator is gated by the prompt."""
        return self.preference.needs_prompt

    def embed(self, hidden: Tensor) -> Tensor:
        """Reward and embedding of what was read, (r, v).

        Args:
            hidden: Hidden states at the last token of each text, [.., H].

        Returns:
            [.., 1 + D].
        """
        return torch.cat([self.reward.embed(hidden), self.preference.embed(hidden)], dim=-1)

    def compare(self, a: Tensor, b: Tensor, prompt: Tensor | None = None) -> Tensor:  # noqa: D102
        return self.reward.compare(a[..., :1], b[..., :1]) + self.preference.compare(a[..., 1:], b[..., 1:], prompt)

    def table(self, e: Tensor, prompt: Tensor | None = None) -> Tensor:  # noqa: D102
        return self.reward.table(e[..., :1]) + self.preference.table(e[..., 1:], prompt)

    def block_scores(self, a: Tensor, b: Tensor, prompt: Tensor | None = None) -> Tensor:
        """Scores by 2 x 2 block, whose sum is `compare`: first the reward's, r_a - r_b (the block (r, 1)), then those of v.

        Args:
            a: Embeddings of the first responses, [.., 1 + D].
            b: Embeddings of the second responses, [.., 1 + D].
            prompt: Hidden states of the prompts, [.., H], if `needs_prompt`.

        Returns:
            [.., 1 + D/2].
        """
        rewards = self.reward.compare(a[..., :1], b[..., :1])
        return torch.cat([rewards.unsqueeze(-1), self.preference.block_scores(a[..., 1:], b[..., 1:], prompt)], dim=-1)
