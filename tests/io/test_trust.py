"""Nothing that comes from elsewhere makes code run: one test for each sentence of prefrep/TRUST.md."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import subprocess
import sys
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
import yaml
from conftest import COMPARISONS, program
from exports import edit, exported
from jinja2.exceptions import SecurityError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import prefrep
from prefrep.data.encode import EncodeConfig
from prefrep.data.kept import about_records, read_kept
from prefrep.data.sources import Source, read
from prefrep.errors import CheckpointError, DataError, PrefrepError, RecordError
from prefrep.evaluation.answers import load_policy
from prefrep.evaluation.policies import Answering
from prefrep.evaluation.rows import PairScore, read_scores
from prefrep.io import adapters, folder, official, openrlhf, readers, rlhflow, seqcls
from prefrep.io.start import start
from prefrep.judges import ModelJudge, OfficialJudge
from prefrep.judges.named import comparer
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead, GPMHead
from prefrep.scoring import Scorer
from prefrep.scoring.loading import Loading, LocalScoring, Scoring
from prefrep.scoring.workers import open_scorer

TRUST = (Path(prefrep.__file__).parent / "TRUST.md").read_text()


def evil(place: Path, name: str, witness: Path) -> None:
    """A Python file that leaves a witness when it runs, and then is what transformers looks for."""
    (place / f"{name}.py").write_text(
        f"import pathlib\npathlib.Path({str(witness)!r}).write_text('it ran')\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class Config(LlamaConfig):\n    model_type = 'llama-of-mine'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
        "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )


def _own_model(place: Path, witness: Path) -> None:
    """The folder of the issue: a model that only its own code can make, and the word that it may run."""
    evil(place, "mine", witness)
    auto = {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}
    edit(place / "config.json", auto_map=auto, model_type="llama-of-mine")
    edit(place / "prefrep.json", backbone__trust_remote_code=True)


def _other_model(place: Path, witness: Path) -> None:
    """A known architecture with code of its own: transformers could load its own class instead, which is another model."""
    evil(place, "mine", witness)
    edit(place / "config.json", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    edit(place / "prefrep.json", backbone__trust_remote_code=True)


def _tokenizer(place: Path, witness: Path) -> None:
    evil(place, "tokens", witness)
    edit(place / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "tokens.Tokenizer"]}, tokenizer_class="Tokenizer")
    edit(place / "prefrep.json", backbone__trust_remote_code=True)


def _head_of_a_module(place: Path, witness: Path) -> None:
    evil(place, "attack_heads", witness)
    edit(place / "prefrep.json", head={"class": "attack_heads.Model"})


def _operator_of_a_module(place: Path, witness: Path) -> None:
    evil(place, "attack_skew", witness)
    edit(place / "prefrep.json", head__skew={"class": "attack_skew.Model"})


def _judge_as_operator(place: Path, witness: Path) -> None:
    """A part of ours that imports what it is told, where another kind of part belongs."""
    evil(place, "attack_rule", witness)
    edit(place / "prefrep.json", head__skew={"class": "prefrep.judges.rules.RuleJudge", "rule": "attack_rule.Model"})


def _base_with_code(place: Path, witness: Path) -> None:
    base = place.parent / "base"
    Backbone("bundled:tiny-llama").model.save_pretrained(base)
    AutoTokenizer.from_pretrained(place).save_pretrained(base)
    evil(base, "mine", witness)
    edit(base / "config.json", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}, model_type="llama-of-mine")
    edit(place / "prefrep.json", weights="reference", backbone__path=str(base), backbone__trust_remote_code=True, trained=[])


def _attention_of_the_hub(place: Path, witness: Path) -> None:
    edit(place / "config.json", attn_implementation="somebody/their-kernel")


def _adapter(place: Path, witness: Path) -> None:
    """An adapter in the folder would make transformers load the base that the adapter names."""
    _base_with_code(place, witness)
    edit(place / "prefrep.json", weights="full")
    (place / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(place.parent / "base")}))


def _shards(place: Path, name: str) -> None:
    """An index of weights that names another file than safetensors beside it: transformers would read it."""
    state = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    torch.save(state, place / "weights.bin")
    save_file(state, place.parent / "weights.safetensors")
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(state, name)}))


def _pickle_in_the_index(place: Path, witness: Path) -> None:
    _shards(place, "weights.bin")


def _other_folder_in_the_index(place: Path, witness: Path) -> None:
    _shards(place, "../weights.safetensors")


def _pickle_behind_a_link(place: Path, witness: Path) -> None:
    (place / "blob").write_bytes(pickle.dumps(_Bomb(witness)))
    (place / "model.safetensors").unlink()
    (place / "model.safetensors").symlink_to(place / "blob")


def _adapter_as_base(place: Path, witness: Path) -> None:
    """The log names the base; transformers would read another one, which the adapter names."""
    _base_with_code(place, witness)
    base = place.parent / "base"
    edit(base / "config.json", auto_map={}, model_type="llama")
    auto = {"base_model_class": "Model", "parent_library": "mine"}
    about = {"peft_type": "LORA", "base_model_name_or_path": "somebody/model", "auto_mapping": auto}
    (base / "adapter_config.json").write_text(json.dumps(about))


def _generation(place: Path, witness: Path) -> None:
    (place / "custom_generate").mkdir()
    evil(place / "custom_generate", "generate", witness)


def _entry_point(place: Path, witness: Path) -> None:
    """A name as entry points write it."""
    evil(place, "attack_point", witness)
    edit(place / "prefrep.json", head={"class": "attack_point:Model"})


ATTACKS: dict[Callable[[Path, Path], None], str] = {
    _own_model: "add --trust-remote-code",
    _other_model: "add --trust-remote-code",
    _tokenizer: "add --trust-remote-code",
    _head_of_a_module: "--import attack_heads",
    _operator_of_a_module: "--import attack_skew",
    _judge_as_operator: "no SkewOperator",
    _base_with_code: "add --trust-remote-code",
    _attention_of_the_hub: "names the attention somebody/their-kernel",
    _adapter: "names another model",
    _pickle_in_the_index: "only safetensors beside it are read",
    _other_folder_in_the_index: "only safetensors beside it are read",
    _pickle_behind_a_link: "cannot load a model",
    _adapter_as_base: "is an adapter, whose weights are elsewhere",
    _generation: "",
    _entry_point: "not the name of a class",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.strip("_"))
def test_an_exported_folder_runs_no_code(attack: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it where the folder is the current one, so that its files can be imported."""
    place, witness = exported(tmp_path / "m"), tmp_path / "witness"
    attack(place, witness)
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    try:
        list(Scorer.from_pretrained(place).compare(COMPARISONS))
    except CheckpointError as error:
        assert ATTACKS[attack] and ATTACKS[attack] in str(error) and "\n" not in str(error)
    else:
        assert not ATTACKS[attack]  # nobody asks for it
    assert not witness.exists()


