"""RLHFlow's pair models: a causal language model that answers A or B, as in useful_code/eval_reward_bench_pm.py at fc39179."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefrep.data.encode import EncodeConfig
from prefrep.errors import CheckpointError
from prefrep.io.folder import PreferenceModel
from prefrep.io.foreign import Reading
from prefrep.nn import families
from prefrep.nn.answers import start_from_answers
from prefrep.nn.heads import PairHead


def read(
    path: str | Path,
    *,
    max_length: int = 2048,
    **options: Any,
) -> PreferenceModel:
    """Read a causal language model as a pair model: f = logit(A) - logit(B) at the end of the pair format, with tau 1.

    Texts are those of the published example (template `rlhflow`), and so is f of each order. The example then averages the two
    probabilities and prefrep the two log-odds: the mean of sigmoid(f) lies on the same side of 1/2 as the mean of f.

    Args:
        path: Local folder or hub id, with safetensors.
        max_length: Maximum sequence length in tokens.
        **options: See `Reading`.

    Raises:
        CheckpointError: There is no output layer, it caps its logits, or the tokenizer has no chat template.
        ConfigError: A or B is not one token.
    """
    reading = Reading(**options)
    backbone = reading.backbone(str(path))
    tokenizer = backbone.tokenizer()
    if not tokenizer.chat_template:
        raise CheckpointError(f"{path}: its tokenizer has no chat template, in which a pair model reads its question; add one")
    if families.logit_cap(backbone.model.config.get_text_config()) is not None:
        raise CheckpointError(
            f"{path}: it caps its logits, so logit(A) - logit(B) is no linear readout; train one from it with "
            "`prefrep fit --config preference/pairpm --model.backbone.path`"
        )
    head = PairHead(backbone.hidden_size, readout="tokens")
    start_from_answers(head, backbone, tokenizer)
    return reading.model(backbone, head, 1.0, EncodeConfig("rlhflow", max_length), tokenizer, "RLHFlow pair model")
