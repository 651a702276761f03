"""Peak memory of a training step, compared with TRL, and of scoring short and long files.

Every case runs in a separate process, which reports its peak resident memory (`ru_maxrss`): libraries, weights, gradients, AdamW's state,
activations. `above the start` excludes the memory before the step: libraries and weights.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.common import QUICK_RESULTS, ROOT, Report, arguments
from benchmarks.models import SMOLLM2, TINY, write_model

COUNTS = (1_000, 10_000, 100_000)
PER_PROMPT = 4
GROWTH = 1.1  # "constant": allowed ratio of the longest to the shortest file


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    it = arguments(__doc__)
    it.add_argument("--model", default=SMOLLM2, help="for training: bundled name or folder")
    it.add_argument("--data", help="preference pairs; default: generated with the lengths of HH")
    it.add_argument("--precision", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"])
    it.add_argument("--pairs", type=int, default=8, help="pairs per batch")
    it.add_argument("--variants", nargs="+", default=["padded", "trees", "TRL", "official manner"])
    it.add_argument("--responses", type=int, nargs="+", default=list(COUNTS), help="numbers of responses in the scored files")
    it.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return it


def main(args: list[str] | None = None) -> None:
    """Run the benchmark, print and save its results."""
    options = parser().parse_args(args)
    if options.quick:
        options.model, options.pairs, options.responses, options.precision = TINY, 2, [8, 40], ["fp32"]
    if options.child:
        kind, *rest = options.child
        print(json.dumps(train(options, *rest) if kind == "train" else score(*rest)))
        return
    report = Report("memory", options)
    if "TRL" in options.variants and find_spec("trl") is None:
        report.note("TRL is not installed (benchmarks/run installs it), so it is not compared")
        options.variants.remove("TRL")
    for precision in options.precision:
        found = {name: child(options, "train", name, precision) for name in options.variants}
        base = found.get("TRL", found[options.variants[0]])
        rows = [
            [
                name,
                it["peak"] / base["peak"],
                (it["peak"] - it["start"]) / (base["peak"] - base["start"] or 1),
                it["peak"],
                it["peak"] - it["start"],
            ]
            for name, it in found.items()
        ]
        against = "TRL" if "TRL" in found else options.variants[0]
        report.table(
            f"{precision}: one step on {options.pairs} pairs, the largest of 3 batches",
            ["", f"peak / {against}", f"above the start / {against}", "peak MiB", "above the start MiB"],
            rows,
        )
        ours = min((found[name]["peak"] for name in found if name.startswith("trees")), default=None)
        figure = ours / base["peak"] if ours is not None and "TRL" in found else None
        report.goal(f"memory of a training step, {precision}: trees / TRL", figure, 0.5, at_least=False)
        report.raw[precision] = found
    peaks = {}
    for count in options.responses:
        peaks[count] = child(options, "score", str(count))
    first = peaks[options.responses[0]]["peak"]
    report.table(
        f"bin/score, {PER_PROMPT} responses a prompt, tiny model",
        ["responses", "peak / first", "peak MiB", "s"],
        [[f"{count}", it["peak"] / first, it["peak"], it["seconds"]] for count, it in peaks.items()],
    )
    report.goal(
        f"memory of scoring: {options.responses[-1]} responses / {options.responses[0]}",
        peaks[options.responses[-1]]["peak"] / first,
        GROWTH,
        at_least=False,
    )
    report.raw["scoring"] = {str(count): it for count, it in peaks.items()}
    report.save()


def child(options: argparse.Namespace, *case: str) -> dict[str, float]:
    """Run one case in a separate process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.memory",
        "--model",
        options.model,
        "--pairs",
        str(options.pairs),
        *(["--quick"] if options.quick else []),
    ]
    command += ["--data", str(Path(options.data).absolute())] if options.data else []
    done = subprocess.run([*command, "--child", *case], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"memory: {' '.join(case)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def mebibytes() -> float:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def train(options: argparse.Namespace, name: str, precision: str) -> dict[str, Any]:
    """Run two steps on the largest of three batches by padded tokens; AdamW's state exists from the start of the second."""
    from benchmarks import pairs
    from benchmarks.models import tokenizer_of
    from benchmarks.training import stepper

    tokenizer = tokenizer_of(options.model)
    count = 3 * options.pairs
    data = (
        pairs.from_file(options.data, tokenizer, count)
        if options.data
        else pairs.generated(tokenizer, count, True, 0.2 if options.quick else 1)
    )
    batch = max((data[i : i + options.pairs] for i in range(0, count, options.pairs)), key=pairs.padded)
    made = stepper(name, options.model, tokenizer, precision, "cpu")
    start = mebibytes()
    for _ in range(2):
        made.step(batch)
    return {"start": start, "peak": mebibytes(), "distinct": pairs.distinct(batch), "padded": pairs.padded(batch)}


def score(count: str) -> dict[str, float]:
    """Score a file with a number of responses like `bin/score`."""
    import random
    import time

    from prefrep.cli.main import main as prefrep

    folder = QUICK_RESULTS / "memory"
    folder.mkdir(parents=True, exist_ok=True)
    write_model(TINY, folder / "model")
    draw = random.Random(0)

    def text(words: int) -> str:
        return " ".join(draw.choice(("the", "red", "ring", "or", "blue", "one")) for _ in range(words))

    source, out = folder / f"{count}.jsonl", folder / f"{count}.scores.jsonl"
    with source.open("w") as file:
        for _ in range(max(int(count) // PER_PROMPT, 1)):
            row = {"prompt": text(8), "responses": [text(draw.randint(2, 12)) for _ in range(PER_PROMPT)]}
            file.write(json.dumps(row) + "\n")
    out.unlink(missing_ok=True)
    start = time.perf_counter()
    arguments: Sequence[str] = ["--model", str(folder / "model"), "--data", str(source), "--out", str(out), "--device", "cpu"]
    prefrep(["score", *arguments])
    seconds = time.perf_counter() - start
    lines = sum(1 for _ in out.open())
    assert lines == max(int(count) // PER_PROMPT, 1), f"{lines} lines were written"
    out.unlink()
    source.unlink()
    return {"peak": mebibytes(), "seconds": seconds}


if __name__ == "__main__":
    main()
