"""Cyclic and transitive comparisons from ratings, and the data that the project ships."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path

import pytest

from prefrep.data import cyclic as module
from prefrep.data.cyclic import HELD_OUT, Cycle, Subset, aspects_of, cycles, cyclic_shares, find_cycle, split_by_prompt, transitive
from prefrep.data.formats import to_record
from prefrep.data.samples import make
from prefrep.data.sources import Source, read
from prefrep.errors import ConfigError, DataError
from prefrep.records import Comparison, Message, RankedResponses, text

SAMPLES = Path(module.__file__).parent / "samples" / "ultrafeedback-mini.jsonl"
NAN = math.nan


def rated(prompt: str = "q", **ratings: tuple[float, ...]) -> RankedResponses:
    count = len(next(iter(ratings.values())))
    responses = tuple((Message("assistant", f"r{i}"),) for i in range(count))
    return RankedResponses((Message("user", prompt),), responses, ratings=ratings, id=prompt)


# 0 > 1 by p, 1 > 2 by q, 2 > 0 by r; s agrees with the order 0, 1, 2.
ROCK = rated(p=(3, 2, 2), q=(1, 3, 2), r=(1, 1, 4), s=(3, 2, 1))


@pytest.fixture(scope="module")
def samples() -> list[RankedResponses]:
    records = []
    for number, line in enumerate(SAMPLES.read_text(encoding="utf-8").splitlines(), start=1):
        record = to_record(json.loads(line), "ultrafeedback", f"{SAMPLES.name}:{number}")
        assert isinstance(record, RankedResponses)
        records.append(record)
    return records


def triples(comparisons: list[Comparison]) -> list[list[Comparison]]:
    assert len(comparisons) % 3 == 0
    return [comparisons[i : i + 3] for i in range(0, len(comparisons), 3)]


def flat(records: list[RankedResponses], omit: str) -> list[Comparison]:
    return [comparison for triple in cycles(records, omit) for comparison in triple]


def best_order(triple: list[Comparison]) -> int:
    """How many of a triple's comparisons the best order of its responses gets right, over all orders."""
    names = {text(c.chosen) for c in triple} | {text(c.rejected) for c in triple}
    return max(
        sum(order.index(text(c.chosen)) < order.index(text(c.rejected)) for c in triple) for order in itertools.permutations(sorted(names))
    )


def test_finds_the_cycle() -> None:
    assert find_cycle(ROCK, "pqr") == Cycle((0, 1, 2), ("p", "q", "r"))
    assert [(c.id, text(c.chosen), text(c.rejected)) for c in flat([ROCK], "s")] == [
        ("q/p:0>1", "r0", "r1"),
        ("q/q:1>2", "r1", "r2"),
        ("q/r:2>0", "r2", "r0"),
    ]
    assert {c.subset for c in flat([ROCK], "s")} == {"without-s"}


def test_no_cycle_where_two_aspects_agree_on_everything_or_a_rating_is_equal() -> None:
    assert find_cycle(rated(p=(3, 2, 1), q=(3, 2, 1), r=(3, 2, 1)), "pqr") is None
    assert find_cycle(rated(p=(2, 1, NAN), q=(NAN, 2, 1), r=(2, NAN, 2)), "pqr") is None  # 0 and 2 tie
    assert find_cycle(rated(p=(3, 2), q=(2, 3), r=(3, 1)), "pqr") is None  # two responses


def test_a_missing_rating_makes_no_comparison() -> None:
    assert find_cycle(rated(p=(2, 1, NAN), q=(NAN, 2, 1), r=(1, NAN, 2)), "pqr") == Cycle((0, 1, 2), ("p", "q", "r"))
    assert find_cycle(rated(p=(2, 1, NAN), q=(NAN, 2, 1), r=(1, NAN, NAN)), "pqr") is None


def test_takes_the_clearest_cycle() -> None:
    # Two triples of four responses form the same cycle; that of 0, 1, 3 has differences of 2 where that of 0, 1, 2 has one of 1.
    record = rated(p=(5, 3, 3, 3), q=(1, 5, 4, 3), r=(1, 1, 4, 4))
    assert find_cycle(record, "pqr") == Cycle((0, 1, 3), ("p", "q", "r"))


