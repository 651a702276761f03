"""Audits of judges: simulated ones whose bias, sharpness, taste and circles are known, and published verdicts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pytest
from conftest import program
from scipy.special import expit
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.evaluation.audit import measures
from prefrep.evaluation.audit.asked import Asked, of_judgments, pairs_of
from prefrep.evaluation.audit.audit import audit
from prefrep.evaluation.audit.circles import Judging, circles, counted, drawn, judging, tables
from prefrep.evaluation.audit.read import verdicts, with_people
from prefrep.evaluation.summary import Bootstrap
from prefrep.functional.logistic import fit
from prefrep.judges.writing.judgments import Judgment
from prefrep.records import Message, RankedResponses


def simulated(
    count: int, generator: np.random.Generator, *, order: float = 0.3, sharpness: float = 1.2, length: float = 0.0, soft: bool = False
) -> list[Asked]:
    """Verdicts in both orders on pairs with labels: sharpness for the better one, `order` for the first, `length` per unit."""
    found = []
    for number in range(count):
        gold = float(generator.random() < 0.5)
        longer = generator.standard_normal()
        for first in (1, -1):
            s = sharpness * (2 * gold - 1) + order * first + length * longer
            p = float(expit(s + 0.5 * generator.standard_normal())) if soft else (0.75 if generator.random() < expit(s) else 0.25)
            found.append(Asked("j", f"p{number}", "a", "b", p, first, soft, gold=gold, features={"length": (longer, 0.0)}))
    return found


def test_every_number_of_a_small_case() -> None:
    def asked(prompt: str, p: float | None, first: int, gold: float = 1.0) -> Asked:
        return Asked("j", prompt, "a", "b", p, first, False, "" if p else "empty", gold)

    questions = [
        asked("right twice", 0.75, 1), asked("right twice", 0.75, -1),
        asked("twice the first", 0.75, 1), asked("twice the first", 0.25, -1),
        asked("twice the second", 0.25, 1), asked("twice the second", 0.75, -1),
        asked("again the first", 0.75, 1), asked("again the first", 0.25, -1),
        asked("half silent", 0.75, 1), asked("half silent", None, -1),
        asked("wrong twice", 0.25, 1), asked("wrong twice", 0.25, -1),
    ]  # fmt: skip
    found = audit(questions, draws=10, bootstrap=Bootstrap(50))["judges"]["j"]
    assert found["no_verdict"]["score"] == pytest.approx(1 / 12) and found["no_verdict"]["reasons"] == {"empty": 1}
    labels = found["labels"]
    assert labels["accuracy"]["score"] == pytest.approx(1 / 6)  # a pair with a silent order is not right
    assert labels["of_verdicts"]["score"] == pytest.approx(1 / 5)
    assert labels["judgebench"]["score"] == pytest.approx(2 / 6)  # there the other order decides
    assert labels["better_shown_first"]["score"] == pytest.approx(4 / 6)
    assert labels["better_shown_second"]["score"] == pytest.approx(2 / 6)
    same = found["consistency"]
    assert (same["score"], same["twice_first"], same["twice_second"]) == (pytest.approx(2 / 5), 2, 1)
    assert found["position"]["nats"] == pytest.approx(math.log(2) / 2)


def test_names_of_answers_may_come_in_any_order() -> None:
    questions = simulated(30, np.random.default_rng(0))
    turned = [each.turned() if number % 3 else each for number, each in enumerate(questions)]
    one, other = ({key: value for key, value in audit(each, draws=5, bootstrap=Bootstrap(50))["judges"]["j"].items() if key in
                   ("no_verdict", "labels", "consistency")} for each in (questions, turned))  # fmt: skip
    assert one == other


@pytest.mark.parametrize("soft", [False, True])
def test_intervals_hold_what_is_true(soft: bool) -> None:
    """500 simulated judges: 95 % intervals of position bias, sharpness and taste hold the truth in 93 to 97 %, give or take chance."""
    generator = np.random.default_rng(1)
    inside = {"position": 0, "by_regression": 0, "quality": 0}
    rounds, truth = 500, {"position": 0.3, "by_regression": 0.3, "quality": 1.2}
    for _ in range(rounds):
        pairs = pairs_of(simulated(100, generator, soft=soft))["j"]
        place, strength = measures.position(pairs), measures.regression(pairs, False)
        assert place is not None and strength is not None
        spans = {"position": place["ci95"], "by_regression": strength["position"]["ci95"], "quality": strength["quality"]["ci95"]}
        for name, (low, high) in spans.items():
            # noise within a probability shrinks the coefficients of a regression, not the mean of log-odds
            factor = 1.0 if not soft or name == "position" else 1 / math.sqrt(1 + 0.346 * 0.25)
            inside[name] += low <= truth[name] * factor <= high
    for name, hits in inside.items():
        if not (soft and name == "quality"):  # the shrinking is only about that factor
            assert 0.925 <= hits / rounds <= 0.98, name


def test_a_taste_for_length_is_told_from_quality() -> None:
    generator = np.random.default_rng(2)
    taste = measures.regression(pairs_of(simulated(2000, generator, length=0.5))["j"], False)
    none = measures.regression(pairs_of(simulated(2000, generator))["j"], False)
    assert taste is not None and none is not None
    low, high = taste["length"]["ci95"]
    assert low < 0.5 < high and low > 0.3
    low, high = none["length"]["ci95"]
    assert low < 0 < high


def test_own_answers_that_are_preferred_are_found() -> None:
    generator, found = np.random.default_rng(4), []
    systems = ["j", "u", "v", "w"]
    strengths = dict(zip(systems, (0.0, 0.5, -0.5, 0.2), strict=True))
    for number in range(4000):
        a, b = (systems[each] for each in generator.choice(4, 2, replace=False))
        gold = float(generator.random() < expit(strengths[a] - strengths[b]))
        s = 1.5 * (2 * gold - 1) + 0.8 * ((a == "j") - (b == "j"))
        p = 0.75 if generator.random() < expit(s) else 0.25
        found.append(Asked("j", f"p{number}", a, b, p, 1, gold=gold))
    own = measures.regression(pairs_of(found)["j"], True)
    assert own is not None and own["own"]["ci95"][0] < 0.8 < own["own"]["ci95"][1] and own["own"]["ci95"][0] > 0.4


def test_regression_agrees_with_another() -> None:
    generator = np.random.default_rng(4)
    x = generator.standard_normal((400, 3))
    y = (generator.random(400) < expit(x @ [1.0, -0.5, 0.0])).astype(float)
    ours = fit(x, y, np.arange(400), ridge=1e-9)
    theirs = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(x, y)
    assert ours.coefficients == pytest.approx(theirs.coef_[0], abs=1e-5)
    twice = fit(np.repeat(x, 2, axis=0), np.repeat(y, 2), np.repeat(np.arange(400), 2), ridge=1e-9)
    assert twice.covariance == pytest.approx(ours.covariance, rel=1e-6)  # rows of a group are no new evidence


# ------------------------------------------------------------------------------------------------------------------------ circles
def weak_orders() -> set[tuple[int, int, int]]:
    """Signs of (A - B, B - C, A - C) that three ratings can have."""
    return {tuple(int(np.sign(x)) for x in (r[0] - r[1], r[1] - r[2], r[0] - r[2])) for r in np.ndindex(3, 3, 3)}  # type: ignore[misc]


def test_contradictions_are_those_of_no_weak_order() -> None:
    for signs in np.ndindex(3, 3, 3):
        ab, bc, ac = (each - 1 for each in signs)
        table = np.array([[0, ab, ac], [-ab, 0, bc], [-ac, -bc, 0]], dtype=float)
        found = counted([table[None]])
        assert found["hard"] == ((ab, bc, ac) not in weak_orders()), (ab, bc, ac)
        assert found["cycles"] == (ab == bc == -ac != 0)
        for places in permutations(range(3)):
            assert counted([table[np.ix_(places, places)][None]])["soft"] == pytest.approx(found["soft"])
    ratings = np.random.default_rng(0).standard_normal(5)
    assert counted([(ratings[:, None] - ratings[None, :])[None]])["soft"] == pytest.approx(0, abs=1e-12)


def said_by(judge: Judging, prompts: int, generator: np.random.Generator, circle: float = 0.0) -> list[Asked]:
    """Verdicts on prompts with four answers, in both orders, with a circle added to the strengths of the first three."""
    found = []
    for number, table in enumerate(drawn(judge, {4: prompts}, generator)[0]):
        for i, j in combinations(range(4), 2):
            sign = {(0, 1): 1, (1, 2): 1, (0, 2): -1}.get((i, j), 0)
            for first, value in ((1, table[0, i, j]), (-1, table[1, i, j])):
                if sign and generator.random() < circle:
                    value = sign * math.log(3)
                found.append(Asked("j", f"p{number}", str(i), str(j), float(expit(value)), first, judge.soft))
    return found


@pytest.mark.parametrize("like", [Judging(1.0, 0.6, 0.0, 0.0, False), Judging(0.8, -0.4, 0.7, 0.0, True)])
def test_a_biased_transitive_judge_is_not_called_circular(like: Judging) -> None:
    generator, small = np.random.default_rng(5), {"hard": 0, "cycles": 0, "soft": 0}
    for _ in range(60):
        found = circles(pairs_of(said_by(like, 30, generator))["j"], 60, int(generator.integers(1 << 30)))
        assert found is not None
        for name in small:
            small[name] += found[name]["p"] <= 0.05
    assert all(count <= 9 for count in small.values()), small  # of 60 at 5 %: more than 9 has probability 0.0006


def test_circles_are_found() -> None:
    generator = np.random.default_rng(6)
    like = Judging(1.0, 0.4, 0.0, 0.0, False)
    few, many = (circles(pairs_of(said_by(like, 60, generator, share))["j"], 100, 0) for share in (0.0, 0.9))
    assert few is not None and many is not None
    assert many["cycles"]["p"] < 0.02 < few["cycles"]["p"] and many["cycles"]["observed"] > few["cycles"]["observed"] + 0.1


def test_sharpness_and_bias_come_back_from_pairs() -> None:
    generator = np.random.default_rng(7)
    for like in (Judging(1.5, 0.5, 0.0, 0.0, False), Judging(0.9, -0.3, 0.6, 0.0, True)):
        found = judging(tables(pairs_of(said_by(like, 1500, generator))["j"]), like.soft)
        assert found.spread == pytest.approx(like.spread, rel=0.15)
        assert found.order == pytest.approx(like.order, abs=0.08)
        assert found.noise == pytest.approx(like.noise, rel=0.1)


# ------------------------------------------------------------------------------------------------------------------------ several
def judged(name: str, signs: Sequence[int | None]) -> list[Asked]:
    return [Asked(name, f"p{n}", "a", "b", None if s is None else 0.5 + s / 4, 1, gold=1.0) for n, s in enumerate(signs)]


def test_several_judges() -> None:
    questions = judged("x", [1, 1, 1, -1]) + judged("y", [1, -1, 1, None]) + judged("z", [1, -1, -1, None])
    found = audit(questions, draws=5, bootstrap=Bootstrap(20))["several"]
    assert found["agreement"]["x"]["y"]["score"] == pytest.approx(2 / 3)
    assert found["panel"]["quorum"] == 2 and found["panel"]["no_verdict"]["score"] == 0.25
    assert found["panel"]["accuracy"]["score"] == 0.5  # prompts 0 and 2; the quorum is missing on prompt 3
    # y differs from the rest (x and the sum of others) where z does, too
    assert found["follows"]["z"]["y"]["score"] == 1.0
    same = audit(judged("x", [1, -1, 1]) + judged("y", [1, -1, 1]), draws=5, bootstrap=Bootstrap(20))["several"]
    assert same["alpha"] == 1.0
    with pytest.raises(ConfigError, match="a quorum of 3 cannot be met by 2 judges"):
        audit(judged("x", [1]) + judged("y", [1]), quorum=3)


def test_people_among_themselves_leave_their_own_vote_out() -> None:
    votes = [Asked(f"w{n}", "p", "a", "b", p, 0) for n, p in enumerate([0.75, 0.75, 0.75, 0.25])]
    (pair,) = pairs_of(with_people([Asked("j", "p", "b", "a", 0.25, 1)], votes))["j"]
    assert pair.one.people == (1.0, 3.0)
    with pytest.raises(DataError, match="people voted on none of the pairs"):
        with_people([Asked("j", "another", "a", "b", 0.25, 1)], votes)
    found = measures.people([pair])
    assert found is not None and found["judge"]["score"] == 1.0
    assert found["people"] == {"score": 3 / 4, "n": 4}  # three agree with 2 : 1, one faces 3 : 0


def test_answers_have_the_names_of_their_systems() -> None:
    answers = ((Message("assistant", "x"),), (Message("assistant", "y"),))
    tagged = [RankedResponses((Message("user", "p"),), answers, id=name, tags=tags) for name, tags in
              (("1", {"system_0": "u", "system_1": "j"}), ("2", {"system_0": "u", "system_1": "u"}), ("3", {}))]  # fmt: skip
    asked = of_judgments(tagged, [Judgment("j", name, (1, 0), (0.75, 0.25)) for name in "123"])
    assert [(each.prompt, each.a, each.b, each.p, each.first) for each in asked] == [
        ("p", "u", "j", 0.25, -1), ("p", "2/0", "2/1", 0.25, -1), ("p", "3/0", "3/1", 0.25, -1)
    ]  # fmt: skip
    voted = with_people(asked, [Asked("w", "p", "j", "u", 0.75)])  # a file of battles names prompt and systems
    assert [each.people for each in voted] == [(0.0, 1.0), None, None]


def test_a_label_of_one_judge_is_not_lost_behind_another() -> None:
    silent = [replace(each, gold=None) for each in judged("y", [1, -1])]
    found = audit(judged("x", [1, -1]) + silent, draws=5, bootstrap=Bootstrap(20))["several"]
    assert found["panel"]["accuracy"] == audit(judged("x", [1, -1]) + judged("y", [1, -1]), draws=5)["several"]["panel"]["accuracy"]


# ------------------------------------------------------------------------------------------------------------------------ programs
def test_judgebench_verdicts(tmp_path: Path) -> None:
    rows = [
        {"pair_id": "1", "label": "A>B", "order_1": {"text": "[[A>>B]]"}, "order_2": {"text": "[[B>A]]"}},  # right twice
        {"pair_id": "2", "label": "B>A", "order_1": {"text": "[[A>B]]"}, "order_2": {"text": "[[A>B]]"}},  # twice the first
        {"pair_id": "3", "label": "B>A", "order_1": {"decision": None, "text": "?"}, "order_2": {"decision": "A>B"}},
        {"pair_id": "4", "label": "B>A", "order_1": {"decision": "A=B"}, "order_2": {"decision": "A=B"}},
    ]
    (tmp_path / "jb.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert program("eval", "judge")(["--verdicts", str(tmp_path / "jb.jsonl"), "--out", str(tmp_path / "out"), "--draws", "5"]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())["judges"]["jb"]
    assert found["labels"]["judgebench"]["score"] == pytest.approx(2 / 4)
    assert found["labels"]["accuracy"]["score"] == pytest.approx(1 / 4)
    assert (found["consistency"]["score"], found["consistency"]["both_tied"]) == (pytest.approx(2 / 3), 1)
    assert found["no_verdict"]["reasons"] == {"empty": 1}
    assert "JudgeBench" in (tmp_path / "out" / "judges.html").read_text()
    (tmp_path / "jb.jsonl").write_text(json.dumps({**rows[0], "order_1": "[[A>B]]"}) + "\n")
    with pytest.raises(RecordError, match="order_1 is '\\[\\[A>B\\]\\]'"):
        verdicts(str(tmp_path / "jb.jsonl"), [])


def test_a_judge_is_asked_and_audited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("prefrep.judges.writing.kept.cache_folder", lambda: tmp_path)
    rows = [{"prompt": f"Say {n}", "responses": [f"{n}", f"# No\n- {n}", f"{n}!"], "scores": [2, 1, 1]} for n in range(8)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = "GenerativeJudge model=bundled:tiny-llama style=letter constraint=choice"
    asks = ["--data", str(tmp_path / "data.jsonl"), "--draws", "20", "--bootstrap", "50"]
    assert program("eval", "judge")(["--model", judge, "--model", f"{judge} form=grades", *asks, "--out", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    one = found["judges"]["bundled:tiny-llama"]
    assert (one["pairs"], one["prompts"], one["circles"]["triples"]) == (24, 8, 8)
    assert one["labels"]["accuracy"]["n"] == 16 and found["several"]["units"] == 24
    assert "prefers the first place" in capsys.readouterr().out
    # what it said can be read again, and says the same
    again = ["--verdicts", str(tmp_path / "out" / "verdicts.jsonl"), *asks, "--out", str(tmp_path / "again")]
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "x", "prompt": "p", "chosen": "a", "rejected": "b"}\n')
    with pytest.raises(DataError, match="is about a record '0' that --data does not have"):
        program("eval", "judge")([*again[:2], "--data", str(other), "--out", str(tmp_path / "x")])
    assert program("eval", "judge")(again) == 0
    assert json.loads((tmp_path / "again" / "results.json").read_text())["judges"] == found["judges"]


def test_misuse_is_said(tmp_path: Path) -> None:
    for args, words in (
        ([], "name judges with --model and --data"),
        (["--model", "GenerativeJudge"], "--data must name"),
        (["--model", "runs/x", "--data", "d.jsonl"], "an audit asks judges that write"),
    ):
        with pytest.raises(ConfigError, match=words):
            program("eval", "judge")([*args, "--out", str(tmp_path / "out")])


def test_a_row_without_p_keeps_its_reason() -> None:
    assert replace(Asked("j", "p", "a", "b", None, 1, why="empty")).turned().why == "empty"
