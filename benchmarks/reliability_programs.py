"""Whether `score`, `eval` and `sweep`, killed or terminated at random times and resumed, end with the bytes of an uninterrupted run.

Each program is forked from this process, so that imports take no time. A signal is sent at a uniform fraction of the time that an
uninterrupted run takes; the same command then runs to its end.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.common import QUICK_RESULTS, ROOT, Report, arguments

LIMIT = 600.0  # time limit of a process, seconds
ROWS = 600
FILES = ("scores.jsonl", "export/head.safetensors")
POINTS = [f"points/dim=4-frozen={frozen}-seed=0/{file}" for frozen in ("true", "false") for file in FILES]
OUTPUTS = {
    "score": ["scores.jsonl"], "pairs": ["scores.jsonl"], "winrate": ["scores.jsonl"], "intransitivity": ["tables.jsonl"],
    "rewardbench": ["scores.jsonl"], "generate": ["answers.jsonl", "model_outputs.json"], "sweep": POINTS,
}  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def prepare(root: Path) -> None:
    """Write a random model of two layers, pairs, ranked responses, two answer files and a sweep."""
    from prefrep.data.encode import EncodeConfig
    from prefrep.io.folder import save
    from prefrep.nn.backbone import Backbone
    from prefrep.nn.heads import GPMHead
    from prefrep.nn.loading import load_tokenizer

    root.mkdir(parents=True, exist_ok=True)
    backbone, tokenizer = Backbone("bundled:tiny-llama").eval(), load_tokenizer("bundled:tiny-llama")
    save(root / "export", backbone, GPMHead(backbone.hidden_size, dim=4), 0.1, EncodeConfig(), tokenizer, {})
    pairs = [{"id": f"r{i}", "prompt": f"Q{i}?", "chosen": "word " * (i % 5 + 1), "rejected": f"No {i}."} for i in range(ROWS)]
    ranked = [{"id": row["id"], "prompt": row["prompt"], "responses": [row["chosen"], row["rejected"], "Yes."]} for row in pairs]
    subsets = [row | {"subset": ("llmbar-natural", "hep-go")[i % 2]} for i, row in enumerate(pairs)]
    for name, rows in (("pairs", pairs), ("ranked", ranked), ("subsets", subsets), ("train", pairs[:24]), ("val", pairs[24:36])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for side, field in (("a", "chosen"), ("b", "rejected")):
        answers = [{"instruction": row["prompt"], "output": row[field], "generator": side} for row in pairs]
        (root / f"{side}.json").write_text(json.dumps(answers))
    grid = {"model.head.dim": [4], "model.backbone.frozen": [True, False]}  # trained in this process, and in one of its own
    settings = {"model.backbone.lora": None, "trainer.accelerator": "cpu", "trainer.max_epochs": 4}
    (root / "sweep.yaml").write_text(json.dumps({"base": str(ROOT / "configs" / "tiny" / "gpm.yaml"), "set": settings, "grid": grid}))


def command(root: Path, name: str, out: Path) -> list[str]:
    """Return the arguments of a program that writes into a folder."""
    model = ["--model", str(root / "export")]
    return {
        "score": ["score", *model, "--data", str(root / "pairs.jsonl"), "--out", str(out / "scores.jsonl")],
        "pairs": ["eval", "pairs", *model, "--data", str(root / "pairs.jsonl"), "--out", str(out), "--bootstrap", "20"],
        "intransitivity": ["eval", "intransitivity", *model, "--data", str(root / "ranked.jsonl"), "--out", str(out), "--bootstrap", "20",
                           "--null", "2"],
        "winrate": ["eval", "winrate", "--model", str(root / "a.json"), "--against", str(root / "b.json"), "--judge",
                    str(root / "export"), "--out", str(out), "--bootstrap", "20"],
        "rewardbench": ["eval", "rewardbench", *model, "--data", str(root / "subsets.jsonl"), "--out", str(out), "--bootstrap", "20"],
        "generate": ["eval", "generate", "--model", "bundled:tiny-llama", "--benchmark", "alpaca_eval", "--data", str(root / "a.json"),
                     "--out", str(out), "--max-new-tokens", "6"],
        "sweep": ["sweep", "--config", str(root / "sweep.yaml"), "--out", str(out), "--set", f"data.train={root / 'train.jsonl'}",
                  "--set", f"data.val={root / 'val.jsonl'}", "--set", f"data.cache={out / 'cache'}"],
    }[name]  # fmt: skip


def run(args: list[str], log: Path, number: int = 0, after: float = 0.0) -> int:
    """Run a program in a separate process, and send it a signal after some seconds; 0: none.

    Returns:
        Exit code, negative if a signal ended the process.
    """

    def child() -> None:
        sys.stdout = sys.stderr = log.open("a", buffering=1)
        from prefrep.cli import friendly
        from prefrep.cli.main import main as prefrep

        friendly.run(lambda: prefrep(args))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    if number:
        process.join(after)
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, number)
    process.join(LIMIT)
    if process.is_alive():
        process.kill()
        raise SystemExit(f"{args}: not finished after {LIMIT:.0f} s")
    return int(process.exitcode or 0)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--kills", type=int, default=40, help="number of interruptions, over all programs in turn")
    it.add_argument("--minutes", type=float, default=float("inf"), help="minutes after which no trial starts")
    it.add_argument("--seed", type=int, default=0, help="seed of times and signals")
    return it


def main(args: list[str] | None = None) -> None:
    """Interrupt programs, compare outputs, print and save the results."""
    options = parser().parse_args(args)
    options.kills = 2 if options.quick else options.kills
    import prefrep.programs.eval
    import prefrep.scoring.scorer
    import prefrep.sweeps.points  # noqa: F401  forked processes share what is imported

    report, random = Report("reliability_programs", options), np.random.default_rng(options.seed)
    root = QUICK_RESULTS / "reliability-programs"
    shutil.rmtree(root, ignore_errors=True)
    prepare(root)
    start, seconds, table = time.monotonic(), dict[str, float](), dict[tuple[str, str], list[int]]()
    interrupted = turn = 0
    while interrupted < options.kills and time.monotonic() - start < 60 * options.minutes:
        name, number = list(OUTPUTS)[turn % len(OUTPUTS)], SIGNALS[turn // len(OUTPUTS) % len(SIGNALS)]
        if name not in seconds:
            begin = time.monotonic()
            if run(command(root, name, root / f"{name}-whole"), root / "log"):
                raise SystemExit(f"the uninterrupted run failed:\n{(root / 'log').read_text()[-2000:]}")
            seconds[name] = time.monotonic() - begin
        out = root / f"trial-{turn}"
        code = run(command(root, name, out), root / "log", number, float(random.uniform(0, seconds[name])))
        again = run(command(root, name, out), root / "log")
        differs = again != 0 or any((root / f"{name}-whole" / file).read_bytes() != (out / file).read_bytes() for file in OUTPUTS[name])
        sums = table.setdefault((name, number.name), [0, 0, 0, 0])
        in_words = code in (0, -number, 128 + number)  # by its handler, or before it began
        table[name, number.name] = [a + b for a, b in zip(sums, (1, code != 0, not in_words, differs), strict=True)]
        interrupted, turn = interrupted + (code != 0), turn + 1
        if differs or not in_words:
            report.note(f"trial {turn - 1}, {name}, {number.name}: code {code}, then {again}")
    rows = [[f"{name}, {number}", *sums] for (name, number), sums in sorted(table.items())]
    report.table("interrupted programs", ["", "runs", "interruptions", "other exit codes", "runs that differ"], rows)
    report.note(f"{turn} runs, {interrupted} interruptions, {time.monotonic() - start:.0f} s")
    report.goal("reliability: interrupted programs that end differently", float(sum(sums[3] for sums in table.values())), 0, at_least=False)
    report.save()


if __name__ == "__main__":
    main()
