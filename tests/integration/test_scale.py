"""Several processes: the files of configs/scale give the curve, the resumed run and the exported folder of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from safetensors.torch import load_file

from prefrep.callbacks import Export
from prefrep.cli.main import main
from prefrep.errors import CheckpointError, ConfigError
from prefrep.modules import BradleyTerry
from prefrep.nn.heads import BTHead
from prefrep.nn.losses import LogisticLoss

ROOT = Path(__file__).parents[2]
SCALE = ROOT / "configs" / "scale"
# Nine: batches of four do not divide evenly, neither among themselves nor over two processes.
ROWS = [{"prompt": f"Say {i}", "chosen": f"{i} it is", "rejected": f"no {i * 7 % 5}, thanks", "id": f"r{i}"} for i in range(9)]
# Out of time, each process says where it is: waiting for another, or short of cores.
PROGRAM = """
import faulthandler, json, sys
faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)
from prefrep.cli.main import main
[main(run) for run in json.load(open(sys.argv[1]))]
"""
ONE = ["--trainer.devices", "1", "--trainer.strategy", "auto"]
TWO = ["--trainer.devices", "2"]
# name: file, what is changed in it, how far losses may be apart
RUNS: dict[str, tuple[str, list[str], float]] = {
    "ddp": ("ddp", ["--model.optimizer.lr", "3e-3"], 1e-5),
    # parameters outside the layers: a gate that reads the prompt, a temperature; and gradients that wait for a second batch
    "fsdp2": (
        "fsdp2",
        ["--model.head.skew", "GatedSkew", "--model.loss.learn_tau", "true", "--trainer.accumulate_grad_batches", "2"],
        1e-5,
    ),
    # a bf16 base, which rounds by the shapes of a batch
    "lora": ("fsdp2", ["--model.backbone.lora", "{rank: 2}", "--model.backbone.dtype", "bfloat16", "--model.optimizer.lr", "2e-3"], 1e-3),
    "sft": ("fsdp2", ["--model.sft", "0.5"], 1e-5),
    "mixed": ("fsdp2", ["--trainer.precision", "bf16-mixed", "--model.optimizer.lr", "1e-4"], 1e-1),
}


def arguments(name: str, folder: Path, data: Path, *more: str) -> list[str]:
    file, changes, _ = RUNS[name]
    return [
        "fit", "--config", str(SCALE / f"{file}.yaml"), "--model.backbone.path", "bundled:tiny-llama", "--model.optimizer.lr", "3e-3",
        "--data.train", str(data), "--data.val", str(data), "--data.batch_size", "4",
        "--trainer.default_root_dir", str(folder), "--trainer.accelerator", "cpu", "--trainer.precision", "32-true",
        "--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "2", *changes, *more,
    ]  # fmt: skip


def together(runs: list[list[str]], folder: Path, nodes: int = 1) -> None:
    """Runs the command line several times in two processes a node, started once: starting takes longer than training."""
    seconds = 400 * nodes
    plan = folder / "plan.json"
    plan.write_text(json.dumps(runs))
    program = folder / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    if nodes == 1:
        each = [["--standalone"]]
    else:  # torchrun on each node with its rank, here all on this machine
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            at = ["--nnodes", str(nodes), "--master_addr", "127.0.0.1", "--master_port", str(free.getsockname()[1])]
        each = [[*at, "--node_rank", str(rank)] for rank in range(nodes)]
    said = [(folder / f"node-{rank}").open("w+") for rank in range(nodes)]
    started = [
        subprocess.Popen([*command, *where, str(program), str(plan), str(seconds)], cwd=ROOT, env=environment, stdout=out, stderr=out)
        for where, out in zip(each, said, strict=True)
    ]
    try:
        codes = [node.wait(seconds + 60) for node in started]
    finally:
        for node in started:
            node.kill()
    for code, out in zip(codes, said, strict=True):
        out.seek(0)
        text = out.read()
        out.close()
        assert code == 0, text[-20000:]
        assert "tree mask" not in text, "trees are read as trees under sharding too"


def curve(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run in one process and in two; one of them goes on from its own checkpoint in the middle of an epoch, in two and in one."""
    folder = tmp_path_factory.mktemp("runs")
    kept = folder / "kept" / "epoch=1-step=4.ckpt"
    keep = ["--trainer.callbacks+=ModelCheckpoint", f"--trainer.callbacks.dirpath={kept.parent}"]
    keep += ["--trainer.callbacks.every_n_train_steps=1", "--trainer.callbacks.save_top_k=-1"]
    for name in RUNS:
        main(arguments(name, folder / name / "one", data, *ONE))
    two = [arguments(name, folder / name / "two", data, *TWO, *(keep if name == "lora" else [])) for name in RUNS]
    again = arguments("lora", folder / "lora" / "again", data, *TWO, "--ckpt_path", str(kept))
    together([*two, again], folder)
    main(arguments("lora", folder / "lora" / "again-alone", data, *ONE, "--ckpt_path", str(kept)))
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_the_curve_of_one(name: str, runs: Path) -> None:
    same_curve(curve(runs / name / "one"), curve(runs / name / "two"), RUNS[name][2])


