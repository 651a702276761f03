"""What prefrep does on a GPU, in one command without a network: first whether it is right, then how fast it is.

Each part is a benchmark of this folder in a process of its own, so that an error of the device in one does not end the others. The model
is a random one of Llama 3.2 1B's shape; kernels are compared on four of its layers. One GPU is used, the first that is visible; 80 GB
suffice. A part has its share of the time and what those before it left of theirs; one that is cut off leaves the tables it has. What failed
or took too long is listed at the end, with its last lines. Results are `*-gpu.json`, and one table of goals and figures.

Never run so far: any of this on a GPU. All parts ran on a CPU with `--quick --device cpu`, which has no gradients of
FlexAttention. The shares and the memory are estimates.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping

from benchmarks import report
from benchmarks.common import QUICK_RESULTS, RESULTS, ROOT, aligned
from benchmarks.models import LLAMA_1B, place

LONG = 600  # seconds for all parts
FLEX = ["trees, FlexAttention", "trees, FlexAttention, compiled"]
PARTS = {  # in the order of what one wants to know first; each with its share of LONG
    "kernels": (130, ["--pairs", "4"]),
    # Activations of 12 padded pairs of the 1B model take about 40 GB, weights, gradients and moments 20.
    "train_throughput": (200, ["--pairs", "12", "--rounds", "4", "--variants", "padded", "trees", "trees, compiled", *FLEX]),
    "utilisation": (65, ["--precision", "bf16", "--pairs", "16", "--rounds", "4", "--no-lora", "--variants", "trees, compiled", *FLEX]),
    "scoring": (55, ["--pairs", "256", "--dtype", "bfloat16"]),
    "ranking": (55, ["--k", "2", "8", "64", "--prompt", "64", "512", "1024", "--budget", "0.5"]),
    "sampling": (65, ["--prompts", "32", "--length", "256", "--new", "128", "--rounds", "2"]),
    "frozen_sweep": (30, ["--rounds", "2"]),
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
    scale = options.seconds / sum(PARTS[name][0] for name in options.parts)
    shares = ", ".join(f"{name} {PARTS[name][0] * scale:.0f} s" for name in options.parts)
    model = "tiny models" if options.quick else options.model
    print(f"{len(options.parts)} parts on {options.device} with {model}, at most {options.seconds} s: {shares}", flush=True)
    if not options.quick:
        place(options.model)  # a random model is made once, a matter of the disk
        print(f"the model is there after {time.monotonic() - began:.0f} s, which all parts give", flush=True)
    folder, files = QUICK_RESULTS if options.quick else RESULTS, "*-gpu.json"
    for old in folder.glob(files):
        old.unlink()  # what fails at once would leave the figures of an earlier run
    until = time.monotonic()
    scale *= 1 - (until - began) / options.seconds
    for name in options.parts:
        share, settings = PARTS[name]
        until += share * scale  # what is left of earlier shares included
        command = [sys.executable, "-m", f"benchmarks.{name}", "--device", options.device, "--label", "gpu", *settings]
        command += ["--quick"] if options.quick else [] if name == "kernels" else ["--model", options.model]
        start = time.monotonic()
        print(f"== {name}, at most {max(until - start, 0):.0f} s", flush=True)
        said, state = run(command, until - start)
        print(said, flush=True)
        rows.append([name, state, f"{time.monotonic() - start:.0f} s"])
        if state != "done":
            failed[name] = "\n".join(said.splitlines()[-8:])
    print(aligned([["part", "", ""], *rows]))
    for name, lines in failed.items():
        print(f"\n{name} did not finish; its last lines:\n{lines}")
    if any(folder.glob(files)):
        print("\n" + report.collect(folder, files))
    print(f"JSON files: {folder / files}")
    sys.exit(1 if failed else 0)


def run(command: list[str], seconds: float) -> tuple[str, str]:
    """Run a command for so long at most; return what it printed, and `done`, `failed, CODE` or `cut off`."""
    with tempfile.TemporaryFile() as out:  # a pipe would stay open while the compiler's processes live
        process = subprocess.Popen(
            command, cwd=ROOT, env=surroundings(os.environ), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(max(seconds, 0))
            state = "done" if code == 0 else f"failed, {code}"
        except subprocess.TimeoutExpired:
            state = "cut off"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the compiler's processes
                process.wait()
        out.seek(0)
        return out.read().decode(errors="replace"), state


def surroundings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a part: without the hub, and with one GPU, since TRL's trainer refuses several."""
    first = environment.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return {**environment, "CUDA_VISIBLE_DEVICES": first, "HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a part that runs is ended with this process
    main()
