"""Docstrings: examples give what they show, and the API pages are made without a warning."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [path for path in sorted((ROOT / "prefrep").rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples(path: Path) -> None:
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found = doctest.testmod(module)
    assert found.attempted > 0 and found.failed == 0


@pytest.mark.slow
def test_api_pages(tmp_path: Path) -> None:
    command = re.findall(r"^exec \.venv/bin/python (.*)$", (ROOT / "bin" / "docs").read_text(), re.M)[0]
    line = f"{sys.executable} {command.replace('build/api', str(tmp_path))}"
    done = subprocess.run(["bash", "-c", line, "docs"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert "distinct" in (tmp_path / "prefrep" / "evaluation" / "scores.html").read_text()
