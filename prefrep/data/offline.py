"""Preference data as a policy reads them: log-probabilities of given responses, their reference, and pairs across prompts.

A response counts the tokens that a policy would sample: the template's end token, but no second one behind it. A datum is one tree, so that
its prompt is read once; a pair across prompts is two trees of one response each.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from prefrep.annotators import Annotators
from prefrep.data.across import Across
from prefrep.data.features import Features, key
from prefrep.data.round_batch import trailing
from prefrep.data.trees import Datum, Layout, Tree, TreeBatch, collate
from prefrep.data.trie import Ids
from prefrep.errors import ConfigError

log = logging.getLogger(__name__)

SEGMENT_SECONDS = 60.0  # what a killed process loses of a reference


@dataclass(frozen=True)
class PolicyReading:
    """How a policy reads preference data.

    Args:
        across: Pairs of responses to different prompts (arXiv 2404.00530). `refuse`: they are errors. `joint`: log-probabilities are those
            of prompt and response together. `conditional`: those of the response.
        mismatched: Whether each prompt is also read with a response to another one.
        reference: Whether batches hold log pi_0.
    """

    across: Across = "refuse"
    mismatched: bool = False
    reference: bool = True


class PolicyTexts:
    """Encoded records for a policy, and batches of them.

    Attributes:
        reading: How the policy reads them.

    Args:
        data: Encoded records, from an encoder with `policy`.
        reading: How the policy reads them.
        ends: Tokens that end a response (`Encoder.end_ids`).
        limit: Maximum sequence length; a longer response was cut, and its end was not in the data.
        pad_id: See `collate`.
        layout: See `collate`.
        row_tokens: See `collate`.

    Raises:
        ConfigError: Responses are to be mismatched, and all records have the same prompt.
    """

    def __init__(
        self, data: Sequence[Datum], reading: PolicyReading, ends: list[int], limit: int, pad_id: int, layout: Layout, row_tokens: int
    ) -> None:
        self._data, self.reading, self._ends, self._limit = data, reading, ends, limit
        self._collate = (pad_id, layout, row_tokens)
        if reading.mismatched and len({_prompt(datum).tobytes() for datum in data}) < 2:
            raise ConfigError("the divergence of KTO is measured on responses to other prompts, and all records have one prompt; add data")

    def __len__(self) -> int:
        return len(self._data)

    def datum(self, index: int) -> Datum:
        """Return a record with what the policy reads beside it: a mismatched response behind its own."""
        datum = self._data[index]
        if len(datum.trees) > 1 and self.reading.across == "joint":  # all tokens but the first are predicted
            datum = replace(datum, trees=tuple(Tree(tree.sequences, 1) for tree in datum.trees))
        if not self.reading.mismatched:
            return datum
        (tree,), other = datum.trees, self._data[self._mismatch(index)].trees[0]
        response = other.sequences[0][other.prompt :]
        added = np.concatenate([tree.sequences[0][: tree.prompt], response])[: self._limit]
        return replace(datum, trees=(Tree((*tree.sequences, added), tree.prompt),))

    def _mismatch(self, index: int) -> int:
        """Return the next record with another prompt."""
        own = _prompt(self._data[index])
        after = ((index + step) % len(self._data) for step in range(1, len(self._data)))
        return next(other for other in after if not np.array_equal(_prompt(self._data[other]), own))

    def surplus(self, datum: Datum) -> list[int]:
        """Return the number of final tokens of each sequence that do not count."""
        return [trailing(ids, self._ends) - (len(ids) < self._limit) for ids in datum.sequences]

    def batch(
        self,
        rows: Sequence[tuple[int, bool]],
        reference: Features | None = None,
        annotators: Annotators | None = None,
        share: bool = True,
    ) -> TreeBatch:
        """Return the batch of some records (index, whether it counts).

        Args:
            rows: The records; those that do not count have weight 0.
            reference: The cache that `measure` filled.
            annotators: Whom the policy knows.
            share: Whether records that begin alike share that.
        """
        read = [self.datum(index) for index, _ in rows]
        surplus = [self.surplus(datum) for datum in read]
        weighed = [datum if counts else datum.unweighted() for datum, (_, counts) in zip(read, rows, strict=True)]
        trees = collate(weighed, *self._collate, share=share)
        found = replace(trees, surplus=torch.tensor([each for own in surplus for each in own]))
        if reference is not None:
            places = [reference.row(place) for datum, own in zip(read, surplus, strict=True) for place in _keys(datum, own)]
            found = replace(found, reference=reference[torch.tensor(places)][:, 0].float())
        if self.reading.mismatched:
            found = replace(found, mismatched=found.sizes[:, 0].cumsum(0) - 1)
        return found.asking(read, annotators)

    def measure(
        self,
        reference: Features,
        read: Callable[[TreeBatch], Tensor],
        what: str,
        batch_tokens: int = 4096,
        share: tuple[int, int] = (0, 1),
        wait: Callable[[], object] = lambda: None,
    ) -> None:
        """Fill a cache with the log-probabilities of all sequences.

        Records are read in fixed groups and share nothing, so that an interrupted measurement ends with the bytes of an undisturbed one. A
        sequence that occurs in several groups is measured in the first.

        Args:
            reference: The cache; its states are log-probabilities [M, 1].
            read: Returns the log-probabilities of the sequences of a batch [M].
            what: Label of the progress bar.
            batch_tokens: Distinct tokens per forward pass.
            share: (rank, world size); all processes have the same data and read a share each.
            wait: Barrier over all processes.
        """
        known = set[bytes]()
        missing: list[tuple[list[int], set[bytes]]] = []
        for group in self._groups(batch_tokens):
            new = set(self._places(group)) - known
            known |= new
            if any(place not in reference for place in new):
                missing.append((group, new))
        log.info("%s: log pi_0 of %d records in %s, %d groups to read", what, len(self), reference.folder, len(missing))
        wait()  # all processes must determine what is missing before the first segment appears
        process, processes = share
        found: dict[bytes, float] = {}
        since = time.monotonic()
        own = missing[process::processes]
        for number, (group, new) in enumerate(tqdm(own, desc=f"reference of {what}", unit=" groups", disable=None if own else True)):
            logprobs = read(self.batch([(index, True) for index in group], share=False)).tolist()
            for place, value in zip(self._places(group), logprobs, strict=True):
                if place in new and place not in reference:
                    found.setdefault(place, value)
            if found and (number + 1 == len(own) or time.monotonic() - since > SEGMENT_SECONDS):
                reference.add(list(found), torch.tensor(list(found.values()))[:, None])
                found, since = {}, time.monotonic()
        wait()
        reference.refresh()

    def _groups(self, batch_tokens: int) -> Iterator[list[int]]:
        group: list[int] = []
        tokens = 0
        for index in range(len(self)):
            size = self.datum(index).size
            if group and tokens + size > batch_tokens:
                yield group
                group, tokens = [], 0
            group.append(index)
            tokens += size
        if group:
            yield group

    def _places(self, group: Sequence[int]) -> list[bytes]:
        read = [self.datum(index) for index in group]
        return [place for datum in read for place in _keys(datum, self.surplus(datum))]


def _keys(datum: Datum, surplus: Sequence[int]) -> list[bytes]:
    """Return the keys of the log-probabilities of a record's sequences: of their ids, and of which of them count."""
    sequences = [(ids, tree.prompt) for tree in datum.trees for ids in tree.sequences]
    return [key(np.append(ids, [prompt, left])) for (ids, prompt), left in zip(sequences, surplus, strict=True)]


def _prompt(datum: Datum) -> Ids:
    tree = datum.trees[0]
    return tree.sequences[0][: tree.prompt]
