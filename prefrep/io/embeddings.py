"""Models as sentence-transformers folders: K reads by any server of embeddings, compared by a small matrix product at the client."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import processors
from torch import Tensor

from prefrep.data.encode import Encoder
from prefrep.errors import CheckpointError, ConfigError
from prefrep.io.classifier_tokenizer import add_nothing, classifier_template
from prefrep.io.folder import PreferenceModel
from prefrep.io.foreign import check_last
from prefrep.io.probes import check_rendered
from prefrep.io.replacing import replacing
from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PreferenceHead
from prefrep.nn.loading import load_tokenizer
from prefrep.nn.quietly import quietly
from prefrep.nn.skew import BlockSkew, LearnedSkew

README = """# Preference embeddings

Written by prefrep. One embedding per conversation; responses to a prompt are compared by their embeddings, all against all.

    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder)
    prompt = [{{"role": "user", "content": "..."}}]
    answers = ["...", "...", "..."]
    texts = [model.tokenizer.apply_chat_template([*prompt, {{"role": "assistant", "content": a}}], tokenize=False) for a in answers]
    e = model.encode(texts, convert_to_tensor=True)  # [K, {width}]
{client}

`table[i, j]` is the log-odds that answer i is preferred to answer j.

* Always render with the chat template of this folder and pass the text: the tokenizer ends it in one EOS, where the embedding is read. A
  server that renders conversations itself may leave out that EOS; send it texts.
* Compare with the lines above, not by cosine similarity.
* At most {length} tokens; longer texts are cut at their end.
"""


def write(folder: str | Path, model: PreferenceModel) -> None:
    """Write a model as sentence-transformers modules: Transformer, Pooling (last token), Dense and, where the head normalises, Normalize.

    `SentenceTransformer(folder).encode` gives the embeddings of `head.embed`, for texts rendered with the folder's chat template. A hybrid
    head normalises v and not r, which Normalize cannot do: its v is normalised at the client, as the folder's README.md says.

    Args:
        folder: Output folder; an older model there is replaced.
        model: A Bradley-Terry, general preference or hybrid model without a gate.

    Raises:
        ConfigError: The model reads pairs or has a gate, or its template or quantisation cannot be expressed.
        CheckpointError: The exported tokenizer does not reproduce the token ids of training.
    """
    head, backbone, encode = model.head, model.backbone, model.encode
    weight, normalize, client = _parts(head, model.tau)
    check_last(backbone)
    if backbone.settings["quantize"] != "none":
        raise ConfigError(
            "sentence-transformers folders hold plain weights and this language model is quantised; load it with quantize: none"
        )
    if encode.template in ("official", "classifier"):
        raise ConfigError(
            f"template '{encode.template}' does not read at a final EOS, as embeddings in this layout are; serve this model with prefrep"
        )
    encoder = Encoder(model.tokenizer, encode, "single")
    length = min(encode.max_length, backbone.room or encode.max_length)
    tokenizer: Any = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = classifier_template(model.tokenizer, encode, ends=False)
    add_nothing(tokenizer)
    eos = str(tokenizer.eos_token)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A:0 {eos}:0", pair=f"$A:0 $B:1 {eos}:1", special_tokens=[(eos, int(tokenizer.eos_token_id))]
    )
    tokenizer.padding_side, tokenizer.truncation_side = "right", "right"  # the tokenizer adds the EOS after it truncates
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token  # padding is masked
    tokenizer.model_max_length = length
    body = backbone.transformer
    state = _body_state(backbone.merged_state(), body.state_dict().keys())
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), *([("3_Normalize", "Normalize")] if normalize else [])]
    # The names of the modules and settings that every version since 2.0, and servers, know.
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"} for i, (path, kind) in enumerate(modules)
    ]
    width, dim = backbone.hidden_size, int(weight.shape[0])
    pooling = {"word_embedding_dimension": width, "include_prompt": True}
    pooling |= {f"pooling_mode_{mode}": mode == "lasttoken" for mode in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
    dense = {"in_features": width, "out_features": dim, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
    with replacing(folder) as staging:
        with quietly():
            body.save_pretrained(staging, state_dict=state)  # type: ignore[operator]
        tokenizer.save_pretrained(staging)
        for path, _ in modules[1:]:
            (staging / path).mkdir()
        for file, content in (
            ("modules.json", listed),
            ("sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False}),
            ("1_Pooling/config.json", pooling),
            ("2_Dense/config.json", dense),
        ):
            (staging / file).write_text(json.dumps(content, indent=2) + "\n")
        # Dense computes in the type of the states that it gets.
        save_file({"linear.weight": weight.to(backbone.model.dtype).cpu().contiguous()}, staging / "2_Dense" / "model.safetensors")
        (staging / "README.md").write_text(README.format(width=dim, client=client, length=length))
        check_rendered(load_tokenizer(str(staging)), encoder)


def _parts(head: PreferenceHead, tau: float) -> tuple[Tensor, bool, str]:
    """Return the weight of the embedding [D, H], whether embeddings are normalised as a whole, and the client's lines.

    Raises:
        ConfigError: The layout cannot express the head.
    """
    gpm = head.preference if type(head) is HybridHead else head
    if type(head) is BTHead:  # a class derived from it may compare in another way
        return head.value_head.weight.detach().float(), False, f"    table = (e - e.T) / {tau}"
    if type(gpm) is not GPMHead:
        raise ConfigError(
            f"a folder of embeddings has no place for how {type(gpm).__name__} compares; it holds BTHead, GPMHead and HybridHead"
        )
    if type(gpm.skew) not in (BlockSkew, LearnedSkew):
        why = "the prompt weighs the blocks" if gpm.needs_prompt else "another operator"
        raise ConfigError(
            f"{type(gpm.skew).__name__}: {why}, for which a folder of embeddings has no place; serve this model with prefrep, or train one "
            "with BlockSkew or LearnedSkew"
        )
    hybrid = isinstance(head, HybridHead)
    lines = ["    from prefrep.functional import skew"] if isinstance(gpm.skew, BlockSkew) else []
    v = "e[:, 1:]" if hybrid else "e"
    if hybrid and gpm.normalize:
        lines.append("    v = torch.nn.functional.normalize(e[:, 1:], dim=-1)")
        v = "v"
    if isinstance(gpm.skew, LearnedSkew):
        lines.append(f"    R = torch.tensor({gpm.skew.matrix().detach().float().cpu().tolist()})")
    scores = f"skew.table({v})" if isinstance(gpm.skew, BlockSkew) else f"{v} @ R.T @ {v}.T"
    rewards = "e[:, :1] - e[:, :1].T + " if hybrid else ""
    lines.append(f"    table = ({rewards}{scores}) / {tau}")
    weights = [head.reward.value_head.weight] if isinstance(head, HybridHead) else []
    weight = torch.cat([*weights, gpm.value_head.weight]).detach().float()
    return weight, gpm.normalize and not hybrid, "\n".join(lines)


def _body_state(state: dict[str, Tensor], names: Any) -> dict[str, Tensor]:
    """Return the tensors of the model without its output layer, under its own names."""
    wanted = set(names)
    plain = {name.replace(".base_layer", "") for name in wanted if ".lora_" not in name}
    for prefix in {name.split(".", 1)[0] + "." for name in state} | {""}:
        found = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if plain <= found.keys():
            return {name: found[name] for name in sorted(plain)}
    raise CheckpointError("the language model's weights have names that sentence-transformers would not find; use another backbone")
