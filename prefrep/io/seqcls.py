"""Bradley-Terry models as `AutoModelForSequenceClassification` with num_labels 1, in both directions, with equal scores.

The sequence classifiers of transformers ignore the attention mask and read the last token whose id is not `pad_token_id`. So in exported
folders the pad token is never the EOS, where rewards are read. The chat template writes the whole text with exactly one BOS (if the model
has one) and exactly one EOS. And the tokenizer adds no special tokens, so that `add_special_tokens` does not affect rendered text.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.errors import CheckpointError, ConfigError
from prefrep.io.classifier_tokenizer import add_nothing, choose_pad, classifier_template
from prefrep.io.folder import PreferenceModel
from prefrep.io.foreign import Reading, check_last
from prefrep.io.probes import PROBES, as_written, check_tokenizer, ours, same_reading
from prefrep.io.replacing import replacing
from prefrep.nn import probes
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead
from prefrep.nn.loading import load_tokenizer
from prefrep.nn.quietly import quietly

SCORE, BIAS = "score.weight", "score.bias"

README = """# A reward model

Written by prefrep. One reward per conversation; a difference of rewards is the log-odds that one response is preferred to the other.

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32{attention})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]
    inputs = tokenizer.apply_chat_template([messages], padding=True, return_tensors="pt", return_dict=True)
    reward = model(**inputs).logits[:, 0]

