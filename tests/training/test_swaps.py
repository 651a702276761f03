"""Classes swapped on the command line: each shipped one for an outsider with the same arguments and plain types, and back. No traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from conftest import program

from prefrep.errors import PrefrepError
from prefrep.training.parser import ConfiguredCLI

OUTSIDERS = """
from __future__ import annotations
from collections.abc import Callable
from typing import Literal
from prefrep.generation import TransformersSampler
from prefrep.judges import RuleJudge
from prefrep.nn import heads, losses, objectives, skew


class OutHead(heads.GPMHead):
    def __init__(
        self, hidden_size: int, dim: int = 2, skew: Callable[[int, int], skew.SkewOperator] = skew.BlockSkew, normalize: bool = True
    ) -> None:
        super().__init__(hidden_size, dim, skew, normalize)


class OutFloatHead(heads.GPMHead):
    def __init__(self, hidden_size: int, dim: float = 2.0, normalize: bool | None = None) -> None:
        super().__init__(hidden_size, int(dim), normalize=bool(normalize))


class OutHybrid(heads.HybridHead):
    def __init__(self, hidden_size: int, dim: int = 2, normalize: bool = True) -> None:
        super().__init__(hidden_size, dim, normalize=normalize)


class OutPair(heads.PairHead):
    def __init__(self, hidden_size: int, readout: str = "linear", answers: list[str] | None = None) -> None:
        super().__init__(hidden_size, "linear", tuple(answers or ("A", "B")))


class OutBT(heads.BTHead):
    def __init__(self, hidden_size: int, dim: int = 1) -> None:
        super().__init__(hidden_size)


class OutGate(skew.GatedSkew):
    def __init__(self, dim: int, hidden_size: int, variant: Literal["softmax", "scaled_softmax"] = "softmax") -> None:
        super().__init__(dim, hidden_size, variant)


class OutFreeGate(skew.GatedSkew):
    def __init__(self, dim: int, hidden_size: int, variant: str | None = None) -> None:
        super().__init__(dim, hidden_size, variant or "softmax")


class OutLoss(losses.LogisticLoss):
    def __init__(self, tau: float = 1.0, smoothing: float = 0.0, learn_tau: bool = False) -> None:
        super().__init__(tau, smoothing, learn_tau)


class OutRegression(losses.RegressionLoss):
    def __init__(self, tau: float = 1.0, target: float | None = None, smoothing: float = 0.0) -> None:
        super().__init__(tau, target or 10.0, smoothing)


class OutIntLoss(losses.LogisticLoss):
    def __init__(self, tau: int = 1) -> None:
        super().__init__(tau)


class OutObjective(objectives.GPOObjective):
    def __init__(self, beta: float = 0.1, select: Literal["best_worst", "all"] = "all", clamp: float | None = None) -> None:
        super().__init__(beta, select, clamp=clamp)


class OutNash(objectives.NashMDObjective):
    def __init__(self, beta: float = 0.1, opponent: float = 0.5, anchor: float = 0.5, select: str = "all") -> None:
        super().__init__(beta, opponent, anchor)


class OutDPO(objectives.DPOObjective):
    def __init__(self, beta: int | float = 1) -> None:
        super().__init__(beta)
"""

ROOT = Path(__file__).parents[2]
GPM, PAIR, BT, HYBRID, GPO = "tiny/gpm", "tiny/pairpm", "tiny/bt", "tiny/hybrid", "tiny/gpo"
HEAD, SKEW, LOSS, OBJECTIVE = "--model.head", "--model.head.skew", "--model.loss", "--model.objective"
SWAPS: list[tuple[str, list[str]]] = [
    (GPM, [f"{HEAD}.dim", "6", HEAD, "OutHead"]),
    (GPM, [f"{HEAD}.dim", "6", HEAD, "OutFloatHead"]),
    (GPM, [HEAD, "OutHead", f"{HEAD}.dim", "6", HEAD, "GPMHead"]),
    (GPM, [HEAD, "OutHead", f"{HEAD}.dim", "3", HEAD, "GPMHead"]),
    (HYBRID, [HEAD, "OutHybrid"]),
    (PAIR, [f"{HEAD}.answers", "[x,y]", HEAD, "OutPair"]),
    (PAIR, [HEAD, "OutPair", f"{HEAD}.answers", "[x,y]", HEAD, "PairHead"]),
    (PAIR, [HEAD, "OutPair", f"{HEAD}.answers", "[x]", HEAD, "PairHead"]),
    (BT, [HEAD, "OutBT"]),
    (BT, [HEAD, "OutHead"]),
    (GPM, [SKEW, "GatedSkew", f"{SKEW}.variant", "nonnegative", SKEW, "OutFreeGate"]),
    (GPM, [SKEW, "GatedSkew", f"{SKEW}.variant", "nonnegative", SKEW, "OutGate"]),
    (GPM, [SKEW, "OutFreeGate", SKEW, "GatedSkew"]),
    (GPM, [SKEW, "LearnedSkew", SKEW, "OutGate"]),
    (GPM, [LOSS, "OutLoss"]),
    (GPM, [LOSS, "OutIntLoss"]),
    (GPM, [LOSS, "RegressionLoss", f"{LOSS}.target", "5", LOSS, "OutRegression"]),
    (GPM, [LOSS, "OutRegression", f"{LOSS}.target", "null", LOSS, "RegressionLoss"]),
    (GPM, [LOSS, "OutLoss", f"{LOSS}.tau", "-1", LOSS, "LogisticLoss"]),
    (GPM, [f"{LOSS}.smoothing", "0.1", LOSS, "HingeLoss", LOSS, "OutLoss"]),
    (GPO, [OBJECTIVE, "OutObjective"]),
    (GPO, [f"{OBJECTIVE}.clamp", "3", OBJECTIVE, "OutObjective"]),
    (GPO, [OBJECTIVE, "NashMDObjective", f"{OBJECTIVE}.anchor", "0.5", OBJECTIVE, "OutNash"]),
    (GPO, [OBJECTIVE, "DPOObjective", OBJECTIVE, "OutDPO"]),
    (GPO, [OBJECTIVE, "OutDPO", OBJECTIVE, "GPOObjective"]),
]
REFUSED = 9  # Bradley-Terry takes no embedding
# Values of the class before that the class after does not take: they give way to its default, as jsonargparse has it.
DROPPED = {3: ("dim", 2), 7: ("answers", ["A", "B"]), 11: ("variant", "softmax"), 15: ("tau", 1), 17: ("target", 10.0), 18: ("tau", 1.0)}


class Parsed(ConfiguredCLI):
    """Parsed and built, as `prefrep fit` does before it trains; no seed is set."""

    def _set_seed(self) -> None:
        """Leave the random state alone."""


@pytest.fixture(scope="module")
def outsiders(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The module of the outsiders, imported."""
    place = tmp_path_factory.mktemp("out")
    (place / "outsiders_of_swaps.py").write_text(OUTSIDERS)
    sys.path.insert(0, str(place))
    try:
        __import__("outsiders_of_swaps")
    finally:
        sys.path.remove(str(place))