def test_agrees_with_brute_force() -> None:
    """A cycle is found exactly where some three responses and criteria, in whatever order, make one."""
    import random

    rng = random.Random(0)
    found = 0
    for _ in range(300):
        record = rated(**{name: tuple(float(rng.randint(1, 3)) for _ in range(4)) for name in "pqr"})
        exists = any(
            record.ratings[x][a] > record.ratings[x][b]
            and record.ratings[y][b] > record.ratings[y][c]
            and record.ratings[z][c] > record.ratings[z][a]
            for a, b, c in itertools.permutations(range(4), 3)
            for x, y, z in itertools.permutations("pqr")
        )
        assert (find_cycle(record, "pqr") is not None) == exists
        found += exists
    assert 50 < found < 300


def test_unknown_and_too_few_aspects_are_refused() -> None:
    with pytest.raises(DataError, match=r"no ratings on the aspect 'honesty' \(found: p, q, r, s\)"):
        flat([ROCK], "honesty")
    with pytest.raises(DataError, match=r"three aspects besides 'p', and there are 2"):
        flat([rated(p=(1, 2, 3), q=(2, 3, 1), r=(3, 1, 2))], "p")


def test_transitive_by_mean() -> None:
    record = rated(p=(1, 5, 4), q=(1, 1, 4))  # means 1, 3, 4
    assert [c.id for c in transitive([record])] == ["q/mean:1>0", "q/mean:2>0", "q/mean:2>1"]
    assert [c.id for c in transitive([record], gap=2)] == ["q/mean:1>0", "q/mean:2>0"]
    assert [c.id for c in transitive([rated(p=(1, 5), q=(9, NAN))])] == ["q/mean:1>0"]  # q counts for neither
    assert transitive([rated(p=(2, 2)), rated(p=(1, NAN))]) == []


def test_split_keeps_prompts_apart_and_is_stable() -> None:
    records = [rated(f"prompt {i % 150}", p=(1, 2)) for i in range(300)]
    train, held = split_by_prompt(records, seed=1)
    prompts = [{text(r.prompt) for r in side} for side in (train, held)]
    assert not prompts[0] & prompts[1]
    assert len(train) + len(held) == 300
    assert 0.15 < len(held) / 300 < 0.45  # 150 draws at HELD_OUT, 0.3: four standard deviations are 0.15
    longer, _ = split_by_prompt([rated("new", p=(1, 2)), *records], seed=1)
    assert [r for r in longer if text(r.prompt) != "new"] == train
    assert split_by_prompt(records, seed=2)[1] != held


# Sub-sets as sources


PARTS = ("seen-prompts", "unseen-prompts", "seen-comparisons", "unseen-comparisons")


def games(count: int) -> list[RankedResponses]:
    """The cycle of ROCK under many prompts."""
    return [rated(f"prompt {i}", **ROCK.ratings) for i in range(count)]


def ultrafeedback(ratings: dict[str, tuple[int, ...]], instruction: str) -> dict[str, object]:
    """A row as the hub has it; 0 stands for a rating that the annotator did not give."""
    count = len(next(iter(ratings.values())))
    annotations = [{name: {"Rating": str(numbers[i] or "N/A"), "Rationale": ""} for name, numbers in ratings.items()} for i in range(count)]
    completions = [{"model": f"m{i}", "response": f"r{i}", "annotations": notes} for i, notes in enumerate(annotations)]
    return {"instruction": instruction, "completions": completions}


def test_the_four_subsets_of_ultrafeedback_rows(tmp_path: Path) -> None:
    """Counts by hand: the first row is a cycle by three aspects and no other three; the second by none; the third lacks one rating."""
    names = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    rock, paper, same = (3, 2, 2), (1, 3, 2), (1, 1, 4)  # 0 > 1; 1 > 2 (and 1 > 0, 2 > 0); 2 > 0 (and 2 > 1)
    rows = [
        ultrafeedback(dict(zip(names, (rock, paper, same, (3, 3, 3)), strict=True)), "a"),  # truthfulness says nothing
        ultrafeedback(dict.fromkeys(names, (3, 2, 1)), "b"),
        ultrafeedback(dict(zip(names, ((3, 3, 3), rock, (1, 0, 2), same), strict=True)), "c"),  # nobody says 1 > 2
    ]
    file = tmp_path / "ratings.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for omit in names[:3]:
        with pytest.raises(DataError, match=f"no prompt has a cycle by the aspects other than '{omit}'"):
            list(read(f"cyclic:{file}?omit={omit}"))
    found = [c for c in read(f"cyclic:{file}?omit=truthfulness") if isinstance(c, Comparison)]
    assert [(c.id, text(c.chosen), text(c.rejected), c.subset) for c in found] == [
        ("ratings.jsonl:1/helpfulness:0>1", "r0", "r1", "without-truthfulness"),
        ("ratings.jsonl:1/honesty:1>2", "r1", "r2", "without-truthfulness"),
        ("ratings.jsonl:1/instruction_following:2>0", "r2", "r0", "without-truthfulness"),
    ]
    with pytest.raises(DataError, match=r"no ratings on the aspect 'wit' \(found: helpfulness, honesty"):
        list(read(f"cyclic:{file}?omit=wit"))


