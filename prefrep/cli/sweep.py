"""`bin/sweep`: trains and scores every point of a grid, and says which differences between them are real."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from prefrep.cli import friendly
from prefrep.cli.options import positive
from prefrep.errors import DataError

if TYPE_CHECKING:
    from prefrep.sweeps.study import Progress, Study


def parser() -> argparse.ArgumentParser:
    """The command line."""
    it = argparse.ArgumentParser(
        prog="sweep",
        description=__doc__,
        epilog="Start it again to go on with an interrupted sweep; start it a second time on the same folder, here or on another machine "
        "that sees the folder, to share the work.",
    )
    it.add_argument("--config", type=Path, metavar="FILE", help="what to run: configs/sweep/*.yaml")
    it.add_argument("--out", type=Path, metavar="DIR", help="where everything goes; a sweep that was begun there is carried on")
    it.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value for all points: --set data.train=FILE")
    it.add_argument("--workers", type=positive, default=1, metavar="N", help="processes that take points (default: 1)")
    it.add_argument("--storage", metavar="URL", help="a database of Optuna's instead of a journal in DIR: sqlite:///, postgresql://, ...")
    it.add_argument("--retry", action="store_true", help="take up the points again that failed")
    it.add_argument("--report-only", type=Path, metavar="DIR", help="write table, report and plots of what a sweep has finished by now")
    it.add_argument("--joins", action="store_true", help=argparse.SUPPRESS)  # how --workers starts the others
    return it


def main(args: list[str] | None = None) -> int:
    """Runs a sweep, or its share of one.

    Args:
        args: Arguments without the program's name; None: those of the process.

    Returns:
        Exit code: 0 when all points are done, 1 when some failed.

    Raises:
        PrefrepError: The sweep cannot be begun.
    """
    it = parser()
    options = it.parse_args(args)
    if options.report_only:
        return _report_only(options.report_only)
    if not options.config or not options.out:
        it.error("a sweep needs --config FILE and --out DIR; --report-only DIR needs neither")
    return _sweep(options)


def _sweep(options: argparse.Namespace) -> int:
    from prefrep.sweeps.spec import parse_setting, read_sweep

    sweep = read_sweep(options.config, dict(parse_setting(text) for text in options.set))
    if options.workers > 1:  # before anything counts the cores for itself
        os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // options.workers, 1)))
    from prefrep.cli.sweep_points import prepare

    prepared = prepare(sweep.points, options.out)
    from prefrep.sweeps.study import Study
    from prefrep.sweeps.worker import work

    study = Study(options.out, options.storage)
    study.enlist({each.point.name: each.about for each in prepared}, options.retry)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite end gives the point back
    others = [_join(options) for _ in range(options.workers - 1)]
    try:
        with _Display(study, len(prepared), silent=options.joins) as display:
            work(study, {each.point.name: (each.point, each.engine) for each in prepared}, sweep.keep_models, display)
    except BaseException:
        for other in others:
            other.terminate()
        raise
    finally:
        for other in others:
            other.wait()
        signal.signal(signal.SIGTERM, before)
    failed = study.reasons()
    if options.joins:
        return 1 if failed else 0
    _write(options.out)
    for name, reason in failed.items():
        print(f"prefrep: {name} failed: {reason}", file=sys.stderr)
    print(f"{study.progress().complete} of {len(prepared)} points are done; written: {options.out}/report.md, table.csv, pairs.csv")
    return 1 if failed else 0


def _join(options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Another worker of the same sweep; it ends with this process."""
    from prefrep.sweeps.worker import start

    command = [sys.executable, "-m", "prefrep.cli.sweep", "--joins", "--config", str(options.config), "--out", str(options.out)]
    command += [part for text in options.set for part in ("--set", text)]
    command += ["--storage", options.storage] if options.storage else []
    return start(command)


class _Display:
    """A bar over all points with the time left, and reports that are never far behind.

    Args:
        study: The queue.
        total: Number of points.
        silent: Another worker shows the bar and writes the reports.
    """

    def __init__(self, study: Study, total: int, silent: bool) -> None:
        from time import monotonic

        from tqdm import tqdm

        done = study.progress().complete + study.progress().failed
        self._study, self._silent, self._clock, self._done = study, silent, monotonic, done
        self._next = 0.0
        self._bar = tqdm(total=total, initial=done, desc="points", unit=" points", disable=silent)

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Shows where the points are."""
        done = progress.complete + progress.failed
        self._bar.set_postfix(running=progress.running, failed=progress.failed, refresh=False)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()
        if self._silent or done == self._done or self._clock() < self._next:
            return
        self._done, begin = done, self._clock()
        _write(self._study.folder)
        self._next = self._clock() + 19 * (self._clock() - begin)  # a twentieth of the time, at most


def _report_only(out: Path) -> int:
    if not (out / "points").is_dir():
        raise DataError(f"{out}: no points/ there, so this is not the folder of a sweep; name the --out of one")
    _write(out)
    print((out / "report.md").read_text())
    return 0


def _write(out: Path) -> None:
    from prefrep.reports.sweep import write
    from prefrep.sweeps.study import alone

    with alone(out, "report"):  # another worker may be at it
        write(out)


if __name__ == "__main__":
    friendly.run(main)
