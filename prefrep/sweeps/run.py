"""A sweep from its file to its reports, in this process and the workers that it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from prefrep.console import quiet
from prefrep.errors import PrefrepError, Stopped
from prefrep.parts import import_declared, import_modules, imported
from prefrep.shipped import config_file
from prefrep.signals import StopSignals, name_of
from prefrep.sweeps.spec import parse_setting, read_sweep
from prefrep.sweeps.table import is_done, points_folder

if TYPE_CHECKING:
    from prefrep.sweeps.study import Progress, Study

Report = Callable[[Path], None]


def run(
    config: str, out: Path, settings: Sequence[str], workers: int = 1, storage: str | None = None, retry: bool = False,
    report: Report | None = None,
) -> None:  # fmt: skip
    """Run a sweep, or this process's share of it.

    Args:
        config: The sweep file, or the name of a shipped one.
        out: The sweep's folder.
        settings: Values for all points, each as `key=value`.
        workers: Number of worker processes, including this one.
        storage: URL of an Optuna database; None: a journal in the folder.
        retry: Run failed points again.
        report: Writes the reports of a folder; None: another process writes them and shows the progress bar.

    Raises:
        ConfigError: The sweep file or a point's configuration is wrong.
        PrefrepError: Points failed.
        Stopped: A signal was received; this process's point is back in the queue, and its training has written a checkpoint.
    """
    sweep = read_sweep(config_file(config), dict(parse_setting(text) for text in settings))
    signals = StopSignals(_interrupt, kill=report is not None)  # workers end with the process that started them
    signals.listen()
    others: list[subprocess.Popen[bytes]] = []
    try:
        if workers > 1:  # before libraries start one thread per core
            os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // workers, 1)))
        from prefrep.sweeps.points import prepare

        prepared = prepare(sweep.points, out)
        from prefrep.sweeps.study import Study
        from prefrep.sweeps.worker import work

        study = Study(out, storage)
        study.enlist({each.point.name: each.about for each in prepared}, retry)
        others += [_join(config, out, settings, storage) for _ in range(workers - 1)]
        with _Display(study, len(prepared), report) as display:
            work(study, {each.point.name: (each.point, each.engine) for each in prepared}, sweep.keep_models, display)
        for other in others:
            other.wait()
        if report is not None:
            report(out)
    except BaseException as error:
        for other in others:
            other.terminate()
        # A point that trains in this process notes signals itself, and ends its step before it stops.
        code = error.code if isinstance(error, Stopped) else 128 + signals.received if signals.received else None
        if code is None or not isinstance(error, KeyboardInterrupt | Stopped):
            raise
        done = sum(is_done(points_folder(out, point.name)) for point in sweep.points)
        where = f"{done} of {len(sweep.points)} points are done in {out}"
        raise Stopped(f"stopped by {name_of(code - 128)}; {where}; to go on, run the same command", code) from None
    finally:
        for other in others:
            other.wait()
        signals.close()
    if report is not None:
        print(f"{study.progress().complete} of {len(prepared)} points are done; written: {out}/report.md, table.csv, pairs.csv")
    if failed := study.reasons():
        raise PrefrepError("\nprefrep: ".join(f"{name} failed: {reason}" for name, reason in failed.items()))


def _interrupt(number: int, again: bool) -> None:
    """Interrupt the current point at the first signal: it returns to the queue, and its training process is terminated."""
    if not again:
        raise KeyboardInterrupt


def _join(config: str, out: Path, settings: Sequence[str], storage: str | None) -> subprocess.Popen[bytes]:
    """Start another worker of the same sweep, which ends with this process."""
    from prefrep.sweeps.worker import start

    share = {"config": config, "out": str(out), "settings": list(settings), "storage": storage, "modules": imported()}
    return start([sys.executable, "-m", "prefrep.sweeps.run", json.dumps(share)])


class _Display:
    """A progress bar over all points with the time left, and reports that are updated during the sweep.

    Args:
        study: The queue.
        total: Number of points.
        report: Writes the reports; None: neither bar nor reports.
    """

    def __init__(self, study: Study, total: int, report: Report | None) -> None:
        done = study.progress().complete + study.progress().failed
        self._study, self._report, self._done = study, report, done
        self._next = 0.0
        self._bar = tqdm(total=total, initial=done, desc="points", unit=" points", disable=report is None)

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Update the bar and the reports."""
        done = progress.complete + progress.failed
        self._bar.set_postfix(running=progress.running, failed=progress.failed, refresh=False)
        self._bar.update(done - self._bar.n)
        self._bar.refresh()
        if self._report is None or done == self._done or monotonic() < self._next:
            return
        self._done, begin = done, monotonic()
        self._report(self._study.folder)
        self._next = monotonic() + 19 * (monotonic() - begin)  # at most 5 % of the time


def _share(arguments: dict[str, Any]) -> None:
    """Run as a worker of another process, which reports failures."""
    quiet()
    try:
        import_declared()
        import_modules(arguments.pop("modules"))
        run(**(arguments | {"out": Path(arguments["out"])}))
    except (PrefrepError, KeyboardInterrupt):
        sys.exit(1)


if __name__ == "__main__":
    _share(json.loads(sys.argv[1]))