def test_seen_and_unseen_are_all_and_disjoint() -> None:
    everything = list(Subset("f", "s").comparisons(games(200)))
    part = {name: list(Subset("f", "s", name).comparisons(games(200))) for name in PARTS}  # type: ignore[arg-type]
    assert len(everything) == 600
    for what in ("prompts", "comparisons"):
        seen, unseen = ({c.id for c in part[f"{kind}-{what}"]} for kind in ("seen", "unseen"))
        assert seen | unseen == {c.id for c in everything} and not seen & unseen
    prompts = [{c.prompt for c in part[f"{kind}-prompts"]} for kind in ("seen", "unseen")]
    assert not prompts[0] & prompts[1]
    assert len(prompts[1]) == pytest.approx(200 * HELD_OUT, abs=4 * math.sqrt(200 * HELD_OUT * (1 - HELD_OUT)))
    # Two of every cycle are seen, and which one is not varies: each of the three about a third of the time.
    assert [len(part[f"{kind}-comparisons"]) for kind in ("seen", "unseen")] == [400, 200]
    for aspect in "pqr":
        closing = sum(f"/{aspect}:" in c.id for c in part["unseen-comparisons"])
        assert closing == pytest.approx(200 / 3, abs=4 * math.sqrt(200 * 2 / 9))


@pytest.mark.parametrize("part", PARTS)
def test_parts_follow_from_seed_and_prompt_alone(part: str) -> None:
    records = games(60)

    def ids(records: list[RankedResponses], seed: int) -> list[str]:
        return [c.id for c in Subset("f", "s", part, seed).comparisons(records)]  # type: ignore[arg-type]

    assert ids(records, 1) == ids(records, 1) != ids(records, 2)
    assert sorted(ids(records[::-1], 1)) == sorted(ids(records, 1))
    assert [name for name in ids([*records, *games(90)[60:]], 1) if int(name.split("/")[0].split()[1]) < 60] == ids(records, 1)


def test_the_samples_by_their_name(samples: list[RankedResponses]) -> None:
    path = "cyclic:bundled:ultrafeedback-mini?omit=warmth"
    found = list(read(path))
    assert [c.id for c in found] == [c.id for c in flat(samples, "warmth")]
    rest = {c.id for part in ("seen", "unseen") for c in read(f"{path}&part={part}-prompts&seed=3")}
    assert rest == {c.id for c in found}
    assert {c.prompt for c in read(Source(path, limit=20))} <= {record.prompt for record in samples[:20]}


def test_a_subset_is_refused_in_one_sentence() -> None:
    for wrong in ("cyclic:f.jsonl", "cyclic:?omit=honesty", "cyclic:f.jsonl?omit=honesty&parts=all"):
        with pytest.raises(ConfigError, match=r"write cyclic:RATINGS\?omit=ASPECT"):
            Source(wrong)
    with pytest.raises(ConfigError, match="no part 'half'; there are all, seen-prompts"):
        Source("cyclic:f.jsonl?omit=honesty&part=half")
    with pytest.raises(ConfigError, match="the seed must be a whole number"):
        Source("cyclic:f.jsonl?omit=honesty&seed=-1")
    with pytest.raises(DataError, match="no such bundled data; there is .*bundled:ultrafeedback-mini"):
        list(read("bundled:ultrafeedback"))


# The data that the project ships


def test_samples_are_rated_by_the_documented_rules() -> None:
    """The ratings that are stored are those that the rules give, and they spread."""
    rows = [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]
    assert [make.rate(row) for row in rows] == rows
    assert len(rows) >= 100 and len({row["instruction"] for row in rows}) == len(rows)
    assert all(len({c["response"] for c in row["completions"]}) == 4 for row in rows)
    for aspect in make.ASPECTS:
        ratings = [c["annotations"][aspect]["Rating"] for row in rows for c in row["completions"]]
        assert set(ratings) == set("12345")
        assert all(ratings.count(rating) >= len(ratings) / 10 for rating in "12345")


