"""What prefrep does on a GPU, in one command without a network: first whether it is right, then how fast it is.

Each part is a benchmark of this folder in a process of its own, so that an error of the device in one does not end the others. The model
is a random one of Llama 3.2 1B's shape; kernels are compared on four of its layers. What failed or took too long is listed at the end,
with its last lines. Results are `results/*-gpu.json`, and one table of goals and figures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks import report
from benchmarks.common import QUICK_RESULTS, RESULTS, ROOT, aligned
from benchmarks.models import LLAMA_1B

LONG = 600  # seconds for all parts
PARTS = {  # in the order of what one wants to know first; each with its largest share of the time
    "kernels": (120, ["--pairs", "4"]),
    "train_throughput": (180, ["--pairs", "16", "--rounds", "4"]),
    "utilisation": (120, ["--precision", "bf16", "--pairs", "16", "--rounds", "4", "--no-lora"]),
    "scoring": (60, ["--pairs", "1024", "--dtype", "bfloat16"]),
    "ranking": (120, ["--k", "2", "8", "64", "--prompt", "64", "512", "1024", "--budget", "1"]),
    "sampling": (90, ["--prompts", "32", "--length", "256", "--new", "128"]),
    "frozen_sweep": (60, []),
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    it.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    it.add_argument("--model", default=LLAMA_1B, help="bundled name, folder, or random:llama-1b")
    it.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    it.add_argument("--seconds", type=int, default=LONG, help="for all parts together; a part that does not fit is cut off")
    it.add_argument("--quick", action="store_true", help="smallest settings: shows that every part runs, figures mean nothing")
    return it


def main(args: list[str] | None = None) -> None:
    """Runs the parts, prints the table; exit code 1 if one failed."""
    options = parser().parse_args(args)
    began, rows, failed = time.monotonic(), list[list[str]](), dict[str, str]()
    for name in options.parts:
        left = options.seconds - (time.monotonic() - began)
        share, settings = PARTS[name]
        command = [sys.executable, "-m", f"benchmarks.{name}", "--device", options.device, "--label", "gpu", *settings]
        command += ["--quick"] if options.quick else [] if name == "kernels" else ["--model", options.model]
        print(f"== {name}", flush=True)
        start = time.monotonic()
        try:
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=min(share, left))
            said, state = done.stdout, "done" if done.returncode == 0 else f"failed, {done.returncode}"
        except subprocess.TimeoutExpired as late:
            said, state = (late.stdout or b"").decode(errors="replace"), "cut off"
        print(said, flush=True)
        rows.append([name, state, f"{time.monotonic() - start:.0f} s"])
        if state != "done":
            failed[name] = "\n".join(said.splitlines()[-8:])
    print(aligned([["part", "", ""], *rows]))
    for name, lines in failed.items():
        print(f"\n{name} did not finish; its last lines:\n{lines}")
    if len(failed) < len(options.parts):
        print("\n" + report.collect(QUICK_RESULTS if options.quick else RESULTS))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
