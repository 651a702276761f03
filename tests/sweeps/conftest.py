"""A PostgreSQL server, for sweeps whose queue is in a database of one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """URL of an empty database of Debian's PostgreSQL (`apt-get install postgresql`), reached by a socket in a temporary folder."""
    pytest.importorskip("psycopg", reason="needs the extra postgresql")
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not programs:
        pytest.skip("needs PostgreSQL")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # not pytest's: the path of a socket has at most 107 characters
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(folder, "postgres", "postgres")

    def control(*arguments: str) -> None:
        command = [str(programs[-1]), "-D", str(folder / "data"), "-l", str(folder / "log"), "-w", *arguments]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=120, **user)
        assert done.returncode == 0, done.stderr

    try:
        control("initdb", "-o", "--auth=trust --username=prefrep --no-sync")
        control("start", "-o", f"-c listen_addresses='' -c fsync=off -k {folder}")
        try:
            yield f"postgresql://prefrep@/postgres?host={folder}"
        finally:
            control("stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