@pytest.mark.parametrize("number", range(len(SWAPS)), ids=lambda number: " ".join(SWAPS[number][1][-2:]) + f" {number}")
def test_swap(number: int, outsiders: None, tmp_path: Path) -> None:
    name, arguments = SWAPS[number]
    base = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text())
    base.pop("ckpt_path", None)  # an option of `fit` alone
    command = ["--config", _written(tmp_path, base), "--trainer.default_root_dir", str(tmp_path), "--data.train", "x.jsonl", *arguments]
    if number == REFUSED:
        with pytest.raises(PrefrepError, match="OutHead does not go there; modules take these heads"):
            Parsed(command, run=False)
        return
    built = Parsed(command, run=False)
    saved = yaml.safe_load(built.parser.dump(built.config, skip_none=False))
    there = {"init_args": saved["model"]["init_args"]}
    for each in arguments[-2].removeprefix("--model.").split("."):
        there = there["init_args"][each]
    assert there["class_path"].rpartition(".")[2] == arguments[-1]
    if number in DROPPED:
        key, default = DROPPED[number]
        assert there["init_args"][key] == default
    again = Parsed(["--config", _written(tmp_path, saved)], run=False)
    assert yaml.safe_load(again.parser.dump(again.config, skip_none=False)) == saved, "the configuration of a run folder comes back"


def _written(folder: Path, config: object) -> str:
    file = folder / "again.yaml"
    file.write_text(yaml.safe_dump(config))
    return str(file)


KINDS_OF_ARGUMENTS = """
from __future__ import annotations
import dataclasses
import enum
import math
from collections.abc import Callable, Sequence
from prefrep.nn.heads import GPMHead


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass(frozen=True)
class Limits:
    low: float = 0.5
    word: str = "no"


class WordyHead(GPMHead):
    def __init__(
        self, hidden_size: int, word: str = "no", names: Sequence[str] = ("1", "yes"), colour: Colour = Colour.BLUE,
        limits: Limits = Limits(), top: float = math.inf, pair: tuple[int, int] = (1, 2),
    ) -> None:
        super().__init__(hidden_size, 4)
        assert isinstance(word, str) and all(isinstance(each, str) for each in names) and isinstance(colour, Colour)
        assert isinstance(limits, Limits) and isinstance(limits.word, str) and isinstance(pair, tuple)


class FunctionHead(GPMHead):
    def __init__(self, hidden_size: int, function: Callable[[float], float] = math.tanh) -> None:
        super().__init__(hidden_size, 4)


class BytesHead(GPMHead):
    def __init__(self, hidden_size: int, key: complex = 1j) -> None:
        super().__init__(hidden_size, 4)
"""


@pytest.mark.parametrize("head", ["WordyHead", "FunctionHead", "BytesHead"])
def test_a_head_is_read_again_or_not_trained(head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument that a folder cannot hold, or whose annotation it cannot be held to, is said before training and not after."""
    (tmp_path / "kinds_of_arguments.py").write_text(KINDS_OF_ARGUMENTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n')
    run = [
        "--config",
        "tiny/gpm",
        "--data.train",
        str(rows),
        "--trainer.default_root_dir",
        str(tmp_path / "run"),
        "--trainer.max_steps",
        "1",
    ]
    command = ["--import", "kinds_of_arguments", *run, "--model.head", head]
    if head == "WordyHead":
        program("fit")(command)
        program("score")(["--model", str(tmp_path / "run" / "export"), "--data", str(rows), "--out", str(tmp_path / "scores.jsonl")])
        assert (tmp_path / "scores.jsonl").exists()
        return
    with pytest.raises(PrefrepError, match="which a model folder cannot hold"):
        program("fit")(command)
    assert not (tmp_path / "run" / "metrics.jsonl").exists(), "nothing was trained"
