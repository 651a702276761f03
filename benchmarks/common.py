"""Shared parts of benchmarks: interleaved timing, tables with ratios first, goals with figures, JSON results.

Times are in seconds, and medians unless stated otherwise.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from prefrep.disk import replace_text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# Figures of --quick are meaningless, so they are written outside the repository's results.
QUICK_RESULTS = Path(os.environ.get("PREFREP_BENCHMARKS") or ROOT / "runs" / "benchmarks")
PACKAGES = ("prefrep", "torch", "transformers", "lightning", "peft", "trl")


@dataclass
class Goal:
    """A goal and its figure.

    Args:
        what: The goal in words.
        figure: The measured value; None: not measured, which does not count as met.
        target: The value to reach.
        at_least: Whether higher is better.
        unit: Unit of both numbers.
    """

    what: str
    figure: float | None
    target: float
    at_least: bool = True
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure reaches the target."""
        return self.figure is not None and (self.figure >= self.target if self.at_least else self.figure <= self.target)

    @property
    def cells(self) -> list[str]:
        """Return goal, target, figure and verdict as cells of a table."""
        if self.figure is None:
            return [self.what, f"{'≥' if self.at_least else '≤'} {number(self.target)}{self.unit}", "", "not measured"]
        verdict = "met" if self.met else f"missed by {abs(self.figure / self.target - 1):.0%}"
        return [
            self.what,
            f"{'≥' if self.at_least else '≤'} {number(self.target)}{self.unit}",
            f"{number(self.figure)}{self.unit}",
            verdict,
        ]


@dataclass
class Report:
    """Results of a benchmark: printed at once and written as JSON, marked as incomplete until `save`.

    What is cut off thus leaves the tables it has. Nothing is written before the first one, so a benchmark that fails at once leaves
    older results alone; from then on they are replaced.

    Args:
        name: Name of the benchmark and of its JSON file.
        options: Its command line.
    """

    name: str
    options: argparse.Namespace
    tables: list[dict[str, Any]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        from prefrep.console import quiet

        quiet()
        self.machine = about = machine(getattr(self.options, "device", "cpu"))
        print(f"{self.name}: {about['device']}, {about['threads']} threads, load {about['load']:.1f} at the start")
        print(", ".join(f"{name} {number}" for name, number in about["versions"].items()), flush=True)

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print and record a table: names in the first column, then ratios, then absolute figures."""
        cells = [[cell if isinstance(cell, str) else "" if cell is None else number(cell) for cell in row] for row in rows]
        self.tables.append({"title": title, "head": list(head), "rows": cells})
        print(f"\n{title}\n{aligned([list(head), *cells])}", flush=True)
        self._write(complete=False)

    def goal(self, what: str, figure: float | None, target: float, at_least: bool = True, unit: str = "") -> None:
        """Record a goal with its figure."""
        self.goals.append(Goal(what, figure, target, at_least, unit))
        self._write(complete=False)

    def note(self, text: str) -> None:
        """Print and record a note."""
        self.notes.append(text)
        print(f"note: {text}", flush=True)
        self._write(complete=False)

    def save(self) -> None:
        """Print the goals and write the JSON file as complete."""
        if self.options.quick:
            self.note("--quick: the figures are meaningless")
        if self.goals:
            print("\n" + aligned([["goal", "target", "figure", ""], *(goal.cells for goal in self.goals)]))
        print(f"\n{os.path.relpath(self._write(complete=True), ROOT)}", flush=True)

    def _write(self, complete: bool) -> Path:
        """Write the JSON file and return its path; --quick writes to another folder, so that it never replaces a real result."""
        folder = QUICK_RESULTS if self.options.quick else RESULTS
        label = getattr(self.options, "label", None)
        path = folder / f"{self.name}{f'-{label}' if label else ''}.json"
        if not complete and not self.tables:
            return path
        result = {
            "benchmark": self.name,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "quick": self.options.quick,
            "complete": complete,
            "options": {name: value for name, value in vars(self.options).items() if name != "data"}
            | {"data": Path(data).name if (data := getattr(self.options, "data", None)) else None},
            "machine": self.machine,
            "goals": [asdict(goal) | {"met": goal.met} for goal in self.goals],
            "tables": self.tables,
            "notes": self.notes,
            "raw": self.raw,
        }
        replace_text(path, json.dumps(result, indent=1) + "\n")
        return path


def number(value: float) -> str:
    """Format a number with three significant digits, without an exponent for ordinary sizes."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 or abs(value) >= 1e7 else f"{value:.0f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text, the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


# ---- timing


def interleave(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Time variants in turn, so that temporary load on the machine slows all of them.

    Args:
        variants: Each runs once and returns its seconds (see `timed`). They are warmed up.
        rounds: Number of runs of each. The order is reversed every other round.

    Returns:
        Seconds of every run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(rounds):
        for name in list(variants)[:: -1 if turn % 2 else 1]:
            gc.collect()
            seconds[name].append(variants[name]())
    return seconds


def timed(work: Callable[[], Any]) -> Callable[[], float]:
    """Return a function that runs the work and returns its wall time in seconds, including pending work on CUDA."""

    def run() -> float:
        synchronize()
        start = time.perf_counter()
        work()
        synchronize()
        return time.perf_counter() - start

    return run


def synchronize() -> None:
    """Wait for the accelerator, if one is in use."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def release() -> None:
    """Give back what nothing refers to any more, also what CUDA's allocator keeps of it."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Return the median over rounds of slow / fast, paired by round, since rounds can differ in their data."""
    return median(a / b for a, b in zip(slow, fast, strict=True))


# ---- the machine


def machine(device: str) -> dict[str, Any]:
    """Return hardware, versions and load of the machine, without its name.

    Args:
        device: Device under test: `cpu` or `cuda`.
    """
    import torch

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    try:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    except OSError:  # no git
        commit = ""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": os.getloadavg()[0],
        "versions": versions,
        "commit": commit,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    lines = info.read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    extensions = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{name} ({', '.join(extensions)})" if extensions else name


# ---- command lines


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Add the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="smallest settings on bundled:tiny-llama: a smoke test with meaningless figures"
    )
    parser.add_argument("--label", help="suffix of the JSON file's name, for a second machine or model")
    return parser
