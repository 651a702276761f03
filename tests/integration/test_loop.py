"""The loop around an objective: a budget that ends a round, early stopping, a second judge, baselines; killed, and going on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from integration.test_gpo import TINY, fit, killed, lines, overlay, weights

from prefrep.callbacks.baselines import acceptance
from prefrep.callbacks.budget import KLBudget
from prefrep.cli.friendly import run
from prefrep.generation import TransformersSampler
from prefrep.judges import RuleJudge, concise
from prefrep.modules import GPO

CONCISE = {"class_path": "RuleJudge", "init_args": {"rule": "prefrep.judges.concise"}}


def indifferent(prompt: str, response: str, other: str) -> float:
    return 0.0


def verbose(prompt: str, response: str, other: str) -> float:
    return float(len(response) - len(other))


def rule(name: str) -> dict[str, Any]:
    return {"class_path": "RuleJudge", "init_args": {"rule": f"{__name__}.{name}"}}


def metrics(out: Path, number: int) -> dict[str, float]:
    found: dict[str, float] = json.loads((out / "rounds" / str(number) / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    file.write_text("".join(f"Say {name}\n" for name in ("one", "two and three", "four", "five", "six")))
    return file


def callbacks() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(TINY.read_text())["trainer"]["callbacks"]
    return found


def held_out_first(**options: Any) -> list[dict[str, Any]]:
    each = callbacks()
    own = next(one for one in each if one["class_path"] == "HeldOut")
    own["init_args"].update(options)
    return [own, *(one for one in each if one is not own)]


# ------------------------------------------------------------------------------------------------------------------------ KL budget
def budget(folder: Path, kl: float) -> tuple[str, str]:
    """Checkpoints after every step, and a budget; three steps a round."""
    each = callbacks()
    next(one for one in each if one["class_path"] == "Checkpoints")["init_args"]["every_n_train_steps"] = 1
    each = [one for one in each if one["class_path"] != "HeldOut"]
    return "--config", overlay(folder, lambda _: [*each, {"class_path": "KLBudget", "init_args": {"kl": kl}}])


@pytest.fixture(scope="module")
def spent(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose budget is spent after two of the three steps of each round: the first step leaves pi_t, the second sees it."""
    folder = tmp_path_factory.mktemp("budget")
    fit(prompts, folder / "run", *budget(folder, 1e-4))
    return folder / "run"


def test_a_budget_ends_the_training_of_a_round(spent: Path, prompts: Path, tmp_path: Path) -> None:
    """Its last step changes nothing: the weights are those that a run without a budget has after the second step."""
    assert [metrics(spent, number)["budget_batches"] for number in (0, 1)] == [2, 2]
    assert all(metrics(spent, number)["budget_kl"] > 1e-4 for number in (0, 1))
    fit(prompts, tmp_path / "one", *budget(tmp_path, 1e-4), "--trainer.max_epochs", "1")
    killed(prompts, tmp_path / "free", GPO, "training_step", 3, *budget(tmp_path, 1e9))
    rested, free = weights(tmp_path / "one"), weights(tmp_path / "free")
    assert torch.load(tmp_path / "free" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert all(torch.equal(free[name], rested[name]) for name in free)
    steps = [json.loads(line)["step"] for line in (spent / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 4, 5], "no metrics of a step that was none"


@pytest.mark.parametrize("call", [2, 3, 6])
def test_a_round_at_rest_is_resumed_exactly(call: int, spent: Path, prompts: Path, tmp_path: Path) -> None:
    """Killed before the step that spends the budget, at rest behind it, and at rest in the second round."""
    more = budget(tmp_path, 1e-4)
    killed(prompts, tmp_path / "run", KLBudget, "on_train_batch_end", call, *more)
    fit(prompts, tmp_path / "run", *more)
    expected, found = weights(spent), weights(tmp_path / "run")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert lines(spent, 1, "samples") == lines(tmp_path / "run", 1, "samples")
    assert metrics(spent, 1) == metrics(tmp_path / "run", 1)

    def without_speeds(out: Path) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return [{name: value for name, value in line.items() if not name.endswith("_per_s")} for line in found]

    assert without_speeds(spent) == without_speeds(tmp_path / "run")


# ------------------------------------------------------------------------------------------------------------------- early stopping
def test_training_stops_without_gain(prompts: Path, tmp_path: Path) -> None:
    """A judge that never prefers anything: one round, then no better win rate than the 1/2 of pi_0. The same command changes nothing."""
    more = ("--config", overlay(tmp_path, lambda _: held_out_first(judge=rule("indifferent"), patience=1)), "--trainer.max_epochs", "3")
    fit(prompts, tmp_path / "run", *more)
    assert metrics(tmp_path / "run", 1)["held_out_win_rate_initial"] == 0.5
    rounds = sorted(path.parent.name for path in (tmp_path / "run" / "rounds").glob("*/samples.jsonl"))
    assert rounds == ["0"] and (tmp_path / "run" / "export" / "config.json").exists()
    before = weights(tmp_path / "run")
    fit(prompts, tmp_path / "run", *more)
    after = weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "run" / "rounds" / "2").exists() and not (tmp_path / "run" / "rounds" / "1" / "samples.jsonl").exists()


# --------------------------------------------------------------------------------------------------- a second judge, and baselines
def judged_twice() -> list[dict[str, Any]]:
    options = {
        "judge": CONCISE,
        "second_judge": rule("verbose"),
        "responses": 4,
        "batch_size": 2,
        "sampler": {"class_path": "TransformersSampler", "init_args": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 12}},
    }
    return [*held_out_first(second_judge=rule("verbose")), {"class_path": "Baselines", "init_args": options}]


