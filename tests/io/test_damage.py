"""Damaged folders, generated from the schema: each wrong value is one sentence that names the folder, never a traceback or a score."""

from __future__ import annotations

import inspect
import json
import shutil
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import pytest
import torch
from conftest import COMPARISONS
from exports import edit, exported
from safetensors.torch import load_file, save_file

from prefrep.data.encode import EncodeConfig
from prefrep.errors import CheckpointError, PrefrepError
from prefrep.io import folder
from prefrep.io.about import About
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead
from prefrep.nn.lora import LoRA
from prefrep.nn.skew import GatedSkew
from prefrep.scoring import Scorer
from prefrep.typed import parameters

Damage = Callable[[Path], None]


def wrong(hint: Any) -> Iterator[Any]:
    """Values that an annotation does not have, from the annotation itself."""
    kinds = set(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else {hint}
    bases = {base for kind in kinds for base in (str, float, int, bool, list, dict) if _is(kind, base)}
    literals = [kind for kind in kinds if get_origin(kind) is Literal]
    if str not in bases:
        yield "x"
    if not bases & {float}:
        yield 1.5
    if not bases & {int, float}:
        yield 3
    if bool not in bases:
        yield True
    if list not in bases:
        yield [1]
    if dict not in bases and not any(hasattr(kind, "__dataclass_fields__") for kind in kinds):
        yield {"a": 1}
    if type(None) not in kinds:
        yield None
    if literals:
        yield from (f"{get_args(literals[0])[0]}x", "")


def _is(kind: Any, base: type) -> bool:
    origin = get_origin(kind) or kind
    if base is bool or base is int:
        return origin is base or (base is int and isinstance(origin, type) and issubclass(origin, int) and origin is not bool)
    return isinstance(origin, type) and issubclass(origin, base)


def _schema() -> Iterator[tuple[str, Any]]:
    """Every value of `prefrep.json` by its path, with its annotation."""
    for owner, kind, skip in (
        ("", About, 0), ("encode__", EncodeConfig, 0), ("backbone__", Backbone, 0), ("backbone__lora__", LoRA, 0),
        ("head__", GPMHead, 1), ("head__skew__", GatedSkew, 2),
    ):  # fmt: skip
        for name, parameter in list(parameters(kind).items())[skip:]:
            yield owner + name, parameter.annotation


RANGES: dict[str, list[Any]] = {
    "tau": [10**400, -1, 0, 0.0, float("nan"), float("inf"), -float("inf"), "0.1"],
    "format": [99, 0, -1],
    "encode__max_length": [0, -5, 3],
    "backbone__lora__rank": [0, -1],
    "backbone__lora__alpha": [float("nan"), float("inf")],
    "head__normalize": ["false", "yes"],
    "backbone__lora__dropout": [-0.1, 1.0],
    "backbone__dtype": ["float8", "__class__", "int64"],
    "head__dim": [0, -2, 3, 6, 10**7],
    "head__class": [
        "BTHead",
        "NextYearsHead",
        "PreferenceHead",
        "os.system",
        "prefrep.nn.skew.BlockSkew",
        "",
        5,
        None,
        "..x",
        "a.b\nc",
        "\x1b[2J",
        "x" * 3000,
    ],
    "head__skew__class": ["GPMHead", "SkewOperator", "LearnedSkew", "subprocess.Popen", 5],
    "weights": ["other"],
    "head__strange": [1],
    "encode__strange": [1],
    "backbone__strange": [1],
    "head__skew__dim": [2],
}


def schema_damage() -> list[Any]:
    cases = [(path, value) for path, hint in _schema() for value in wrong(hint) if not path.endswith("skew") or value is not None]
    cases += [(path, value) for path, values in RANGES.items() for value in values]
    return [pytest.param(path, value, id=f"{path}={value!r:.20}") for path, value in cases]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model with a gated head; `lora` is null, and is set where its values are damaged."""
    target = tmp_path_factory.mktemp("whole") / "m"
    backbone = Backbone("bundled:tiny-llama", frozen=True).eval()
    head = GPMHead(backbone.hidden_size, 4, GatedSkew)
    folder.save(target, backbone, head, 0.5, EncodeConfig(max_length=200), backbone.tokenizer(), {"step": 1})
    return target


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "m"))


@pytest.mark.parametrize(("path", "value"), schema_damage())
def test_a_wrong_value(path: str, value: Any, place: Path) -> None:
    if path.startswith("backbone__lora__"):
        edit(place / "prefrep.json", backbone__lora={"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": []})
    edit(place / "prefrep.json", **{path: value})
    with pytest.raises(CheckpointError) as caught:
        folder.load(place)
    assert str(place) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("path", "a" * 5000), ("path", "~nobody-of-this-name/x"), ("path", "a\0b"), ("path", ""), ("path", ".."), ("path", "/etc/passwd"),
        ("gguf", "../../x"), ("lora", {"rank": 10**9, "alpha": 4.0, "dropout": 0.0, "targets": []}),
        ("lora", {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["nothing"]}),
    ],
)  # fmt: skip
def test_a_wrong_reference(key: str, value: Any, place: Path) -> None:
    edit(place / "prefrep.json", weights="reference", trained=[], **{f"backbone__{key}": value})
    with pytest.raises(PrefrepError) as caught:
        folder.load(place)
    assert "\n" not in str(caught.value)


def test_texts_stay_texts(place: Path) -> None:
    """What a recipe says in words is not read as YAML."""
    said = {"note": "no", "number": "5", "nothing": "null", "deep": {"list": ["1", "yes"]}}
    edit(place / "prefrep.json", recipe=said)
    recipe = folder.load(place).recipe
    assert {name: recipe[name] for name in said} == said


def test_there_are_many_and_most_are_generated() -> None:
    generated = [(path, value) for path, hint in _schema() for value in wrong(hint)]
    assert len(generated) >= 100 and len(schema_damage()) >= 140


@pytest.mark.parametrize("name", [name for name, each in parameters(About).items() if each.default is inspect.Parameter.empty])
def test_a_missing_value(name: str, place: Path) -> None:
    about = json.loads((place / "prefrep.json").read_text())
    del about[name]
    (place / "prefrep.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=f"damaged or edited.*{name}"):
        folder.load(place)


@pytest.mark.parametrize("text", ["", "[]", "null", "5", '"x"', "{}", '{"format": 1', "\ufeff{}", "[" * 5000])
def test_another_document(text: str, place: Path) -> None:
    (place / "prefrep.json").write_text(text)
    with pytest.raises(CheckpointError, match="damaged or edited"):
        folder.load(place)


def _tokens(place: Path) -> None:
    """A tokenizer of another model: more tokens than embeddings."""
    tokenizer = json.loads((place / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {f"strange{number}": 1000 + number for number in range(5)}
    (place / "tokenizer.json").write_text(json.dumps(tokenizer))


def _vocabulary(place: Path) -> None:
    edit(place / "config.json", vocab_size=10)


def _write(name: str, text: str) -> Damage:
    def damage(place: Path) -> None:
        (place / name).write_text(text)

    return damage


def _config(**changes: Any) -> Damage:
    return lambda place: edit(place / "config.json", **changes)


def _truncate(name: str) -> Damage:
    def damage(place: Path) -> None:
        content = (place / name).read_bytes()
        (place / name).write_bytes(content[: len(content) // 2])

    return damage


def _remove(name: str) -> Damage:
    return lambda place: (place / name).unlink()


def _nan(place: Path) -> None:
    state = load_file(place / "head.safetensors")
    state["value_head.weight"][0, 0] = torch.nan
    save_file(state, place / "head.safetensors")


def _folder(place: Path) -> None:
    (place / "head.safetensors").unlink()
    (place / "head.safetensors").mkdir()


FILES: dict[str, Damage] = {
    "tokens without embeddings": _tokens,
    "vocabulary of 10": _vocabulary,
    "head with nan": _nan,
    "head is a folder": _folder,
    **{f"{name} {text!r:.6}": _write(name, text) for name in ("tokenizer.json", "config.json") for text in ("", "{}", "[]", "{", "5")},
    **{f"{name} cut": _truncate(name) for name in ("model.safetensors", "head.safetensors", "tokenizer.json", "config.json")},
    **{f"{name} gone": _remove(name) for name in ("model.safetensors", "config.json", "head.safetensors", "tokenizer.json")},
    **{
        f"{key}={value!r}": _config(**{key: value})
        for key, value in [
            ("model_type", "unknown"), ("model_type", 5), ("model_type", "bert"),
            ("hidden_size", 64), ("hidden_size", "x"), ("hidden_size", -1),
            ("num_hidden_layers", 5), ("num_hidden_layers", "many"), ("num_attention_heads", 3), ("num_attention_heads", 0),
            ("num_key_value_heads", 7), ("intermediate_size", 3), ("hidden_act", "none"), ("vocab_size", 10**6), ("vocab_size", "x"),
            ("head_dim", 3), ("rms_norm_eps", "x"), ("dtype", "float9"),
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file(name: str, place: Path) -> None:
    FILES[name](place)
    with pytest.raises(PrefrepError) as caught:
        list(Scorer.from_pretrained(place).compare(COMPARISONS))
    assert str(place) in str(caught.value) and "\n" not in str(caught.value)


def test_special_tokens_that_nothing_writes_may_lack_an_embedding(place: Path) -> None:
    """Gemma 3's text models have such a token. One that the chat template writes may not."""
    model = folder.load(place)
    before = list(Scorer(model).compare(COMPARISONS))
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})  # type: ignore[dict-item]
    rows = model.backbone.model.get_input_embeddings().weight.shape[0]
    added = model.tokenizer.convert_tokens_to_ids("<image>")
    model.tokenizer.save_pretrained(place)
    assert added >= rows, "the case needs a model without spare embeddings"
    assert list(Scorer.from_pretrained(place).compare(COMPARISONS)) == before


def test_whole_folders_load(place: Path, tmp_path: Path) -> None:
    """The copy, one of format 1 as it was first written, and one with keys of a later version."""
    expected = list(Scorer.from_pretrained(place).compare(COMPARISONS))
    about = json.loads((place / "prefrep.json").read_text())
    del about["backbone"]["gguf"], about["trained"]
    (place / "prefrep.json").write_text(json.dumps(about | {"next_year": {"a": 1}}))
    assert list(Scorer.from_pretrained(place).compare(COMPARISONS)) == expected
    assert about["head"] == {"class": "GPMHead", "dim": 4, "normalize": True, "skew": {"class": "GatedSkew", "variant": "softmax"}}
    assert exported(tmp_path / "other").exists()
