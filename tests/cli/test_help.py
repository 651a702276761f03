"""Help comes at once: no program loads torch, which takes seconds, to say how it is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prefrep.cli.main import HELP

BIN = Path(__file__).parents[2] / "bin"
PROGRAMS = ["main" if path.name == "prefrep" else path.name for path in sorted(BIN.iterdir()) if path.name not in ("setup", "test")]


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_without_torch(program: str) -> None:
    code = f"""
import sys
from prefrep.cli.{program} import main
try:
    sys.exit(main(["--help"]))
finally:
    assert "torch" not in sys.modules
"""
    helped = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert helped.returncode == 0, helped.stderr
    assert helped.stdout.startswith("usage: ")


def test_prefrep_without_arguments() -> None:
    """A bare call is a mistake: the help goes to stderr."""
    bare = subprocess.run([sys.executable, "-m", "prefrep.cli.main"], check=False, capture_output=True, text=True)
    assert (bare.returncode, bare.stdout, bare.stderr) == (2, "", HELP + "\n")
