"""Every program that writes refuses an output that another process is writing, and says who that is."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from exports import exported

from prefrep.cli.main import main
from prefrep.locks import writing

FILES = {
    "score": "scores.jsonl",
    "inspect": "numbers.json",
    "report": "page.html",
    "sweep's report": "report.md",
}  # the others write folders
PROGRAMS = {
    "fit": "fit --config tiny/gpm --data.train {pairs} --data.val {pairs} --trainer.default_root_dir {out}",
    "fit, post-training": "fit --config tiny/gpo --data.train {pairs} --data.val {pairs} --trainer.default_root_dir {out}",
    "predict": "predict --config tiny/gpm --data.predict {pairs} --trainer.default_root_dir {out} --ckpt_path none.ckpt",
    "score": "score --model {model} --data {pairs} --out {out}",
    "pairs": "eval pairs --model {model} --data {pairs} --out {out}",
    "intransitivity": "eval intransitivity --model {model} --data {ranked} --out {out}",
    "rewardbench": "eval rewardbench --model {model} --data {pairs} --out {out}",
    "rewardbench, saved scores": "eval rewardbench --scores {pairs} --out {out}",
    "bestofn": "eval bestofn --model {model} --data {ranked} --out {out}",
    "all": "eval all --model {model} --data {root} --out {out}",
    "winrate": "eval winrate --model {answers} --against {answers} --judge {model} --out {out}",
    "generate": "eval generate --model bundled:tiny-llama --benchmark alpaca_eval --data {answers} --out {out}",
    "export": "export --model {model} --to official --out {out}",
    "import": "export --model {model} --from seqcls --out {out}",
    "inspect": "inspect {pairs} --json {out}",
    "report": "report {root}/run --out {out}",
    "cyclic": "cyclic bundled:ultrafeedback-mini --out {out}",
    "quickstart": "quickstart --model bundled:tiny-llama --out {out}",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, data of each kind, and a finished run."""
    root = tmp_path_factory.mktemp("places")
    found = {"root": root, "model": exported(root / "model"), "answers": root / "answers.json"}
    pair = {"id": "r", "subset": "hep-go", "prompt": "Why?", "chosen": "Because.", "rejected": "No."}
    ranked = {"id": "r", "prompt": "Why?", "responses": ["Because.", "No.", "So."]}
    for name, row in (("pairs", pair), ("ranked", ranked)):
        found[name] = root / f"{name}.jsonl"
        found[name].write_text(json.dumps(row) + "\n")
    found["answers"].write_text(json.dumps([{"instruction": "Why?", "output": "Because.", "generator": "me"}]))
    (root / "run").mkdir()
    (root / "run" / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n')
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_second_writer_is_refused(name: str, places: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out" / FILES.get(name, "folder")
    with writing(out, folder=name not in FILES and name not in ("export", "import")), pytest.raises(BlockingIOError) as refused:
        main(PROGRAMS[name].format(out=out, **places).split())
    said = refused.value.strerror or ""
    assert refused.value.filename == str(out) and said.startswith(f"process {os.getpid()} on {socket.gethostname()} (since ")
    assert said.endswith(" is writing there; wait for it, stop it, or name another place")
    assert [file.name for file in out.parent.rglob("*")] == ([out.name] if out.exists() else []), "nothing was written"
