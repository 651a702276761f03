"""What a person sees while a model trains: one line of 80 columns, and nothing that is not their business."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from tqdm import tqdm

from prefrep.training.progress import LINE, ProgressLine

LOGGED = {
    "train/loss": 0.6934567,
    "train/accuracy": 0.5123,
    "val/loss": 0.71,
    "val/accuracy": 0.25,
    "train/tokens_per_s": 12345.6,
    "lr": 1e-3,
}


def test_the_line_has_what_matters_in_80_columns() -> None:
    shown = ProgressLine().get_metrics(cast(Any, SimpleNamespace(callback_metrics=LOGGED)), cast(Any, None))
    assert shown == {"loss": "0.693", "acc": "0.51", "tok/s": "12346", "val": "0.710/0.25"}
    postfix = ", ".join(f"{name}={value}" for name, value in shown.items())
    line = tqdm.format_meter(n=50, total=200, elapsed=400, ncols=80, prefix="epoch 1/3: ", bar_format=LINE, postfix=postfix)
    assert line == "epoch 1/3: 50/200 left 20:00, loss=0.693, acc=0.51, tok/s=12346, val=0.710/0.25"


def test_a_run_reports_what_the_user_asked_for(tmp_path: Path) -> None:
    for name in ("train", "val"):
        rows = [{"prompt": f"{name} {i}", "chosen": "yes it is", "rejected": "no"} for i in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "prefrep", "fit", "--config", "tiny/gpm", "--data.train", "train.jsonl", "--data.val", "val.jsonl"]
    command += ["--data.cache", "cache"]  # an earlier run of this test has filled the user's
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}, check=False)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.strip()]
    assert said == [
        "train: 8 records, none truncated or dropped",
        "train: template auto: 16 by the chat template",
        "val: 8 records, none truncated or dropped",
        "val: template auto: 16 by the chat template",
        "`Trainer.fit` stopped: `max_epochs=1` reached.",
        "exported the best weights to runs/tiny-gpm/export",
    ]
    lines = [line.rstrip() for line in done.stdout.replace("\x1b[A", "").replace("\r", "\n").splitlines()]
    assert max(map(len, lines)) <= 80 and any(line.startswith("epoch 1/1: 4/4 left 00:00, loss=") for line in lines)
