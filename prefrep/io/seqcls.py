"""Bradley-Terry models as `AutoModelForSequenceClassification` (num_labels 1), both ways, with equal scores.

transformers' sequence classifiers do not look at the attention mask: they read the rightmost token whose id is not `pad_token_id`. Three
things follow for an exported folder. Its pad token is never the EOS, at which rewards are read. Its chat template writes the whole text,
exactly one BOS (where the model has one) and exactly one EOS included. Its tokenizer adds nothing of its own, so that it does not matter
whether special tokens are switched on when rendered text is tokenised.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.errors import CheckpointError, ConfigError
from prefrep.io.folder import PreferenceModel, describe_head, replacing
from prefrep.io.shards import read_config, read_tensors, stored_dtype
from prefrep.nn import probes
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead
from prefrep.nn.loading import load_tokenizer
from prefrep.records import Message, Messages, RankedResponses

SCORE = "score.weight"

# What an exported tokenizer is tried with before the folder is accepted, and a foreign one before it is read.
PROBES: tuple[tuple[Messages, Messages], ...] = tuple(
    (tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(prompt)), (Message("assistant", response),))
    for prompt, response in [
        (("Name a prime",), "7"),
        (("  Leading and trailing space ",), " Grüße, 世界 \n\n"),
        (("Hello", "Hello. What can I do?", "Nothing"), "Then\nnot."),
    ]
)

README = """# A reward model

Written by prefrep. One reward per conversation; a difference of rewards is the log-odds that one response is preferred to the other.

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32{attention})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{{"role": "user", "content": "..."}}, {{"role": "assistant", "content": "..."}}]
    inputs = tokenizer.apply_chat_template([messages], padding=True, return_tensors="pt", return_dict=True)
    reward = model(**inputs).logits[:, 0]

