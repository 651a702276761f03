"""`bin/setup` installs once, whoever calls it and however often it is interrupted. Python, venv and pip are stood in for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = f"""#!/usr/bin/env bash
# The interpreter, and the one in the environment that it makes.
here=$(dirname "$0")
case "$1 $2" in
    "-m venv") sleep "${{VENV:-0}}"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo "venv" >> calls ;;
    "-m pip")
        [ -e "$here/../pip" ] || [ "$3" != --version ] || exit 1
        [ "$3" = install ] || exit 0
        touch "$here/../pip"
        echo "begin $*" >> calls
        if [ -n "${{FAIL:-}}" ]; then echo "$FAIL" >&2; exit 1; fi
        sleep "${{PIP:-0}}"
        echo "end" >> calls ;;
    *) exec {sys.executable} "$@" ;;
esac
"""
TOOLS = "bash cat sha256sum cut dirname mkdir rm mv touch sleep tee grep cp env".split()


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    for name in ("bin/setup", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "tools").mkdir()
    for name in TOOLS:
        (tmp_path / "tools" / name).symlink_to(shutil.which(name) or "")
    return tmp_path


def start(clone: Path, path: str = os.environ["PATH"], **settings: str) -> subprocess.Popen[str]:
    environment = {"PATH": path, "PYTHON": str(clone / "python"), **settings}
    return subprocess.Popen(
        [str(clone / "bin" / "setup")], env=environment, stderr=subprocess.PIPE, text=True, cwd=clone, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def calls(clone: Path) -> list[str]:
    return [line.split()[0] for line in (clone / "calls").read_text().splitlines()]


@pytest.fixture(params=["flock", "no flock"])
def path(request: pytest.FixtureRequest, clone: Path) -> str:
    if request.param == "flock" and not shutil.which("flock"):
        pytest.skip("there is no flock")
    return os.environ["PATH"] if request.param == "flock" else str(clone / "tools")


def test_of_two_first_calls_one_installs(clone: Path, path: str) -> None:
    both = [start(clone, path, PIP="0.7") for _ in range(2)]
    ends = [finish(process) for process in both]
    assert [code for code, _ in ends] == [0, 0] and calls(clone) == ["venv", "begin", "end", "begin", "end"]
    assert sum("waiting for it" in errors for _, errors in ends) == 1
    assert finish(start(clone, path)) == (0, ""), "and later calls do nothing"
    assert not (clone / ".setup.lock.d").exists()


@pytest.mark.parametrize(("slow", "there"), [("VENV", "prefrep-installing"), ("PIP", "pip")])
def test_an_interrupted_call_is_mended(slow: str, there: str, clone: Path, path: str) -> None:
    first = start(clone, path, **{slow: "30"})
    while not (clone / ".venv" / there).exists():
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    (clone / ".venv" / "half").touch()
    (clone / "calls").write_text("")
    code, errors = finish(start(clone, path))
    assert code == 0 and "left .venv incomplete; making it anew" in errors
    assert not (clone / ".venv" / "half").exists() and calls(clone) == ["venv", "begin", "end", "begin", "end"]
    assert finish(start(clone, path)) == (0, "")


def test_what_an_older_version_left_incomplete(clone: Path, path: str) -> None:
    """`No module named pip`, without a word about an installation in progress."""
    (clone / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(clone / "python", clone / ".venv" / "bin" / "python")
    code, errors = finish(start(clone, path))
    assert code == 0 and "making it anew" in errors


def test_a_new_version_is_installed_into_what_is_there(clone: Path, path: str) -> None:
    assert finish(start(clone, path))[0] == 0
    (clone / "constraints.txt").write_text("torch==2.14\n")
    code, errors = finish(start(clone, path))
    assert code == 0 and "anew" not in errors and calls(clone).count("venv") == 1


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "WARNING: Retrying after connection broken by NewConnectionError",
            "no package index can be reached; go online, or set PIP_INDEX_URL",
        ),
        ("ERROR: No space left on device", "pip failed for the reason above"),
    ],
)
def test_without_a_network(said: str, words: str, clone: Path, path: str) -> None:
    code, errors = finish(start(clone, path, FAIL=said))
    assert code == 1 and said in errors and words in errors.splitlines()[-1]
    code, errors = finish(start(clone, path))
    assert code == 0, "the next call, with one"
