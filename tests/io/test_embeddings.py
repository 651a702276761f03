"""sentence-transformers itself reads the exported folders."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import program
from torch import Tensor

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.data.trees import collate
from prefrep.errors import ConfigError
from prefrep.io import embeddings, folder
from prefrep.io.folder import PreferenceModel
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PairHead
from prefrep.nn.lora import LoRA
from prefrep.nn.skew import BlockSkew, GatedSkew, LearnedSkew
from prefrep.records import Message, RankedResponses
from prefrep.scoring import Scorer, ranked

RECORDS = [
    ranked("Name a prime", ["7", "9", "Seven is one, and so are eleven and thirteen. \n"]),
    ranked((Message("user", "Hello"), Message("assistant", "Hello!"), Message("user", "And now?")), ["Nothing.", "the thing<|im_end|>"]),
]
HEADS: dict[str, Any] = {
    "bt": BTHead,
    "gpm": partial(GPMHead, dim=4),
    "gpm, free": partial(GPMHead, dim=2, normalize=False),
    "gpm, learned": partial(GPMHead, dim=4, skew=LearnedSkew),
    "hybrid": partial(HybridHead, dim=4),
    "hybrid, free": partial(HybridHead, dim=2, normalize=False),
    "hybrid, learned": partial(HybridHead, dim=4, skew=LearnedSkew),
}


def model_of(head: Any, family: str = "llama", lora: LoRA | None = None, **encode: Any) -> PreferenceModel:
    backbone = Backbone(f"bundled:tiny-{family}", lora=lora).eval()
    torch.manual_seed(1)
    made = head(backbone.hidden_size)
    for name, parameter in (*made.named_parameters(), *backbone.named_parameters()):
        if "lora_" in name or parameter.shape[-1] != 32 or name.startswith(("value", "reward", "preference.value")):
            torch.nn.init.normal_(parameter, std=0.4)
    return PreferenceModel(backbone, made.eval(), 0.25, EncodeConfig(**encode), backbone.tokenizer(), {})


def reader(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(str(path), device="cpu")


def texts(tokenizer: Any, record: RankedResponses) -> list[str]:
    whole = [[{"role": m.role, "content": m.content} for m in record.prompt + response] for response in record.responses]
    return [tokenizer.apply_chat_template(messages, tokenize=False) for messages in whole]


@torch.no_grad()
def ours(model: PreferenceModel, record: RankedResponses) -> Tensor:
    """Embeddings of the responses, each read by itself."""
    ((_, datum),) = Encoder(model.tokenizer, model.encode, "single").encode_tables([record])
    assert datum is not None
    batch = collate([datum], 0, "padded")
    states = model.backbone(batch.ids, batch.positions, batch.until, batch.padded).flatten(0, 1)
    return model.head.embed(states[batch.end])


def client(path: Path, e: Tensor) -> Tensor:
    """The table by the lines of the folder's README."""
    lines = (path / "README.md").read_text().split("# [K,")[1].splitlines()[1:]
    names: dict[str, Any] = {"e": e, "torch": torch}
    exec("\n".join(line.removeprefix("    ") for line in lines[: lines.index("")]), names)
    found: Tensor = names["table"]
    return found


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_sentence_transformers_gives_our_embeddings(kind: str, family: str, tmp_path: Path) -> None:
    model = model_of(HEADS[kind], family)
    embeddings.write(tmp_path / "e", model)
    theirs = reader(tmp_path / "e")
    largest = 0.0
    for record in RECORDS:
        e = theirs.encode(texts(theirs.tokenizer, record), convert_to_tensor=True)
        expected = ours(model, record)
        read = e.clone()
        if isinstance(model.head, HybridHead) and model.head.preference.normalize:  # Normalize would scale r as well
            read[:, 1:] = torch.nn.functional.normalize(read[:, 1:], dim=-1)
        assert torch.allclose(read, expected, atol=1e-5)
        table = torch.tensor(next(Scorer(model).tables([record])))
        assert torch.allclose(client(tmp_path / "e", e), table, atol=1e-4)
        largest = max(largest, float(table.abs().max()))
    assert largest > 0.1


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("template", ["chat", "plain"])
def test_families_and_templates(family: str, template: str, tmp_path: Path) -> None:
    model = model_of(HEADS["gpm"], family, template=template)
    embeddings.write(tmp_path / "e", model)
    theirs = reader(tmp_path / "e")
    for record in RECORDS:
        e = theirs.encode(texts(theirs.tokenizer, record), batch_size=1, convert_to_tensor=True)
        assert torch.allclose(e, ours(model, record), atol=1e-5)