* Always render with the chat template; it writes {bos}one EOS at the end, where the reward is read, and the tokenizer adds nothing.
* The pad token is `{pad}` on purpose: the model reads the last token that is not padding, and this must be the EOS `{eos}`.
* Rewards were trained on at most {length} tokens.{positions}
"""


def write(folder: str | Path, model: PreferenceModel) -> None:
    """Writes a Bradley-Terry model as a sequence classifier.

    tau is folded into `score.weight`, so that differences of logits are log-odds. Scores equal ours if the folder is loaded as float32
    (another dtype rounds `score.weight`; our heads are always float32) and texts are no longer than `max_length`.

    Args:
        folder: Where; an older model there is replaced.
        model: A Bradley-Terry model.

    Raises:
        ConfigError: The model is not Bradley-Terry, or has no sequence classifier in transformers.
        CheckpointError: The tokenizer cannot be made to write what the model was trained to read.
    """
    head, backbone, encode = model.head, model.backbone, model.encode
    if not isinstance(head, BTHead):
        raise ConfigError(f"a sequence classifier gives one reward per text and {type(head).__name__} compares texts; only BTHead fits in")
    if backbone.settings["quantize"] != "none":
        raise ConfigError("a sequence classifier holds plain weights and this language model is quantised; load it with quantize: none")
    if encode.template in ("official", "classifier"):
        raise ConfigError(f"template '{encode.template}' reads elsewhere than at a final EOS, which an exported tokenizer cannot say")
    config = copy.deepcopy(backbone.model.config)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ConfigError(f"transformers has no sequence classifier for {config.model_type} models")
    encoder = Encoder(model.tokenizer, encode, "single")
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = _template(model.tokenizer, encode)
    _silence(tokenizer)
    rows = int(backbone.model.get_input_embeddings().weight.shape[0])
    _choose_pad(tokenizer, str(model.tokenizer.chat_template or ""), rows)
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"  # truncation, if a user asks for it, leaves the EOS
    text_config = config.get_text_config()
    text_config.pad_token_id = config.pad_token_id = tokenizer.pad_token_id
    text_config.vocab_size = max(rows, int(tokenizer.pad_token_id) + 1)
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
        target.save_pretrained(staging, state_dict=state)
        tokenizer.save_pretrained(staging)
        (staging / "README.md").write_text(_readme(model, tokenizer, encoder))
        _check(load_tokenizer(str(staging)), encoder)


def read(
    path: str | Path,
    *,
    max_length: int = 2048,
    dtype: str | None = None,
    attention: str = "auto",
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> PreferenceModel:
    """Reads a sequence classifier with one label as a Bradley-Terry model, tau 1.

    Where transformers reads another token than one final EOS, so does the model that is returned (template `classifier`): many chat
    templates end in a line break, and with pad == eos the token before the EOS is read.

    Its language-model head, where one is not tied to the embeddings, is not in the folder and stays random: nothing reads it.

    Args:
        path: Local folder or hub id, with safetensors.
        max_length: Longest sequence, in tokens.
        dtype: Type of the language model's weights; None: as stored. The head is float32.
        attention: Attention kernel, see `Backbone`.
        device: Where the model goes.
        revision: Branch, tag or commit of a hub id.

    Raises:
        CheckpointError: It is not a sequence classifier with one label, or it has no chat template and transformers reads its rewards
            at another token than this project would (one final EOS), so that scores would differ.
    """
    config = read_config(str(path), revision)
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or []):
        raise CheckpointError(f"{path}: holds {config.architectures}, not a sequence classifier")
    found = read_tensors(str(path), (SCORE, "score.bias"), revision)
    shapes = {name: list(tensor.shape) for name, tensor in found.items()}
    width = config.get_text_config().hidden_size
    if shapes != {SCORE: [1, width]}:
        raise CheckpointError(f"{path}: a reward model has {SCORE} [1, {width}] and no bias, found {shapes}")
    chosen: Any = dtype or stored_dtype(config)
    backbone = Backbone(path=str(path), dtype=chosen, attention=attention, frozen=True, revision=revision)  # type: ignore[arg-type]
    tokenizer = backbone.tokenizer()
    encode = EncodeConfig(template="auto" if tokenizer.chat_template else "plain", max_length=max_length)
    pad = config.get_text_config().pad_token_id
    if not _same_reading(tokenizer, Encoder(tokenizer, encode, "single"), pad):
        encode = _as_written(str(path), tokenizer, encode, pad)
    head = BTHead(backbone.hidden_size)
    head.load_state_dict({"value_head.weight": found[SCORE]})
    return PreferenceModel(
        backbone=backbone.to(device).eval(),
        head=head.to(device).eval(),
        tau=1.0,
        encode=encode,
        tokenizer=tokenizer,
        recipe={"read from": "sequence classifier", "head": describe_head(head), "tau": 1.0, "backbone": backbone.recipe()},
    )


# ---- the exported tokenizer


def _template(tokenizer: PreTrainedTokenizerBase, encode: EncodeConfig) -> str:
    """A chat template that writes what `Encoder` reads: the original one, or plain text, between one BOS and one EOS."""
    adds_bos = tokenizer.bos_token is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    start = "" if adds_bos else _quote(tokenizer.bos_token or tokenizer.eos_token)
    lone = "{{ " + start + " }}" if start else ""
    lone += "{{ messages[0]['content'] }}"
    chat = str(tokenizer.get_chat_template()) if tokenizer.chat_template else ""
    if encode.template == "plain" or not chat:
        names = "{'user': 'Human', 'assistant': 'Assistant', 'system': 'System', 'tool': 'Tool'}"
        body = (
            "{% if messages | length == 1 %}" + lone + "{% else %}{% for message in messages %}"
            "{{ '\\n\\n' + " + names + ".get(message['role'], message['role']) + ': ' + message['content'] }}{% endfor %}{% endif %}"
        )
        strip = ""
    elif encode.template == "auto":  # a text without a prompt is no conversation
        body = "{% if messages | length == 1 and not add_generation_prompt %}" + lone + "{% else %}" + chat + "{% endif %}"
        strip = "{% if messages | length > 1 %}{% set ns.text = ns.text.rstrip() %}{% endif %}"
    else:
        body, strip = chat, "{% set ns.text = ns.text.rstrip() %}"
    eos, bos = _quote(tokenizer.eos_token), _quote(tokenizer.bos_token)
    cut_eos = "{% if ns.text.endswith(" + eos + ") %}{% set ns.text = ns.text[:(ns.text | length) - (" + eos + " | length)] %}{% endif %}"
    cut_bos = "{% if ns.text.startswith(" + bos + ") %}{% set ns.text = ns.text[(" + bos + " | length):] %}{% endif %}"
    end = strip + "{% for _ in range(64) %}" + cut_eos + "{% endfor %}{% set ns.text = ns.text + " + eos + " %}"
    begin = "{% for _ in range(64) %}" + cut_bos + "{% endfor %}{% set ns.text = " + bos + " + ns.text %}" if adds_bos else ""
    return (
        "{% set body %}" + body + "{% endset %}{% set ns = namespace(text=body) %}{% if not add_generation_prompt %}"
        + end + "{% endif %}" + begin + "{{ ns.text }}"
    )  # fmt: skip


def _quote(text: Any) -> str:
    return json.dumps(text, ensure_ascii=False)  # as Jinja reads string literals


def _silence(tokenizer: Any) -> None:
    """Makes a tokenizer add no special tokens: the template writes them all."""
    for option in ("add_bos_token", "add_eos_token"):
        if getattr(tokenizer, option, None):
            setattr(tokenizer, option, False)
    if tokenizer("")["input_ids"]:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1", special_tokens=[])


def _choose_pad(tokenizer: Any, chat_template: str, rows: int) -> None:
    """A pad token that is not the EOS.

    Padding is masked, so any id gives equal scores as long as it is never read. Some programs also take every pad id for padding, wherever
    it stands: the choice falls on a special token that texts do not hold. If there is none, a new one takes a spare row of the embeddings
    or, as the last resort, a row more.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return
    special = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if token.special and number < rows}
    taken = {tokenizer.eos_token_id, tokenizer.bos_token_id}
    unused = [name for name, number in special.items() if number not in taken and name not in chat_template]
    likely = [name for word in ("pad", "reserved", "unused", "extra") for name in unused if word in name.lower()]
    if likely or unused:
        tokenizer.pad_token = (likely or unused)[0]
        return
    name = "<|pad|>"
    while tokenizer.convert_tokens_to_ids(name) not in (None, tokenizer.unk_token_id):
        name = name.replace("<|", "<|_")
    tokenizer.add_special_tokens({"pad_token": name})