@pytest.fixture(scope="module")
def twice(prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twice")
    fit(prompts, folder / "run", "--config", overlay(folder, lambda _: judged_twice()), "--trainer.max_epochs", "1")
    return folder / "run"


def share(table: list[list[float]]) -> float:
    flat = [value for row in table for value in row]
    return sum((value > 0) + 0.5 * (value == 0) for value in flat) / len(flat)


def test_a_second_judge_compares_the_same_answers(twice: Path) -> None:
    own, initial, found = lines(twice, 1, "held_out"), lines(twice, 0, "held_out"), metrics(twice, 1)
    for name, judge, key in (("verdicts", concise, "held_out_win_rate"), ("second_verdicts", verbose, "held_out_second_win_rate")):
        expected = [
            [[judge("", a, b) for b in other["responses"]] for a in line["responses"]] for line, other in zip(own, initial, strict=True)
        ]
        assert [line["initial"] for line in lines(twice, 1, name)] == [[pytest.approx(row) for row in table] for table in expected]
        assert found[f"{key}_initial"] == pytest.approx(sum(map(share, expected)) / len(expected))
    assert found["held_out_words"] == pytest.approx(sum(len(t.split()) for line in own for t in line["responses"]) / 10)


def test_baselines_follow_from_their_file(twice: Path) -> None:
    """Best of four and rejection sampling of pi_0's answers, chosen by the first judge, compared by both."""
    drawn, rivals, found = lines(twice, 0, "baselines"), lines(twice, 0, "held_out"), metrics(twice, 0)
    for judge, second in ((concise, ""), (verbose, "second_")):
        best, accepted = [], []
        for line, rival in zip(drawn, rivals, strict=True):
            scores = [sum(concise("", a, b) for b in line["responses"]) / 4 for a in line["responses"]]
            assert line["scores"] == pytest.approx(scores)
            wins = [share([[judge("", a, b) for b in rival["responses"]]]) for a in line["responses"]]
            best.append(wins[scores.index(max(scores))])
            odds = [math.exp(score / 0.5) for score in scores]
            accepted.append(sum(o * w for o, w in zip(odds, wins, strict=True)) / sum(odds))
        assert found[f"best_of_n_{second}win_rate_initial"] == pytest.approx(sum(best) / 5)
        assert found[f"rejection_{second}win_rate_initial"] == pytest.approx(sum(accepted) / 5)
    assert found["best_of_n_kl_initial"] == pytest.approx(math.log(4) - 0.75) and 0 < found["rejection_kl_initial"] < math.log(4)


def test_rejection_sampling_lies_between_chance_and_the_best() -> None:
    scores = torch.tensor([0.3, -1.0, 2.0]).double().numpy()
    assert acceptance(scores, 1e9) == pytest.approx([1 / 3] * 3) and acceptance(scores, 1e-3) == pytest.approx([0, 0, 1])
    assert acceptance(scores, 0.5) == pytest.approx((torch.from_numpy(scores) / 0.5).softmax(0).tolist())


@pytest.mark.parametrize(("owner", "name", "call"), [(TransformersSampler, "sample", 8), (RuleJudge, "judge", 6)])
def test_baselines_that_are_killed_go_on(owner: type, name: str, call: int, twice: Path, prompts: Path, tmp_path: Path) -> None:
    """Held-out prompts are sampled in three calls, training prompts in three, labelled in three; baselines come last."""
    more = ("--config", overlay(tmp_path, lambda _: judged_twice()), "--trainer.max_epochs", "1")
    killed(prompts, tmp_path / "run", owner, name, call, *more)
    fit(prompts, tmp_path / "run", *more)
    assert lines(twice, 0, "baselines") == lines(tmp_path / "run", 0, "baselines")
    assert metrics(twice, 0) == metrics(tmp_path / "run", 0)
    expected, found = weights(twice), weights(tmp_path / "run")
    assert all(torch.equal(expected[name], found[name]) for name in expected)


# ------------------------------------------------------------------------------------------------------------------------- misuse
@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([{"class_path": "KLBudget", "init_args": {"kl": 0}}], "KLBudget.kl must be positive, got 0"),
        ([{"class_path": "Baselines", "init_args": {"judge": CONCISE, "responses": 1}}], "responses of 2 or more"),
        ([{"class_path": "HeldOut", "init_args": {"judge": CONCISE, "patience": 0}}], "HeldOut.patience must be 1 or more"),
        (
            [{"class_path": "HeldOut", "init_args": {"judge": {"class_path": "PanelJudge", "init_args": {"judges": {}}}}}],
            "PanelJudge.judges is empty",
        ),
    ],
)
def test_wrong_settings_get_one_sentence(
    more: list[dict[str, Any]], words: str, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(lambda: fit(prompts, tmp_path / "run", "--config", overlay(tmp_path, lambda each: [*each, *more])))
    printed = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 1 and printed[-1].startswith("prefrep: ") and words in printed[-1], printed[-3:]


def test_a_budget_needs_all_responses(prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(lambda: fit(prompts, tmp_path / "run", *budget(tmp_path, 1.0), "--model.objective", "DPOObjective"))
    assert stop.value.code == 1 and "estimates KL from all 3 responses, and DPOObjective reads some" in capsys.readouterr().err
    assert not list(tmp_path.rglob("samples.jsonl"))
