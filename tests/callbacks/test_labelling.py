"""Labels: what is written down of a judge's verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np

from prefrep.callbacks.labelling import labels
from prefrep.judges import Verdict

SAMPLE: dict[str, Any] = {"id": "", "prompt": [{"role": "user", "content": "Why?"}], "responses": ["a", "b"]}


def test_scores_are_means_among_the_responses_of_the_round() -> None:
    """Two responses of pi_t, and one of pi_0 as an opponent."""
    table = np.array([[0, 2, 5], [-2, 0, 7], [-5, -7, 0]], np.float32)
    line = labels(SAMPLE, Verdict(table))
    assert line["scores"] == [1.0, -1.0] and (line["best"], line["worst"]) == (0, 1)
    assert line["table"] == [[0, 2], [-2, 0]] and line["initial_table"] == [[5], [7]]