{reading}
* Rewards were trained on at most {length} tokens.{positions}
"""


def write(folder: str | Path, model: PreferenceModel) -> None:
    """Write a Bradley-Terry model as a sequence classifier.

    `score.weight` is divided by tau, so that differences of logits are log-odds. Scores equal prefrep's for texts of up to `max_length`
    tokens if the folder is loaded in float32; other dtypes round `score.weight`, while prefrep's heads are always float32.

    Args:
        folder: Output folder; an older model there is replaced.
        model: A Bradley-Terry model.

    Raises:
        ConfigError: The model is not Bradley-Terry, or transformers has no sequence classifier for its backbone.
        CheckpointError: The exported tokenizer does not reproduce the token ids of training.
    """
    head, backbone, encode = model.head, model.backbone, model.encode
    if type(head) is not BTHead:  # a class derived from it may compare in another way
        kind = type(head).__name__
        raise ConfigError(f"a sequence classifier gives one reward per text and {kind} compares texts; only BTHead can be exported")
    if backbone.settings["quantize"] != "none":
        raise ConfigError("a sequence classifier holds plain weights and this language model is quantised; load it with quantize: none")
    check_last(backbone)
    if encode.template == "official":
        raise ConfigError("template 'official' overwrites the last token of a text, which an exported tokenizer cannot express")
    config = copy.deepcopy(backbone.model.config)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ConfigError(f"transformers has no sequence classifier for {config.model_type} models")
    encoder = Encoder(model.tokenizer, encode, "single")
    tokenizer = copy.deepcopy(model.tokenizer)
    rows = int(backbone.model.get_input_embeddings().weight.shape[0])
    if encode.template != "classifier":  # else template and pad token already are those of a classifier
        tokenizer.chat_template = classifier_template(model.tokenizer, encode)
        add_nothing(tokenizer)
        choose_pad(tokenizer, str(model.tokenizer.chat_template or ""), rows)
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"  # truncation keeps the end, where rewards are read
    text_config = config.get_text_config()
    text_config.pad_token_id = config.pad_token_id = tokenizer.pad_token_id
    text_config.vocab_size = max(rows, int(tokenizer.pad_token_id or 0) + 1)
    config.num_labels = 1
    config.architectures = None
    with torch.device("meta"):
        target = AutoModelForSequenceClassification.from_config(config, dtype=backbone.model.dtype)
    names = {name for name, _ in target.named_parameters()} | {name for name, _ in target.named_buffers()}
    state = {name: tensor for name, tensor in backbone.merged_state().items() if name in names}
    state[SCORE] = (head.value_head.weight.detach() / model.tau).float().cpu().contiguous()
    embedding = next(name for name, part in target.named_modules() if part is target.get_input_embeddings()) + ".weight"
    if extra := text_config.vocab_size - rows:
        state[embedding] = torch.cat([state[embedding], state[embedding][-1:].expand(extra, -1)])
    try:
        target.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ConfigError(f"weights of {config.model_type} do not fit transformers' sequence classifier ({str(error)[:200]})") from error
    with replacing(folder) as staging:
        with quietly():
            target.save_pretrained(staging, state_dict=state)
        tokenizer.save_pretrained(staging)
        (staging / "README.md").write_text(_readme(model, tokenizer, encoder))
        written = load_tokenizer(str(staging))
        if encode.template != "classifier":
            check_tokenizer(written, encoder)
        elif not same_reading(written, encoder, text_config.pad_token_id):
            raise CheckpointError(f"{folder}: transformers would read its rewards elsewhere; use the exported folder itself")


def read(
    path: str | Path,
    *,
    max_length: int = 2048,
    **options: Any,
) -> PreferenceModel:
    """Read a sequence classifier with one label as a Bradley-Terry model with tau 1.

    If transformers does not read a single final EOS, neither does the returned model (template `classifier`): many chat templates end in a
    line break, and with pad == eos transformers reads the token before the EOS.

    A language-model head that is not tied to the embeddings is missing from the folder and stays random; nothing reads it.

    Args:
        path: Local folder or hub id, with safetensors.
        max_length: Maximum sequence length in tokens.
        **options: See `Reading`.

    Raises:
        CheckpointError: It is not a sequence classifier with one label, or transformers reads its rewards at a token that prefrep cannot
            determine without a chat template.
    """
    reading = Reading(**options)
    config = reading.config(str(path))
    if not is_classifier(config):
        raise CheckpointError(f"{path}: holds {config.architectures}, not a sequence classifier")
    found = reading.tensors(str(path), (SCORE, BIAS))
    shapes = {name: list(tensor.shape) for name, tensor in found.items()}
    width = config.get_text_config().hidden_size
    if shapes != {SCORE: [1, width]}:
        raise CheckpointError(f"{path}: a reward model has {SCORE} [1, {width}] and no bias, found {shapes}")
    backbone = reading.backbone(str(path))
    tokenizer = backbone.tokenizer()
    encode = reading_of(str(path), tokenizer, config.get_text_config().pad_token_id, max_length)
    return bradley_terry(reading, backbone, found[SCORE], encode, tokenizer, "sequence classifier")


def is_classifier(config: Any) -> bool:
    """Return whether a configuration is that of a sequence classifier."""
    return any(str(name).endswith("ForSequenceClassification") for name in config.architectures or [])


def reading_of(path: str, tokenizer: PreTrainedTokenizerBase, pad: int | None, max_length: int) -> EncodeConfig:
    """Return the encoding that reads where transformers' sequence classifiers do.

    Args:
        path: Of the model, for the error message.
        tokenizer: Its tokenizer.
        pad: Pad id of its configuration.
        max_length: Maximum sequence length in tokens.

    Raises:
        CheckpointError: See `as_written`.
    """
    encode = EncodeConfig(template="auto" if tokenizer.chat_template else "plain", max_length=max_length)
    if same_reading(tokenizer, Encoder(tokenizer, encode, "single"), pad):
        return encode
    return as_written(path, tokenizer, encode, pad)


def bradley_terry(
    reading: Reading, backbone: Backbone, score: Tensor, encode: EncodeConfig, tokenizer: PreTrainedTokenizerBase, source: str
) -> PreferenceModel:
    """Return a Bradley-Terry model with tau 1 of the parts that were read.

    Args:
        reading: How they were read.
        backbone: The language model.
        score: Weight of its head [1, H].
        encode: How text becomes token ids.
        tokenizer: The tokenizer.
        source: The layout, for the recipe.
    """
    head = BTHead(backbone.hidden_size)
    head.load_state_dict({"value_head.weight": score})
    return reading.model(backbone, head, 1.0, encode, tokenizer, source)


def _readme(model: PreferenceModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder) -> str:
    kernel = model.backbone.attention
    relative = "" if kernel != "eager" else ', attn_implementation="eager"'
    with probes.trial(model.backbone):
        shifted = probes.padding_shifts_positions(model.backbone.transformer, next(model.backbone.parameters()).device)
    positions = " Pad on the right, or pass `position_ids`: positions count from the row's first token." if shifted else ""
    pad, eos = tokenizer.pad_token, tokenizer.eos_token
    if model.encode.template == "classifier":
        reading = f"* Always render with the chat template. The reward is read at its last token that is not the pad token `{pad}`."
    else:
        bos = "one BOS at the beginning and " if ours(encoder, *PROBES[0])[0] == tokenizer.bos_token_id else ""
        reading = (
            f"* Always render with the chat template; it writes {bos}one EOS at the end, where the reward is read, and the tokenizer adds "
            f"nothing.\n* The pad token is `{pad}` on purpose: the model reads the last token that is not padding, and this must be "
            f"the EOS `{eos}`."
        )
    return README.format(
        attention=relative,
        reading=reading,
        length=encoder.config.max_length,
        positions=positions,
    )