def test_any_text_ends_in_one_eos_and_is_cut_before_it(tmp_path: Path) -> None:
    model = model_of(HEADS["gpm"], max_length=24)
    embeddings.write(tmp_path / "e", model)
    tokenizer = reader(tmp_path / "e").tokenizer
    eos = tokenizer.eos_token_id
    for text in ("", "a", "a text of many more tokens than there is room for, " * 3, *texts(tokenizer, RECORDS[0])):
        ids = tokenizer(text, truncation=True)["input_ids"]
        assert len(ids) <= 24 and ids[-1] == eos and (len(ids) == 1 or ids[-2] != eos)


def test_lora_is_merged_and_weights_keep_their_type(tmp_path: Path) -> None:
    model = model_of(HEADS["gpm"], lora=LoRA(rank=2))
    embeddings.write(tmp_path / "e", model)
    theirs = reader(tmp_path / "e")
    plain = model_of(HEADS["gpm"])
    plain.head.load_state_dict(model.head.state_dict())
    e = theirs.encode(texts(theirs.tokenizer, RECORDS[0]), convert_to_tensor=True)
    assert torch.allclose(e, ours(model, RECORDS[0]), atol=1e-5)
    assert not torch.allclose(e, ours(plain, RECORDS[0]), atol=1e-2)
    model.backbone.model.to(torch.bfloat16)
    embeddings.write(tmp_path / "e", model)  # replaces the older one
    theirs = reader(tmp_path / "e")
    e = theirs.encode(texts(theirs.tokenizer, RECORDS[0]), convert_to_tensor=True).float()
    assert torch.allclose(e, ours(model, RECORDS[0]), atol=0.05)


class _Cubic(GPMHead):
    """It compares embeddings in its own way, which the client's lines would not."""

    def compare(self, a: torch.Tensor, b: torch.Tensor, prompt: torch.Tensor | None = None) -> torch.Tensor:
        return super().compare(a, b, prompt) ** 3


class _Doubled(BlockSkew):
    def score(self, a: torch.Tensor, b: torch.Tensor, prompt: torch.Tensor | None = None) -> torch.Tensor:
        return 2 * super().score(a, b, prompt)


@pytest.mark.parametrize(
    ("head", "encode", "message"),
    [
        (partial(GPMHead, dim=4, skew=GatedSkew), {}, "GatedSkew: the prompt weighs"),
        (partial(HybridHead, dim=4, skew=GatedSkew), {}, "GatedSkew: the prompt weighs"),
        (PairHead, {}, "no place for how PairHead compares"),
        (_Cubic, {}, "no place for how _Cubic compares"),
        (partial(GPMHead, dim=4, skew=_Doubled), {}, "_Doubled: another operator"),
        (BTHead, {"template": "classifier"}, "final EOS"),
    ],
)
def test_what_cannot_be_expressed_is_refused(head: Any, encode: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        embeddings.write(tmp_path / "e", model_of(head, **encode))
    assert not (tmp_path / "e").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = model_of(HEADS["gpm"])
    folder.save(tmp_path / "a", model.backbone, model.head, model.tau, model.encode, model.tokenizer, {})
    assert program("export")(["--model", str(tmp_path / "a"), "--to", "sentence-transformers", "--out", str(tmp_path / "e")]) == 0
    assert "README.md says how" in capsys.readouterr().out
    theirs = reader(tmp_path / "e")
    assert torch.allclose(theirs.encode(texts(theirs.tokenizer, RECORDS[0]), convert_to_tensor=True), ours(model, RECORDS[0]), atol=1e-5)
