"""Sampled responses of a round as token trees, and the batches that GPO trains on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefrep.data.encode import Encoder
from prefrep.data.prompt_sources import Prompt
from prefrep.data.rounds import Line
from prefrep.data.trees import Datum, Tree, TreeBatch
from prefrep.data.trie import Ids
from prefrep.functional.gpo import Judged


@dataclass(frozen=True)
class RoundBatch:
    """Prompts of a round with their K responses, S of which the policy reads. N prompts, J judges, M responses of pi_0.

    Args:
        trees: Prompts with the N * S responses that the policy reads, in order.
        surplus: Number of tokens at the end of each response that the policy did not sample [N * S], such as an EOS after a cut response.
        selected: Indices of the S responses among the K [N, S].
        table: Log-odds among the responses [N, K, K].
        initial_table: Log-odds against responses of pi_0 [N, K, M].
        reference: log pi_t of the responses [N, K].
        initial: log pi_0 of the responses [N, K]; NaN if the run does not measure it.
        lengths: Number of sampled tokens of the responses [N, K].
        weight: Weight of each prompt in the loss [N].
        tables: Log-odds by judge [N, J, K, K]; None: there is one judge.
        earlier: log-probabilities of the responses under an earlier round's policy [N, K]; None if the objective refers to none.
        earlier_table: Log-odds against responses of that policy [N, K, M]; None if the objective needs none.
    """

    trees: TreeBatch
    surplus: Tensor
    selected: Tensor
    table: Tensor
    initial_table: Tensor
    reference: Tensor
    initial: Tensor
    lengths: Tensor
    weight: Tensor
    tables: Tensor | None = None
    earlier: Tensor | None = None
    earlier_table: Tensor | None = None

    def __len__(self) -> int:
        return len(self.weight)

    @property
    def tokens(self) -> int:
        """Number of distinct tokens."""
        return self.trees.tokens

    @property
    def judged(self) -> Judged:
        """The quantities of all K responses that objectives read."""
        return Judged(
            self.table, self.initial_table, self.reference, self.initial, self.lengths, self.tables, self.earlier, self.earlier_table
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RoundBatch:
        """Return the batch on another device."""
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> RoundBatch:
        """Return the batch in page-locked memory."""
        return self._each(lambda part: part.pin_memory())

    def _each(self, change: Callable[[Any], Any]) -> RoundBatch:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: None if part is None else change(part) for name, part in parts.items()}
        return RoundBatch(**changed)


@dataclass(frozen=True, slots=True)
class Sample:
    """K encoded responses to a prompt.

    Args:
        datum: A tree with K sequences.
        surplus: Number of tokens at the end of each that were not sampled.
    """

    datum: Datum
    surplus: tuple[int, ...]

    def holds(self, sampled: Sequence[Sequence[int]]) -> bool:
        """Return whether the responses are encoded to the tokens that were sampled, each with its end."""
        (tree,) = self.datum.trees
        return all(
            ids[tree.prompt : len(ids) - surplus].tolist() == list(own)
            for ids, surplus, own in zip(tree.sequences, self.surplus, sampled, strict=True)
        )

    def some(self, places: Sequence[int]) -> Sample:
        """Return the responses at the given indices, in that order."""
        (tree,) = self.datum.trees
        return Sample(Datum((Tree(tuple(tree.sequences[i] for i in places), tree.prompt),)), tuple(self.surplus[i] for i in places))


def encode_samples(encoder: Encoder, prompts: Sequence[Prompt], samples: Sequence[Line]) -> list[Sample]:
    """Encode the sampled responses to each prompt as a tree.

    Args:
        encoder: An encoder of the policy's responses (`policy=True`). It must not drop records.
        prompts: The prompts, short enough to leave room for a response.
        samples: Lines of `samples.jsonl`. Each response follows its lead (`Encoder.lead`); lines without `leads` get the template's.
    """
    ends = encoder.end_ids()

    def as_sampled(line: Line) -> list[str]:
        texts = line["responses"]
        return [lead + text for lead, text in zip(line.get("leads", [encoder.lead] * len(texts)), texts, strict=True)]

    records = (prompt.answered(as_sampled(line)) for prompt, line in zip(prompts, samples, strict=True))
    found = []
    for (_, datum), line in zip(encoder.encode_tables(records), samples, strict=True):
        assert datum is not None, "prompts leave room for responses"
        sequences = datum.trees[0].sequences
        whole = [flag and len(ids) < encoder.config.max_length for ids, flag in zip(sequences, line["finished"], strict=True)]
        found.append(Sample(datum, tuple(trailing(ids, ends) - flag for ids, flag in zip(sequences, whole, strict=True))))
    return found


def trailing(ids: Ids, ends: list[int]) -> int:
    """Return the number of end tokens at the end: templates write one of their own before the EOS."""
    others = np.flatnonzero(~np.isin(ids, ends))
    return len(ids) - 1 - int(others[-1])
