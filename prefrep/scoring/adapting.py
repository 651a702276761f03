"""A new annotator of a trained model: one vector, fitted to a few labels; everything that people share stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from prefrep.annotators import NOBODY_IN_PARTICULAR, POPULATION, Annotators
from prefrep.data.trees import Datum
from prefrep.errors import ConfigError, DataError
from prefrep.functional.losses import logistic
from prefrep.nn.context import Context
from prefrep.nn.mixture import MixtureHead
from prefrep.nn.people import People, introduce, members_of, penalty
from prefrep.records import Record
from prefrep.scoring.scorer import Scorer

TOGETHER = 16  # records that are read in one forward pass


class Adapted(NamedTuple):
    """What adapting changed.

    Args:
        labels: Number of records.
        before: Mean log loss of the population on them, in nats.
        after: The same of the annotator.
    """

    labels: int
    before: float
    after: float


def adapt(scorer: Scorer, records: Iterable[Record], annotator: str) -> Adapted:
    """Introduce an annotator to a model, whose head changes: the vector of largest posterior probability given the labels (`nn.people`).

    Each response is read once. The fit is L-BFGS over all labels, without randomness; other vectors stay as they are to the last bit.

    Args:
        scorer: A model that knows people.
        records: Labels. Those of other annotators are left out; those that name nobody count.
        annotator: Name of the new annotator.

    Raises:
        ConfigError: The model answers everybody alike, or knows the annotator already.
        DataError: There is no label of the annotator, or the name is blank.
    """
    head, known = scorer.model.head, scorer.asking.known()
    if known.index(annotator) != POPULATION:
        raise ConfigError(f"the model knows {annotator!r} already, by {known.labels[annotator]} labels; choose another name")
    data = list(scorer.labelled(record for record in records if record.annotator in (annotator, NOBODY_IN_PARTICULAR)))
    if not data:
        raise DataError(f"no row has a label of {annotator!r}; check the column 'annotator', or leave it out of the file")
    a, b, prompt = map(torch.cat, zip(*_read(scorer, data), strict=True))
    labels = [label for datum in data for label in zip(datum.probability, datum.margin, datum.weight, strict=True)]
    probability, margin, weight = torch.tensor(labels, device=a.device).unbind(1)
    introduce(head, Annotators({annotator: len(data)}))
    context = Context(prompt if head.needs_prompt else None, torch.full((len(a),), len(known), device=a.device))

    def log_loss() -> Tensor:
        return weight * logistic(head.compare(a, b, context), probability, margin, scorer.model.tau)

    with torch.no_grad():
        before = float(log_loss().sum() / weight.sum())
    if isinstance(head, MixtureHead):
        with torch.no_grad():
            by_type = [logistic(each, probability, margin, scorer.model.tau) for each in head.by_type(a, b, context).unbind(-1)]
            head.types.expect_last(-(weight.unsqueeze(-1) * torch.stack(by_type, -1)).sum(0))
            return Adapted(len(data), before, float(log_loss().sum() / weight.sum()))
    head.requires_grad_(False)
    vectors = [people.offsets.requires_grad_() for people in members_of(head) if isinstance(people, People)]
    optimizer = torch.optim.LBFGS(vectors, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        assert context.annotator is not None
        loss = (log_loss() + weight * penalty(head, context.annotator)).sum()  # as in training: pairs share what a record counts
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    head.requires_grad_(False)
    with torch.no_grad():
        return Adapted(len(data), before, float(log_loss().sum() / weight.sum()))


def _read(scorer: Scorer, data: Sequence[Datum]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the embeddings of the first and the second response of each pair, and the states of their prompts (of no width: not needed)."""
    rest = iter(data)
    while part := list(islice(rest, TOGETHER)):
        embedding, prompt, _ = scorer.read([tree for datum in part for tree in datum.trees])
        offset, pairs = 0, list[tuple[int, int]]()
        for datum in part:
            pairs += [(offset + i, offset + j) for i, j in datum.pairs]
            offset += sum(len(tree.sequences) for tree in datum.trees)
        first, second = torch.tensor(pairs, device=embedding.device).unbind(1)
        states = embedding[:, :0] if prompt is None else prompt
        yield embedding[first].clone(), embedding[second].clone(), states[first].clone()  # clones take part in gradients
