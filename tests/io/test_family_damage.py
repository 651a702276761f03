"""Other people's preference models with files that are damaged, foreign or pickled: a sentence, and nothing is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import encoders
import families
import pytest
import torch
from conftest import COMPARISONS, program
from families import rewards
from safetensors.torch import load_file, save_file
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from prefrep.errors import CheckpointError, ConfigError, PrefrepError
from prefrep.io.pickles import as_safetensors
from prefrep.scoring import Scorer

export = program("export")


def damaged(place: Path, head: list[str], change: str) -> None:
    """Damage a model, whose head has the named tensors, in one of ten ways."""
    weights, about = place / "model.safetensors", place / "config.json"
    tensors = load_file(weights)
    first = head[0]
    if change == "a tensor of the head is missing":
        del tensors[first]
    elif change == "a tensor of the language model is missing":
        del tensors[next(name for name in tensors if "layer" in name and "norm" not in name.lower() and name not in head)]
    elif change == "a shape is wrong":
        tensors[first] = tensors[first][..., :-1].clone()
    elif change == "not finite":
        tensors[first].fill_(float("nan"))
    elif change == "no tokenizer":
        for file in place.glob("*token*"):
            file.unlink()
    elif change == "a pickle":
        torch.save(tensors, place / "pytorch_model.bin")
        weights.unlink()
        return
    elif change == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
        return
    elif change == "config is no JSON":
        about.write_text("{")
    elif change == "another model_type":
        about.write_text(json.dumps(json.loads(about.read_text()) | {"model_type": "internlm2", "auto_map": {"AutoConfig": "evil.X"}}))
    else:
        said = json.loads(about.read_text())
        about.write_text(json.dumps(said | {"d_model" if "d_model" in said else "hidden_size": 48}))
    save_file(tensors, weights, metadata={"format": "pt"})


CHANGES = (
    "a tensor of the head is missing", "a tensor of the language model is missing", "a shape is wrong", "not finite", "no tokenizer",
    "a pickle", "cut", "config is no JSON", "another model_type", "another width",
)  # fmt: skip


# Encoders as classifiers, and a T5 that answers: their class in transformers, and a tensor of the head.
PUBLISHED = {
    "deberta-v2": ("ForSequenceClassification", "classifier.weight"), "roberta": ("ForSequenceClassification", "classifier.dense.weight"),
    "bert": ("ForSequenceClassification", "classifier.weight"), "modernbert": ("ForSequenceClassification", "head.dense.weight"),
    "t5": ("ForConditionalGeneration", "lm_head.weight"),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*families.LAYOUTS, *PUBLISHED])
@pytest.mark.parametrize("change", CHANGES)
def test_damaged_models_get_a_sentence(kind: str, change: str, tmp_path: Path) -> None:
    if kind in PUBLISHED:
        place, (task, name) = tmp_path / "rm", PUBLISHED[kind]
        encoders.folder(place, kind, task)
        if kind == "t5":
            encoders.untied(place)
        head = [name]
    else:
        place, head = families.write(tmp_path / "rm", kind), list(families.LAYOUTS[kind][1])
    (place / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    damaged(place, head, change)
    with pytest.raises(PrefrepError) as caught:
        Scorer.from_pretrained(place, kind="steamshp" if kind == "t5" else None)
    message = str(caught.value)
    assert message.startswith(str(place)), message
    assert len(message) < 600 and "\n" not in message
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["starling.pt", "pytorch_model.bin"])
def test_pickled_weights_become_a_folder(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Starling-RM-7B's layout. Files that trainers leave there are not touched."""
    place = families.write(tmp_path / "rm", "starling")
    torch.save(load_file(place / "model.safetensors"), place / name)
    (place / "training_args.bin").write_bytes(b"never read")
    (place / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"rm: no model.safetensors; pickles .* prefrep export --from KIND"):
        Scorer.from_pretrained(place)
    assert export(["--from", "starling", "--model", str(place), "--out", str(tmp_path / "out")]) == 0
    assert "its weights alone are read, nothing in it is run" in capfd.readouterr().err
    expected = [value for row in families.golden()["starling"] for value in row]
    assert rewards(Scorer.from_pretrained(tmp_path / "out")) == pytest.approx(expected, abs=1e-5)
    about = (tmp_path / "out" / "prefrep.json").read_text()
    assert str(place) in about and ".weights" not in about
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "rm"]


