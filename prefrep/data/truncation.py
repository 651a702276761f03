"""Truncation of trees to a maximum sequence length, with a report of what was cut."""

from __future__ import annotations

from typing import Literal

import numpy as np

from prefrep.data.trees import Tree

Policy = Literal["keep_end", "keep_start", "drop"]

PROMPTS, RESPONSES = "truncated prompts", "truncated responses"


def truncate(tree: Tree, limit: int, policy: Policy, *, bos: int | None, eos: int | None, responses: bool) -> tuple[Tree | None, set[str]]:
    """Truncate the sequences of a tree, with the same cut in their common prompt.

    `keep_end` cuts the prompt first, which affects both sides of a comparison alike, while a cut response may look worse than it is. But a
    response cannot be judged without its prompt, so the prompt keeps at least limit / 8 tokens.

    Args:
        tree: The sequences.
        limit: Maximum sequence length in tokens.
        policy: What to cut, see `data.encode.EncodeConfig`.
        bos: Token that stays in front of a cut prompt.
        eos: Token appended to a cut response; None: append none.
        responses: Whether to cut the ends of responses. In pair formats they hold the question for the answer A or B.

    Returns:
        The truncated tree, or None if nothing of the responses would be left; and what was cut, `PROMPTS` or `RESPONSES`.
    """
    longest = max(len(ids) for ids in tree.sequences)
    if longest <= limit:
        return tree, set()
    if policy == "drop":
        return None, set()
    sequences, prompt = tree.sequences, tree.prompt
    gave_way: set[str] = set()
    if policy == "keep_end":
        first = int(all(ids[0] == bos for ids in sequences))  # a BOS, from the template or the tokenizer
        cut = max(min(longest - limit, prompt - first - max(limit // 8, 1)), 0)
        if cut:
            gave_way.add(PROMPTS)
        sequences = tuple(np.concatenate([ids[:first], ids[first + cut :]]) for ids in sequences)
        prompt -= cut
    if max(len(ids) for ids in sequences) > limit:
        if not responses or prompt >= limit - 1:
            return None, gave_way
        gave_way.add(RESPONSES)
        end = np.asarray([] if eos is None else [eos], np.int32)
        sequences = tuple(ids if len(ids) <= limit else np.concatenate([ids[: limit - len(end)], end]) for ids in sequences)
    return Tree(sequences, prompt), gave_way


def truncate_official(tree: Tree, limit: int, eos: int) -> Tree:
    """Truncate with the recipe of the released GPM checkpoints (general_preference/datasets/reward_dataset.py at a376d95).

    It truncates on the right, overwrites the last token with EOS, and counts the prompt from the end.

    Args:
        tree: The sequences.
        limit: Maximum sequence length in tokens.
        eos: The EOS token.
    """
    sequences = []
    for ids in tree.sequences:
        ids = ids[:limit].copy()
        ids[-1] = eos
        sequences.append(ids)
    first = tree.sequences[0]
    response = len(first) - tree.prompt if len(first) <= limit else max(limit - min(tree.prompt, limit), 0)
    return Tree(tuple(sequences), max(len(sequences[0]) - response, 1))
