"""Results that are kept by content: whole or not at all, found again, and made anew when damaged."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

import prefrep
from prefrep import caching
from prefrep.caching import UNUSED_DAYS, entry, find, keep
from prefrep.cli.main import main
from prefrep.errors import UsageError
from prefrep.nn.bundled import resolve

ABOUT = {"data": "x", "size": 3}


def kept(folder: Path, about: dict[str, object] = ABOUT, text: str = "hello") -> Path:
    return keep(folder, about, lambda draft: (draft / "a").write_text(text))


def test_what_is_kept_is_found_under_its_content(tmp_path: Path) -> None:
    assert find(tmp_path, ABOUT) is None
    place = kept(tmp_path)
    assert find(tmp_path, {"size": 3, "data": "x"}) == place == entry(tmp_path, ABOUT) and (place / "a").read_text() == "hello"
    assert find(tmp_path, {**ABOUT, "size": 4}) is None


@pytest.mark.parametrize("damage", ["truncated", "missing", "about"])
def test_damage_is_noticed(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = kept(tmp_path)
    {"truncated": lambda: (place / "a").write_text("hel"), "missing": lambda: (place / "a").unlink(),
     "about": lambda: (place / "about.json").write_text("[]")}[damage]()  # fmt: skip
    assert find(tmp_path, ABOUT) is None
    assert damage == "missing" or "it is made anew" in caplog.text
    assert (kept(tmp_path) / "a").read_text() == "hello" and find(tmp_path, ABOUT) == place


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fails(draft: Path) -> None:
        (draft / "a").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path, ABOUT, fails)
    assert list(tmp_path.iterdir()) == []


def test_the_slower_of_two_processes_uses_the_result_of_the_faster(tmp_path: Path) -> None:
    place = keep(tmp_path, ABOUT, lambda draft: (kept(tmp_path, text="first"), (draft / "a").write_text("second")))
    assert (place / "a").read_text() == "first"


def test_what_nobody_uses_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "PRUNE_EVERY", 0.0)
    old, used = kept(tmp_path, {"name": "old"}), kept(tmp_path, {"name": "used"})
    draft = tmp_path / ".x.part"
    draft.mkdir()
    long_ago = time.time() - (UNUSED_DAYS + 1) * 24 * 3600
    for path in (old, used, draft):
        os.utime(path, (long_ago, long_ago))
    assert find(tmp_path, {"name": "used"}) == used
    kept(tmp_path)
    assert not old.exists() and used.exists() and not draft.exists()


def test_a_thousand_results_are_not_looked_through_a_thousand_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(caching, "_prune", seen.append)
    for number in range(20):
        kept(tmp_path / "a", {"number": number})
    kept(tmp_path / "b")
    assert seen == [tmp_path / "a", tmp_path / "b"]


def test_what_is_kept_is_shown_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what prefrep put there: somebody's own files in the folder are safe, whatever is asked for."""
    monkeypatch.setenv("PREFREP_CACHE", str(tmp_path))
    kept(tmp_path / "encoded", text="x" * 3000)
    kept(tmp_path / "features", {"name": "a"})
    kept(tmp_path / "features", {"name": "b"})
    resolve("bundled:tiny-llama")
    for name in ("thesis", "pairs"):  # the second has a name of ours
        (tmp_path / name).mkdir()
        (tmp_path / name / "chapter").write_text("1")
    assert main(["cache"]) == 0
    printed = capsys.readouterr().out
    assert "thesis" not in printed and "pairs" not in printed and "encoded" in printed and "tiny-llama-v" in printed
    found = prefrep.cache()
    assert {name: each["entries"] for name, each in found.items() if name in ("encoded", "features")} == {"encoded": 1, "features": 2}
    assert found["encoded"]["bytes"] > 3000 and found["encoded"]["days"] < 1
    for name in ("thesis", "pairs", "..", "encoded/.."):
        with pytest.raises(UsageError, match="nothing of that name"):
            prefrep.cache(clear=["encoded", name])
    assert (tmp_path / "encoded").exists()
    prefrep.cache(clear=["encoded", "features"])
    assert sorted(prefrep.cache()) == [path.name for path in tmp_path.iterdir() if path.name.startswith("tiny-llama-v") and path.is_dir()]
    assert (tmp_path / "thesis" / "chapter").read_text() == (tmp_path / "pairs" / "chapter").read_text() == "1"


def test_every_folder_of_the_cache_is_known() -> None:
    """Whoever keeps something in a folder of its own is shown by `prefrep cache`."""
    files = [path.read_text() for path in Path(prefrep.__file__).parent.rglob("*.py")]
    named = {name for text in files for name in re.findall(r"cache_folder\(\)[^\n]*?/ \"([\w-]+)\"", text)}
    assert {"encoded", "features", "pairs", "first-answers", "demo"} <= named <= set(caching._KINDS)
