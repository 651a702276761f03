"""Decoding with `generate` of transformers, for models whose caches are not keys and values alone: recurrent and hybrid ones, ALiBi.

Each prompt is read once per answer and padded on the left, and answers that have ended stay in the batch. Tokens are drawn by
`functional.drawing`, as elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from prefrep.data.trie import Ids
from prefrep.functional.drawing import draw
from prefrep.generation.writing import Draws, Written
from prefrep.nn.backbone import Backbone


class _Drawing(LogitsProcessor):
    """Draws the next token of every row and leaves `generate` no other."""

    def __init__(self, rows: Sequence[Written], draws: Draws) -> None:
        self._rows, self._draws = rows, draws

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        uniform = torch.tensor([row.uniform() for row in self._rows], dtype=torch.float64, device=scores.device)
        drawn = draw(scores.float(), uniform, *self._draws)
        for row, token, logprob, entropy in zip(self._rows, *(each.tolist() for each in drawn), strict=True):
            if not row.ended:
                row.append(token, logprob, entropy)
        forced = torch.full_like(scores, -torch.inf)
        return forced.scatter_(1, drawn.tokens[:, None], 0)  # type: ignore[return-value]


@torch.no_grad()
def write(backbone: Backbone, prompts: Sequence[Ids], answers: Sequence[Sequence[Written]], draws: Draws, pad: int) -> None:
    """Write K answers to each of N prompts.

    Args:
        backbone: A backbone for reading.
        prompts: Token ids.
        answers: K empty answers per prompt.
        draws: How tokens are drawn.
        pad: Token id of padding.
    """
    for limit in {row.limit for rows in answers for row in rows}:  # `generate` has one limit per call
        places = [i for i, rows in enumerate(answers) if rows[0].limit == limit]
        _write(backbone, [prompts[i] for i in places], [answers[i] for i in places], draws, pad, limit)


def _write(backbone: Backbone, prompts: Sequence[Ids], answers: Sequence[Sequence[Written]], draws: Draws, pad: int, limit: int) -> None:
    model, responses = backbone.model, len(answers[0])
    ids, mask = (each.to(next(model.parameters()).device) for each in left_padded(prompts, pad))
    rows = [row for own in answers for row in own]
    # Complete settings, so that those of the model (sampling, repetition penalties) do not apply.
    model.generation_config = GenerationConfig()
    settings = GenerationConfig(
        max_new_tokens=limit, eos_token_id=sorted(rows[0].ends) or None, pad_token_id=pad, use_cache=True, do_sample=False
    )
    ids, mask = ids.repeat_interleave(responses, 0), mask.repeat_interleave(responses, 0)
    drawing = LogitsProcessorList([_Drawing(rows, draws)])
    model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, logits_processor=drawing)


def left_padded(prompts: Sequence[Ids], pad: int) -> tuple[Tensor, Tensor]:
    """Return left-padded ids [N, L] and their attention mask [N, L]."""
    longest = max(len(ids) for ids in prompts)
    ids = np.full((len(prompts), longest), pad, np.int64)
    mask = np.zeros_like(ids)
    for row, each in enumerate(prompts):
        ids[row, longest - len(each) :] = each
        mask[row, longest - len(each) :] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)