class Opens:
    """What a pickle can do."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return open, (str(self.file), "w")


def test_what_lies_beside_pickled_weights_comes_along(tmp_path: Path) -> None:
    """Code of models that need it and are trusted, and folders."""
    place = families.write(tmp_path / "rm", "starling")
    torch.save(load_file(place / "model.safetensors"), place / "rm.pt")
    (place / "model.safetensors").unlink()
    (place / "modeling.py").write_text("x = 1\n")
    (place / "more").mkdir()
    with as_safetensors(str(place), tmp_path / "out") as copy:
        names = {file.name for file in Path(copy).iterdir()}
        assert (Path(copy) / "modeling.py").read_text() == "x = 1\n"
    assert names == {*(file.name for file in place.iterdir()), "rm.safetensors", "model.safetensors.index.json"} - {"rm.pt"}


@pytest.mark.parametrize("weights", ["code", "more than tensors", "cut", "two"])
def test_pickles_run_nothing(weights: str, tmp_path: Path) -> None:
    place = families.write(tmp_path / "rm", "starling")
    state: dict[str, Any] = dict(load_file(place / "model.safetensors"))
    torch.save(state | {"code": {"v_head": Opens(tmp_path / "ran")}, "more than tensors": {"step": 5}}.get(weights, {}), place / "rm.pt")
    if weights == "cut":
        (place / "rm.pt").write_bytes((place / "rm.pt").read_bytes()[:2000])
    if weights == "two":
        torch.save(state, place / "other.pt")
    (place / "model.safetensors").unlink()
    said = {"two": "other.pt and rm.pt could both be", "more than tensors": "rm.pt: holds more than tensors"}
    with pytest.raises(CheckpointError, match=said.get(weights, "rm.pt: not a state dict")) as caught, as_safetensors(str(place), place):
        raise AssertionError
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_a_head_without_its_last_layer(tmp_path: Path) -> None:
    place = families.write(tmp_path / "rm", "inform")
    tensors = load_file(place / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("score.2")}
    save_file(kept, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="the head ends in 32 outputs, and INF-ORM has one"):
        Scorer.from_pretrained(place)


def test_an_activation_that_is_unknown(tmp_path: Path) -> None:
    encoders.folder(tmp_path / "rm", "deberta-v2", "ForSequenceClassification", pooler_hidden_act="mish")
    with pytest.raises(CheckpointError, match=r"rm: config.json says pooler_hidden_act 'mish'; prefrep has relu"):
        Scorer.from_pretrained(tmp_path / "rm")


def test_classifiers_without_a_row_are_not_taken_for_others(tmp_path: Path) -> None:
    """DistilBERT's has a tensor that DeBERTa's has, too."""
    DistilBertForSequenceClassification(DistilBertConfig(vocab_size=300, dim=32, hidden_dim=64, n_layers=1, n_heads=2)).save_pretrained(
        tmp_path / "rm"
    )
    encoders.tokenizer().save_pretrained(tmp_path / "rm")
    with pytest.raises(CheckpointError, match=r"a reward model has score.weight \[1, 32\]") as caught:
        Scorer.from_pretrained(tmp_path / "rm")
    assert "DeBERTa" not in str(caught.value)


def test_a_pair_without_its_marks(tmp_path: Path) -> None:
    """As the authors' code, prefrep reads no other token instead."""
    place = families.write(tmp_path / "rm", "pairrm", cand2_prefix_id=200)
    with pytest.raises(ConfigError, match="a text lacks the marked token 200"):
        list(Scorer.from_pretrained(place).compare(COMPARISONS))


def test_foreign_code_is_neither_run_nor_needed(tmp_path: Path) -> None:
    """ArmoRM's config.json names a file of its own, which is there and raises."""
    place = families.write(tmp_path / "rm", "armorm")
    (place / "modeling_custom.py").write_text("raise SystemExit('ran')\n")
    assert rewards(Scorer.from_pretrained(place))


def test_another_number_of_objectives(tmp_path: Path) -> None:
    place = families.write(tmp_path / "rm", "armorm", num_objectives=19)
    with pytest.raises(CheckpointError, match="num_objectives 19, and its gate has 3 outputs"):
        Scorer.from_pretrained(place)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("armorm", "ArmoRM or QRM has regression_layer.weight, and this checkpoint has not; its files say --as ultrarm"),
        ("steamshp", "has model_type t5, and not llama; its files say --as ultrarm"),
    ],
)
def test_another_family_than_the_caller_says(kind: str, said: str, tmp_path: Path) -> None:
    place = families.write(tmp_path / "rm", "ultrarm")
    with pytest.raises(CheckpointError, match=said):
        Scorer.from_pretrained(place, kind=kind)
