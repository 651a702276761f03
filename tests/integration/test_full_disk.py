"""A disk that is full, a small tmpfs: what was written stays, a sentence says where, and with more room the same command ends alike."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which

import pytest
import torch
import yaml
from exports import exported

from prefrep.cli.main import main
from prefrep.shipped import config_file

ROWS = 300


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[int], None]]]:
    """A disk of its own, and a function that gives it a size in kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = [which("mount") or "false", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here ({done.stderr.strip() or 'no mount'})")

    def resize(size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}k", str(place)], check=True)

    yield place, resize
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, pairs, prompts, and the configuration of a run that saves at every step."""
    root = tmp_path_factory.mktemp("root")
    exported(root / "model")
    pairs = [{"id": f"r{i}", "prompt": f"Q{i}?", "chosen": "yes " * (i % 5 + 1), "rejected": "no"} for i in range(ROWS)]
    for name, rows in (("pairs", pairs), ("few", pairs[:16])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "prompts.json").write_text(json.dumps([{"instruction": f"{row['prompt']} {'word ' * 40}"} for row in pairs[:24]]))
    config = yaml.safe_load(config_file("tiny/gpm").read_text())
    saving = next(each["init_args"] for each in config["trainer"]["callbacks"] if each["class_path"] == "Checkpoints")
    saving |= {"train_time_interval": None, "every_n_train_steps": 1, "monitor": None}
    config["trainer"] |= {"callbacks": [{"class_path": "Checkpoints", "init_args": saving}], "logger": False, "enable_progress_bar": False}
    config["model"]["init_args"]["backbone"]["init_args"]["lora"] = None
    (root / "fit.yaml").write_text(yaml.safe_dump(config))
    return root


FIT = "fit --config {root}/fit.yaml --data.train {root}/few.jsonl --data.val {root}/few.jsonl --trainer.default_root_dir {out}"
MODEL, PAIRS = "--model {root}/model", "--data {root}/pairs.jsonl"
GENERATE = "eval generate --model bundled:tiny-llama --benchmark alpaca_eval --data {root}/prompts.json --out {out} --max-new-tokens 4"
CASES = {  # command, size of the disk in kB, what is compared
    "score": (f"score {MODEL} {PAIRS} --out {{out}}/scores.jsonl", 12, ["scores.jsonl"]),
    "pairs": (f"eval pairs {MODEL} {PAIRS} --out {{out}} --bootstrap 20", 24, ["scores.jsonl", "mistakes.jsonl"]),
    "generate": (GENERATE, 12, ["answers.jsonl", "model_outputs.json"]),
    "export": (f"export {MODEL} --to official --out {{out}}/official", 64, ["official/model.safetensors"]),
    "inspect": ("inspect {root}/pairs.jsonl --json {out}/numbers.json", 4, ["numbers.json"]),
}


@pytest.mark.parametrize("name", CASES)
def test_more_room_lets_it_go_on(name: str, root: Path, disk: tuple[Path, Callable[[int], None]], tmp_path: Path) -> None:
    command, size, files = CASES[name]
    place, resize = disk
    resize(size)
    out = place / "out"
    with pytest.raises(OSError, match=r"free.*(delete files there|write to another disk)") as full:
        main(command.format(root=root, out=out).split())
    assert str(full.value.filename).startswith(str(place))
    resize(20_000)
    main(command.format(root=root, out=out).split())
    main(command.format(root=root, out=tmp_path / "whole").split())
    assert all((out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes() for file in files)
    assert not [file for file in place.rglob("*") if "lock" in file.name or "part" in file.name]


def test_a_run_keeps_its_last_checkpoint(root: Path, disk: tuple[Path, Callable[[int], None]], tmp_path: Path) -> None:
    """Room for one checkpoint, not for the next one beside it."""
    place, resize = disk
    main(FIT.format(root=root, out=tmp_path / "whole").split())
    last = torch.load(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)
    size = (tmp_path / "whole" / "checkpoints" / "last.ckpt").stat().st_size // 1024
    resize(size * 3 // 2)
    with pytest.raises(OSError, match=r"free, .* needed\); delete files there") as full:
        main(FIT.format(root=root, out=place / "run").split())
    kept = place / "run" / "checkpoints" / "last.ckpt"
    assert full.value.filename == str(kept) and torch.load(kept, weights_only=True)["global_step"] == 1 < last["global_step"]
    resize(size * 4)
    main(FIT.format(root=root, out=place / "run").split())
    found = torch.load(kept, weights_only=True)
    assert found["global_step"] == last["global_step"]
    assert all(torch.equal(found["state_dict"][key], value) for key, value in last["state_dict"].items())