def test_the_attack_is_real(tmp_path: Path) -> None:
    """The caller's word runs the code, so that the test above sees something."""
    place, witness = exported(tmp_path / "m"), tmp_path / "witness"
    _own_model(place, witness)
    edit(place / "prefrep.json", backbone__trust_remote_code=False)  # what the folder says does not count
    scorer = Scorer.from_pretrained(place, trust_remote_code=True)
    assert witness.exists() and type(scorer.model.backbone.model).__name__ == "Model"
    plain = Scorer.from_pretrained(exported(tmp_path / "plain"))
    assert list(scorer.compare(COMPARISONS)) == list(plain.compare(COMPARISONS))


def test_files_of_the_current_folder_are_not_imported(tmp_path: Path) -> None:
    """`bin/prefrep`, called where a model lies: neither a module with the name of one that prefrep needs, nor a declaration of parts."""
    witness = tmp_path / "witness"
    for name in ("torch", "inspect", "attack_declared"):
        evil(tmp_path, name, witness)
    (tmp_path / "evil-1.0.dist-info").mkdir()
    (tmp_path / "evil-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (tmp_path / "evil-1.0.dist-info" / "entry_points.txt").write_text("[prefrep.parts]\nevil = attack_declared\n")
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    root = Path(prefrep.__file__).parents[1]
    call = re.search(r'exec "\$here/.venv/bin/python" (.*) "\$@"', (root / "bin" / "prefrep").read_text())
    assert call is not None
    command = [sys.executable, *call[1].split(), "score", "--model", ".", "--data", "x.jsonl", "--out", "y"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1 and "no prefrep.json" in done.stderr, done.stderr
    assert not witness.exists()


def test_every_reader_takes_the_word_of_its_caller(tmp_path: Path) -> None:
    place, witness = exported(tmp_path / "m"), tmp_path / "witness"
    _own_model(place, witness)
    stated: dict[str, Any] = {"tau": 1.0, "normalize": True, "gate": "none", "template": "auto"}
    plain, adapter = copytree(place, tmp_path / "plain"), tmp_path / "adapter"
    (plain / "prefrep.json").unlink()
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(place)}))
    save_file({"score.weight": torch.zeros(1, Backbone("bundled:tiny-llama").hidden_size)}, adapter / "adapter_model.safetensors")
    found: dict[str, Callable[[bool], Any]] = {
        "scorer": lambda yes: open_scorer(str(place), Scoring(trust_remote_code=yes)),
        "scorers in processes": lambda yes: list(open_scorer(str(place), Scoring(trust_remote_code=yes, workers=2)).compare(COMPARISONS)),
        "block scorer": lambda yes: Loading(trust_remote_code=yes).block_scorer(str(place)),
        "served": lambda yes: LocalScoring(trust_remote_code=yes).here(str(place)),
        "referee": lambda yes: comparer(str(place), trust_remote_code=yes),
        "judge": lambda yes: ModelJudge(str(place), trust_remote_code=yes).scorer,
        "policy": lambda yes: load_policy(Answering(trust_remote_code=yes), str(place)),
        "official": lambda yes: official.read(place, trust_remote_code=yes, **stated),
        "official judge": lambda yes: OfficialJudge(str(place), trust_remote_code=yes, **stated).scorer,
        "classifier": lambda yes: seqcls.read(place, trust_remote_code=yes),
        "adapter": lambda yes: adapters.read(adapter, trust_remote_code=yes),
        "openrlhf": lambda yes: openrlhf.read(place, trust_remote_code=yes),
        "rlhflow": lambda yes: rlhflow.read(place, trust_remote_code=yes),
        "layout": lambda yes: readers.kind_of(str(plain), trust_remote_code=yes),
        "training": lambda yes: start(str(place), partial(Backbone, trust_remote_code=yes), GPMHead, 1.0),
    }
    for reader in found.values():
        with pytest.raises(CheckpointError, match="add --trust-remote-code"):
            reader(False)
    assert not witness.exists()
    missed = {}
    for name, reader in found.items():
        try:
            reader(True)
        except CheckpointError as error:
            missed[name] = str(error)
    # With it they read on, and miss what their layout holds.
    assert missed.keys() == {"official", "official judge", "classifier", "adapter", "openrlhf", "layout"}
    assert not any("trust" in each for each in missed.values())


