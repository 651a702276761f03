"""Models as judges, and what a command line names."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import comparison

from prefrep.data.encode import EncodeConfig
from prefrep.errors import CheckpointError
from prefrep.io.folder import save
from prefrep.judges import ModelJudge, RuleJudge, comparer
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead
from prefrep.scoring import Scorer, ranked

PAIRS = [comparison("Name a prime", "7", "A nine"), comparison("Why?", "Because.", "No")]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> str:
    backbone = Backbone("bundled:tiny-llama", frozen=True)
    folder = tmp_path_factory.mktemp("judge") / "export"
    save(folder, backbone, GPMHead(backbone.hidden_size, dim=4), 0.1, EncodeConfig(), backbone.tokenizer(), {})
    return str(folder)


def test_a_judge_compares_as_its_scorer_does(export: str) -> None:
    """Its tables come apart into blocks, its comparisons do not."""
    judge, scorer = ModelJudge(export, device="cpu"), Scorer.from_pretrained(export, "cpu")
    scores = list(scorer.compare(PAIRS))
    assert list(judge.compare(PAIRS)) == scores and all(scores)
    (verdict,) = judge.judge([ranked("Name a prime", ["7", "A nine"])])
    assert verdict.table[0, 1] == pytest.approx(scores[0], abs=1e-5)
    assert verdict.blocks is not None and verdict.blocks.shape == (2, 2, 2)
    np.testing.assert_allclose(verdict.blocks.sum(0), verdict.table, atol=1e-5)


def test_what_a_name_stands_for(export: str) -> None:
    assert isinstance(comparer("prefrep.judges.concise"), RuleJudge)
    named = comparer(export, "cpu")
    assert isinstance(named, Scorer) and list(named.compare(PAIRS)) == list(Scorer.from_pretrained(export, "cpu").compare(PAIRS))
    with pytest.raises(CheckpointError, match="no such folder"):
        comparer("runs/nothing")
