"""The results of all benchmarks as one Markdown table: goal, figure, met or missed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import QUICK_RESULTS, RESULTS, Goal

ORDER = (
    "train_throughput",
    "utilisation",
    "scoring",
    "ranking",
    "readers",
    "frozen_sweep",
    "memory",
    "start",
    "serve",
    "steps",
    "kernels",
    "sampling",
    "rounds",
    "quickstart",
    "growth",
    "cyclic",
)


def main(args: list[str] | None = None) -> None:
    """Print the table of `benchmarks/results` and write it there as `table.md`; with --quick, that of quick runs."""
    folder = QUICK_RESULTS if "--quick" in (sys.argv[1:] if args is None else args) else RESULTS
    text = collect(folder)
    (folder / "table.md").write_text(text)
    print(text)


def collect(folder: Path, names: str = "*.json") -> str:
    """Return the table of a folder of results.

    Args:
        folder: The folder.
        names: Which files of it, as a glob pattern.

    Raises:
        SystemExit: There are none.
    """
    results = [json.loads(path.read_text()) for path in folder.glob(names)]
    if not results:
        raise SystemExit(f"{folder}: no results; run benchmarks/run all")
    results.sort(
        key=lambda it: (ORDER.index(it["benchmark"]) if it["benchmark"] in ORDER else len(ORDER), it["options"].get("label") or "")
    )
    lines = ["| goal | target | figure | |", "| --- | --- | --- | --- |"]
    for machine in dict.fromkeys(about(it) for it in results):
        lines.append(f"| **{machine}** | | | |")
        for it in (it for it in results if about(it) == machine):
            if not it.get("complete", True):
                lines.append(f"| {it['benchmark']} (not finished; tables in its JSON: {len(it['tables'])}) | | | |")
            lines += [
                "| " + " | ".join(Goal(**{name: value for name, value in goal.items() if name != "met"}).cells) + " |"
                for goal in it["goals"]
            ]
    return "\n".join(lines) + "\n"


def about(result: dict[str, Any]) -> str:
    """Return machine and version of a result."""
    it = result["machine"]
    model = result["options"].get("model")
    return f"{it['device']}, {it['threads']} threads, torch {it['versions']['torch']}, commit {it['commit']}" + (
        f", {model}" if model else ""
    )


if __name__ == "__main__":
    main()