def test_the_command_line_says_it(tmp_path: Path) -> None:
    place, witness = exported(tmp_path / "m"), tmp_path / "witness"
    _own_model(place, witness)
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}))
    arguments = ["--model", str(place), "--data", str(data), "--out", str(tmp_path / "scores.jsonl")]
    done = subprocess.run(
        [sys.executable, "-m", "prefrep", "score", *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 1 and "add --trust-remote-code" in done.stderr and "Traceback" not in done.stderr
    assert not witness.exists() and not (tmp_path / "scores.jsonl").exists()
    program("score")([*arguments, "--trust-remote-code"])
    assert witness.exists() and (tmp_path / "scores.jsonl").exists()


def test_a_base_by_reference_is_named_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = exported(tmp_path / "m", "reference")
    with caplog.at_level(logging.INFO, logger="prefrep"):
        folder.load(place)
    assert f"{place}: the weights of its language model are those of bundled:tiny-llama" in caplog.messages
    edit(place / "prefrep.json", backbone__path=str(exported(tmp_path / "base")))
    with pytest.raises(CheckpointError, match="is an exported folder"):
        folder.load(place)


class _Bomb:
    """What a pickle can hold: a call."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.witness, "it ran")


def test_weights_in_pickles_are_not_read(tmp_path: Path) -> None:
    place, witness = exported(tmp_path / "m"), tmp_path / "witness"
    (place / "model.safetensors").unlink()
    torch.save(_Bomb(witness), place / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="safetensors"):
        folder.load(place)
    (place / "head.safetensors").write_bytes(pickle.dumps(_Bomb(witness)))
    exported(tmp_path / "whole")
    (place / "model.safetensors").write_bytes((tmp_path / "whole" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"head\.safetensors does not fit"):
        folder.load(place)
    assert not witness.exists()


@pytest.mark.parametrize("command", ["fit", "validate"])
def test_checkpoints_hold_weights_and_plain_data(command: str, tmp_path: Path) -> None:
    """Neither a pickled call nor a class that hyper-parameters name."""
    witness, data = tmp_path / "witness", tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}))
    torch.save({"state_dict": {}, "bomb": _Bomb(witness)}, tmp_path / "bomb.ckpt")
    evil(tmp_path, "attack_hparams", witness)
    lightning = {"pytorch-lightning_version": "2.6.0", "epoch": 0, "global_step": 0, "loops": {}, "callbacks": {}, "state_dict": {}}
    torch.save(lightning | {"hyper_parameters": {"_class_path": "attack_hparams.Model"}}, tmp_path / "hparams.ckpt")
    for name in ("bomb", "hparams"):
        arguments = [
            "--config", "tiny/gpm", "--data.train", str(data), "--data.val", str(data), "--trainer.default_root_dir", str(tmp_path / "run"),
            "--ckpt_path", str(tmp_path / f"{name}.ckpt"), "--trainer.max_steps", "1",
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "prefrep", command, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(prefrep.__file__).parents[1]}"},
        )  # fmt: skip
        assert done.returncode == 1 and not witness.exists()
        assert {"bomb": "which could run code", "hparams": "does not belong to this model"}[name] in done.stderr
        assert "Traceback" not in done.stderr


def test_a_chat_template_is_sandboxed(tmp_path: Path) -> None:
    place = exported(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.chat_template = "{{ messages.__class__.__base__.__subclasses__() }}"
    with pytest.raises(SecurityError):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    tokenizer.save_pretrained(place)
    with pytest.raises(PrefrepError, match="template"):
        Scorer.from_pretrained(place).table("p", ["a", "b"])


def test_data_files_are_data(tmp_path: Path) -> None:
    """A script beside the data is not run, and a pickle is no data."""
    witness = tmp_path / "witness"
    place = tmp_path / "data"
    place.mkdir()
    evil(place, "data", witness)
    (place / "rows.pkl").write_bytes(pickle.dumps(_Bomb(witness)))
    with pytest.raises(DataError):
        list(read(str(place)))
    (tmp_path / "rows.jsonl").write_bytes(pickle.dumps(_Bomb(witness)))
    with pytest.raises((DataError, RecordError)):
        list(read(str(tmp_path / "rows.jsonl")))
    assert not witness.exists()


@pytest.mark.parametrize("arguments", [["fit"], ["sweep", "--out", "out"], ["score"]])
def test_yaml_has_no_python_tags(arguments: list[str], tmp_path: Path) -> None:
    """Class paths run code, and are yours alone; the tags of unsafe YAML are refused."""
    witness, file = tmp_path / "witness", tmp_path / "config.yaml"
    file.write_text(f"model: !!python/object/apply:os.system ['touch {witness}']\n")
    with pytest.raises(PrefrepError):
        program(arguments[0])([*arguments[1:], "--config", str(file)])
    assert not witness.exists()
    yaml.unsafe_load(file.read_text())
    assert witness.exists()


def test_score_files_are_json(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    (tmp_path / "scores.jsonl").write_bytes(pickle.dumps(_Bomb(witness)))
    with pytest.raises(PrefrepError):
        read_scores(str(tmp_path / "scores.jsonl"), PairScore)
    assert not witness.exists()


def test_study_journals_are_json(tmp_path: Path) -> None:
    """A journal is lines of JSON, not the snapshot of pickles that optuna has for other backends."""
    from prefrep.sweeps.study import Study

    study = Study(tmp_path)
    study.enlist({"one": {"settings": "a", "recipe": "b", "model": "m", "seed": 0, "values": {}}}, False)
    journal = next(file for file in tmp_path.rglob("*") if "journal" in file.name and file.is_file() and "lock" not in file.name)
    assert all(isinstance(json.loads(line), dict) for line in journal.read_text().splitlines())
    witness = tmp_path / "witness"
    journal.write_bytes(pickle.dumps(_Bomb(witness)))
    with suppress(Exception):  # optuna ignores the rest of a line that somebody has not finished
        Study(tmp_path).progress()
    assert not witness.exists()


def test_report_pages_hold_no_scripts(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    row = {"prompt": "<script>alert(1)</script>", "chosen": "<img src=x onerror=alert(1)>", "rejected": "b"}
    data = tmp_path / "data.jsonl"
    other = {"prompt": row["prompt"], "chosen": row["rejected"], "rejected": row["chosen"]}  # so that one is a mistake, which is shown
    data.write_text(f"{json.dumps(row)}\n{json.dumps(other)}")
    model = str(exported(tmp_path / "m"))
    program("eval", "pairs")(["--model", model, "--data", str(data), "--out", str(run / "pairs"), "--bootstrap", "10"])
    program("report")([str(run), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert "alert(1)" in page and "<script" not in page and "<img src=x" not in page


def _named(module: str, name: str) -> bytes:
    """A pickle of what a module calls by a name, which may have dots."""
    return b"\x80\x04" + b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)) + b"\x93."


ITEMS: dict[str, Callable[[Path], bytes]] = {
    "a call": lambda witness: pickle.dumps(_Bomb(witness)),
    "a call in a record": lambda witness: pickle.dumps(replace(COMPARISONS[0], tags={"a": _Bomb(witness)})),
    "a function": lambda _: _named("os", "system"),
    "what a record leads to": lambda _: _named("prefrep.records", "Message.__init__.__globals__"),
    "another name of its module": lambda _: _named("prefrep.records", "asdict"),
    "no pickle": lambda _: b"rows",
    "nothing": lambda _: b"",
}


@pytest.mark.parametrize("item", ITEMS)
def test_kept_data_run_no_code(item: str, tmp_path: Path) -> None:
    """A cache folder that somebody else may write to: what lies there is data, or is refused with a sentence."""
    source, witness = tmp_path / "rows.jsonl", tmp_path / "witness"
    source.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}))
    sources = [Source(str(source))]
    arguments: tuple[Any, ...] = (str(tmp_path / "cache"), about_records(sources, "error", ""), sources, 0, "error", "")
    assert [record.prompt[0].content for record in read_kept(*arguments)[0]] == ["p"]
    (about,) = (tmp_path / "cache").rglob("about.json")
    attack = ITEMS[item](witness)
    (about.parent / "items").write_bytes(attack)
    (about.parent / "ends").write_bytes(array("q", [0, len(attack)]).tobytes())
    edit(about, files__items=len(attack))
    with pytest.raises(DataError, match=rf"^{about.parent}/items: item 0 cannot be read \(.*\); delete {about.parent}$"):
        list(read_kept(*arguments)[0])
    assert not witness.exists()
    if "call" in item:
        pickle.loads(attack)
        assert witness.exists(), "the attack is real"


def test_pickle_occurs_once() -> None:
    """In the spool, whose reader admits records and plain data alone."""
    sources = {file: file.read_text() for file in Path(prefrep.__file__).parent.rglob("*.py")}
    pickles = re.compile(r"pickle\.(loads?\(|Unpickler)|joblib|allow_pickle=True|weights_only=False")
    reads = [file.name for file, text in sources.items() if pickles.search(text)]
    assert reads == ["spool.py"] and all("pickle.loads" not in text for text in sources.values())
    loads = [line for text in sources.values() for line in text.splitlines() if "torch.load(" in line]
    assert loads and all("weights_only=True" in line for line in loads)


def test_every_sentence_has_a_test() -> None:
    """Each row of the table in TRUST.md names its test."""
    named = re.findall(r"`(test_\w+)`", TRUST)
    assert len(named) >= 12 and all(name in globals() for name in named)


def test_a_head_of_ours_is_not_asked_about(tmp_path: Path) -> None:
    backbone = Backbone("bundled:tiny-llama", frozen=True).eval()
    folder.save(tmp_path / "m", backbone, BTHead(backbone.hidden_size), 1.0, EncodeConfig(), backbone.tokenizer(), {})
    assert isinstance(folder.load(tmp_path / "m").head, BTHead)