def test_rules_by_hand() -> None:
    question, answer = "How do I bake good bread?", "Dear friend, baking bread is easy: mix, knead, bake!"
    # Words: dear friend baking bread is easy mix knead bake = 9, letters 4+6+6+5+2+4+3+5+4 = 39.
    assert make.brevity(question, answer) == 9
    assert make.plainness(question, answer) == 39 / 9
    # Of dear friend baking bread easy knead bake (four letters or more), bread and bake have a stem of the question; "bakin" is another.
    assert make.relevance(question, answer) == 100 * 2 / 7
    assert make.warmth(question, answer) == 100 * 3 / 9  # dear, friend and an exclamation mark
    assert {name: aspect.rating(question, answer) for name, aspect in make.ASPECTS.items()} == {
        "brevity": 5,
        "plainness": 4,
        "relevance": 5,
        "warmth": 5,
    }
    assert {aspect.rating(question, "1.1.1") for aspect in make.ASPECTS.values()} == {1}


def test_answers_that_hit_the_limit_end_with_a_sentence() -> None:
    assert make.whole_sentences("One. Two! And then the") == "One. Two!"
    assert make.whole_sentences("1. Boil it.\n2. Serve") == "1. Boil it."
    assert make.whole_sentences("no end in sight") == "no end in sight"


def test_every_triple_of_the_samples_is_a_cycle_by_its_criteria(samples: list[RankedResponses]) -> None:
    by_source = {record.id or record.source: record for record in samples}
    for omit in aspects_of(samples):
        comparisons = flat(samples, omit)
        for triple in triples(comparisons):
            members, criteria = [], []
            for c in triple:
                match = re.fullmatch(r"(.+)/([^/]+):(\d)>(\d)", c.id)
                assert match
                record, criterion, first, second = by_source[match[1]], match[2], int(match[3]), int(match[4])
                assert (c.chosen, c.rejected, c.prompt) == (record.responses[first], record.responses[second], record.prompt)
                assert record.ratings[criterion][first] > record.ratings[criterion][second]
                members.append((first, second))
                criteria.append(criterion)
            assert omit not in criteria and len(set(criteria)) == 3
            assert [second for _, second in members] == [members[1][0], members[2][0], members[0][0]]
            assert best_order(triple) == 2  # so a scalar reward gets at most 2/3


def test_every_subset_of_the_samples_is_large_enough(samples: list[RankedResponses]) -> None:
    assert len(aspects_of(samples)) >= 4
    for omit in aspects_of(samples):
        assert len(flat(samples, omit)) >= 3 * 30


def test_shares_hold_one_cycle_per_prompt(samples: list[RankedResponses]) -> None:
    comparisons = cyclic_shares(samples)
    prompts = [text(triple[0].prompt) for triple in triples(comparisons)]
    assert len(prompts) == len(set(prompts)) >= 60
    sizes = [sum(c.subset == f"without-{omit}" for c in comparisons) for omit in aspects_of(samples)]
    assert sum(sizes) == len(comparisons)
    assert max(sizes) <= 1.5 * min(sizes)
    reachable = {text(c.prompt) for omit in aspects_of(samples) for c in flat(samples, omit)}
    assert set(prompts) == reachable


def test_the_people_of_the_sample_are_transitive_and_their_majority_is_not() -> None:
    wins: dict[tuple[str, str], list[str]] = {}
    for record in read(Source("bundled:people")):
        assert isinstance(record, Comparison)
        wins.setdefault((text(record.prompt), record.annotator or ""), []).append(text(record.chosen) + text(record.rejected))
    tastes: dict[str, set[tuple[str, ...]]] = {}
    for (_, who), won in wins.items():
        assert len(won) == 3
        tastes.setdefault(who, set()).add(
            next(
                order
                for order in itertools.permutations(("A cat.", "A dog.", "A bird."))
                if set(won) == set(map("".join, itertools.combinations(order, 2)))
            )
        )
    orders = [next(iter(each)) for each in tastes.values() if len(each) == 1]
    assert len(orders) == len(tastes) == 3
    for first, second in (("A cat.", "A dog."), ("A dog.", "A bird."), ("A bird.", "A cat.")):
        assert sum(order.index(first) < order.index(second) for order in orders) == 2
