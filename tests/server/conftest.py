from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import serving

from prefrep.scoring import Scorer


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Exported folders of all kinds of heads."""
    place = tmp_path_factory.mktemp("models")
    return {name: serving.export(place, name) for name in serving.HEADS}


@pytest.fixture(scope="session")
def scorers(folders: dict[str, Path]) -> dict[str, Scorer]:
    """The same in this process, without a server: the reference."""
    return {name: Scorer.from_pretrained(path) for name, path in folders.items()}


@pytest.fixture(scope="session")
def served(folders: dict[str, Path]) -> Iterator[serving.Serves]:
    """A server of all of them."""
    with serving.serving(folders, group_wait=200, group_size=3) as found:
        yield found
