"""Loading prints nothing, in whatever process, and leaves the settings of transformers as they were."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers.utils import logging

from prefrep.data.encode import EncodeConfig
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead
from prefrep.nn.quietly import quietly

CALLS = {
    "load": "from prefrep.scoring import Scorer; Scorer.from_pretrained({!r}, device='cpu').rank('Name a prime', ['7', '9'])",
    "write": "from prefrep.io import folder, seqcls; seqcls.write({!r} + '-classifier', folder.load({!r}))",
    "read": "from prefrep.io import seqcls; seqcls.read({!r} + '-classifier')",  # a classifier has no output layer
}


def test_a_fresh_process_prints_nothing(tmp_path: Path) -> None:
    backbone = Backbone("bundled:tiny-llama", frozen=True)
    save(tmp_path / "m", backbone, BTHead(backbone.hidden_size), 1.0, EncodeConfig(), backbone.tokenizer(), {})
    for call in CALLS.values():
        code = call.format(*[str(tmp_path / "m")] * 2)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        assert (done.stdout, done.stderr) == ("", ""), call


def test_settings_are_restored() -> None:
    """Also when a load fails."""
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.raises(OSError), quietly():
        assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (logging.ERROR, False)
        raise OSError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
