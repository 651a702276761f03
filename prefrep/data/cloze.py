"""Instructions with a mask token, where an encoder is read: a verdict as the word that is missing (TinyRM, arXiv 2507.09973)."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from prefrep.data.trees import Tree
from prefrep.data.trie import Ids
from prefrep.errors import ConfigError

MASK = "[MASK]"  # as instructions write the mask token of any tokenizer


def instruction_ids(tokenizer: PreTrainedTokenizerBase, instruction: str) -> Ids:
    """Return the token ids of an instruction.

    Args:
        tokenizer: The tokenizer.
        instruction: Text with one `[MASK]`, for which the tokenizer's own mask token is written; empty: no ids.

    Raises:
        ConfigError: The tokenizer has no mask token, or the instruction has not exactly one.
    """
    if not instruction:
        return np.zeros(0, np.int32)
    mask = tokenizer.mask_token_id
    if mask is None:
        raise ConfigError(f"{tokenizer.name_or_path}: the tokenizer has no mask token; leave out data.instruction and pooling: mask")
    ids = tokenizer(instruction.replace(MASK, str(tokenizer.mask_token)), add_special_tokens=False)["input_ids"]
    if ids.count(mask) != 1:
        raise ConfigError(f"data.instruction must hold one {MASK}, where the model is read, got {instruction!r}")
    return np.asarray(ids, np.int32)


def check_instruction(pooling: str, instruction: str) -> None:
    """Check that a model is read at its mask token exactly if there is an instruction with one.

    Raises:
        ConfigError: One is there without the other.
    """
    if (pooling == "mask") != bool(instruction):
        raise ConfigError(
            "pooling: mask reads the [MASK] of an instruction; give both, as --model.backbone.pooling mask "
            "--data.instruction 'A good answer? [MASK]', or neither"
        )


def instructed(tree: Tree, instruction: Ids, eos: int) -> Tree:
    """Return a tree whose sequences end in an instruction, before their EOS if they have one.

    Args:
        tree: Truncated sequences.
        instruction: Its ids.
        eos: Id of the EOS.
    """

    def ended(ids: Ids) -> Ids:
        at = len(ids) - int(ids[-1] == eos)
        return np.concatenate([ids[:at], instruction, ids[at:]])

    return Tree(tuple(map(ended, tree.sequences)), tree.prompt)