def same_curve(one: list[dict[str, Any]], two: list[dict[str, Any]], error: float) -> None:
    losses = [line["train/loss"] for line in one if "train/loss" in line]
    assert len(losses) >= 4 and losses[-1] < losses[0], "something was learnt, so that gradients are compared too"
    for metric in ("train/loss", "val/loss", "train/probability", "train/grad_norm"):
        a, b = ([line[metric] for line in lines if metric in line] for lines in (one, two))
        assert len(a) >= 2 and a == pytest.approx(b, abs=error, rel=error), metric


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "lora", "sft"])
def test_two_processes_export_the_folder_of_one(name: str, runs: Path) -> None:
    # LoRA is merged into bfloat16, where the last bit of a weight near 1 is 0.008
    same_export(runs / name / "one" / "export", runs / name / "two" / "export", 1e-2 if name == "lora" else 1e-5)


def same_export(one: Path, two: Path, error: float) -> None:
    assert sorted(file.name for file in one.iterdir()) == sorted(file.name for file in two.iterdir())
    for file in ("model.safetensors", "head.safetensors"):
        a, b = load_file(one / file), load_file(two / file)
        assert a.keys() == b.keys() and all(a[key].dtype == b[key].dtype and a[key].shape == b[key].shape for key in a)
        assert all(torch.allclose(a[key].float(), b[key].float(), atol=1e-5, rtol=error) for key in a)
    about = [json.loads((folder / "prefrep.json").read_text()) for folder in (one, two)]
    for each in about:
        each["recipe"].pop("metrics")
        each["recipe"].pop("validation")  # the same numbers with their intervals
        each.pop("tau")
    assert about[0] == about[1]


@pytest.mark.parametrize("again", ["again", "again-alone"])
def test_a_sharded_run_goes_on(again: str, runs: Path) -> None:
    """From the middle of the second epoch, with the optimizer's states: in two processes, and in one."""
    whole = {line["step"]: line["train/loss"] for line in curve(runs / "lora" / "two") if "train/loss" in line}
    rest = {line["step"]: line["train/loss"] for line in curve(runs / "lora" / again) if "train/loss" in line}
    assert sorted(rest) == [5, 6] and sorted(whole) == [1, 2, 3, 4, 5, 6]
    assert list(rest.values()) == pytest.approx([whole[5], whole[6]], abs=1e-6)
    assert abs(whole[5] - whole[4]) > 1e-4, "steps differ by more than that"


def test_a_checkpoint_of_another_model_is_refused(data: Path, runs: Path, tmp_path: Path) -> None:
    kept = str(runs / "kept" / "epoch=1-step=4.ckpt")
    with pytest.raises(CheckpointError, match="does not belong to this model"):
        main(arguments("lora", tmp_path, data, *ONE, "--model.head.dim", "6", "--ckpt_path", kept, "--on-change", "continue"))


@pytest.mark.slow  # two nodes are four processes
def test_two_nodes_give_the_curve_and_the_folder_of_one_process(data: Path, tmp_path: Path) -> None:
    """Both files under torchrun with --nnodes 2; of FSDP2, parts of the model on all processes of both nodes."""
    nodes = ["--trainer.num_nodes", "2", *TWO]
    whole = {"ddp": [], "fsdp2": ["--trainer.strategy.data_parallel_size", "4"]}
    for name in whole:
        main(arguments(name, tmp_path / name / "one", data, *ONE))
    together([arguments(name, tmp_path / name / "two", data, *nodes, *more) for name, more in whole.items()], tmp_path, nodes=2)
    for name in whole:
        one, two = tmp_path / name / "one", tmp_path / name / "two"
        same_curve(curve(one), curve(two), RUNS[name][2])
        same_export(one / "export", two / "export", 1e-5)


def test_export_refuses_shards_before_training(tmp_path: Path) -> None:
    """The best weights stand in a checkpoint, which must be one file."""
    kept = [ModelCheckpoint(monitor="val/loss")]
    best: Any = SimpleNamespace(
        strategy=ModelParallelStrategy(), checkpoint_callbacks=kept, default_root_dir=str(tmp_path), is_global_zero=False
    )
    backbone = SimpleNamespace(path="bundled:tiny-llama", settings={"quantize": "none"})
    module: Any = Mock(spec=BradleyTerry, backbone=backbone, head=BTHead(8), loss=LogisticLoss())
    with pytest.raises(ConfigError, match=r"Export\.which: last"):
        Export().on_fit_start(best, module)
    Export(which="last").on_fit_start(best, module)
    best.strategy = ModelParallelStrategy(save_distributed_checkpoint=False)
    Export().on_fit_start(best, module)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="would be lost"):  # nor what it would replace
        Export().on_fit_start(best, module)