def _readme(model: PreferenceModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder) -> str:
    kernel = model.backbone.attention
    relative = "" if kernel != "eager" else ', attn_implementation="eager"'
    with probes.trial(model.backbone):
        shifted = probes.padding_shifts_positions(model.backbone.transformer, next(model.backbone.parameters()).device)
    positions = " Pad on the right, or pass `position_ids`: positions count from the row's first token." if shifted else ""
    return README.format(
        attention=relative,
        bos="one BOS at the beginning and " if _ours(encoder, *PROBES[0])[0] == tokenizer.bos_token_id else "",
        pad=tokenizer.pad_token,
        eos=tokenizer.eos_token,
        length=encoder.config.max_length,
        positions=positions,
    )


# ---- equality of token ids


def _ours(encoder: Encoder, prompt: Messages, response: Messages) -> list[int]:
    ((_, datum),) = Encoder(encoder.tokenizer, replace(encoder.config, max_length=2**30), "single").encode_tables(
        [RankedResponses(prompt, (response,))]
    )
    assert datum is not None
    return [int(token) for token in datum.trees[0].sequences[0]]


def _theirs(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    turns = [{"role": m.role, "content": m.content} for m in messages]
    if not tokenizer.chat_template:
        return list(tokenizer("".join(m.content for m in messages))["input_ids"])
    encoded: Any = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)
    return list(encoded["input_ids"])


def _check(exported: PreTrainedTokenizerBase, encoder: Encoder) -> None:
    """The exported tokenizer gives the ids that the model was trained with, whichever way it is called."""
    probes = list(PROBES)
    if encoder.config.template != "chat":
        probes.append(((), (Message("assistant", "A lone text"),)))
    for prompt, response in probes:
        wanted = _ours(encoder, prompt, response)
        turns = [{"role": m.role, "content": m.content} for m in prompt + response]
        text = exported.apply_chat_template(turns, tokenize=False)
        assert isinstance(text, str)
        ways = [_theirs(exported, prompt + response), *(exported(text, add_special_tokens=on)["input_ids"] for on in (True, False))]
        if any(list(ids) != wanted for ids in ways):
            raise CheckpointError(
                f"{encoder.tokenizer.name_or_path}: this tokenizer splits text otherwise when a template writes BOS and EOS, so a sequence "
                "classifier would not score as the model does; use the exported folder itself (bin/score, bin/eval)"
            )


def _same_reading(tokenizer: PreTrainedTokenizerBase, encoder: Encoder, pad: int | None) -> bool:
    """Whether transformers and this project read the same token of the same ids."""
    for prompt, response in PROBES[: 3 if tokenizer.chat_template else 2]:
        theirs = _theirs(tokenizer, prompt + response)
        while len(theirs) > 1 and theirs[-1] == pad:
            theirs.pop()
        if theirs != _ours(encoder, prompt, response):
            return False
    return True


def _as_written(path: str, tokenizer: PreTrainedTokenizerBase, encode: EncodeConfig, pad: int | None) -> EncodeConfig:
    """The policy that reads where transformers does: at a template's last token, or before the EOS if that is the pad token."""
    if tokenizer.chat_template:
        tokenizer.pad_token = None if pad is None else tokenizer.convert_ids_to_tokens(pad)
        written = replace(encode, template="classifier")
        if _same_reading(tokenizer, Encoder(tokenizer, written, "single"), pad):
            return written
    raise CheckpointError(
        f"{path}: transformers reads its rewards elsewhere than at one final {tokenizer.eos_token!r}, and no chat template says where; "
        "give its tokenizer one"
    )
