"""The readout of a pair model as the difference of two rows of the output layer."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from prefrep.errors import ConfigError
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import PairHead


def start_from_answers(head: PairHead, backbone: Backbone, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the readout of a head to logit(first answer) - logit(second answer), in place.

    Args:
        head: A head with the readout `tokens`.
        backbone: The language model, with an output layer.
        tokenizer: Its tokenizer.

    Raises:
        CheckpointError: The checkpoint has no output layer.
        ConfigError: An answer is not one token, or the logits are no linear function of the hidden states that `Backbone.logits` knows.
    """
    backbone.check_logits()
    rows = []
    for answer in head.answers:
        ids = tokenizer.encode(answer, add_special_tokens=False)
        if len(ids) != 1:
            raise ConfigError(f"PairHead.answers: {answer!r} is {len(ids)} tokens for this tokenizer and must be one; name another answer")
        rows.append(backbone.model.get_output_embeddings().weight.detach()[ids[0]].float() * backbone.output_factor)
    head.set_answer_rows(*rows)
