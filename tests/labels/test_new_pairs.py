"""Pairs across prompts and axioms: who is compared with whom, and what the checks of the papers find."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checks are no part of the package
from benchmarks import label_checks
from prefrep.data.encode import EncodeConfig
from prefrep.data.preference import PreferenceData
from prefrep.data.sources import Source
from prefrep.errors import ConfigError, RecordError
from prefrep.io.folder import PreferenceModel
from prefrep.judges import RuleJudge
from prefrep.labels import CrossPrompt, Evidence, Labelled, LabelStep, Relevance, Strength, Thoroughness, Usefulness, Work
from prefrep.labels.axioms import _Elsewhere, nearest
from prefrep.labels.rows import read_pairs, written
from prefrep.modules import GeneralPreference
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead
from prefrep.nn.loading import load_tokenizer
from prefrep.nn.losses import LogisticLoss
from prefrep.nn.skew import BlockSkew, GatedSkew
from prefrep.records import Comparison, Message, RankedResponses, text
from prefrep.scoring import Scorer
from tests.labels.synthetic import Given, pair

PAIRS = [pair(f"p{i}", f"good {i}", f"bad {i}", probability=float(i % 3 > 0)) for i in range(30)]
WON = {f"p{i}": f"good {i}" if i % 3 else f"bad {i}" for i in range(30)}


def longer(prompt: str, response: str, other: str) -> float:
    """A rule of conversations."""
    return float(len(response) - len(other))


def _new(step: LabelStep, tmp_path: Path, pairs: list[Labelled] = PAIRS) -> list[Comparison]:
    found = step.apply(pairs, Work("none", tmp_path)).pairs
    assert found[: len(pairs)] == pairs
    return [each.comparison for each in found[len(pairs) :]]


def test_across_prompts_without_a_judge(tmp_path: Path) -> None:
    """Winners beat losers of other prompts; the same seed draws the same pairs; conversations hold their prompts."""
    new = _new(CrossPrompt(share=2.0, seed=3), tmp_path)
    assert len(new) == 60 and new == _new(CrossPrompt(share=2.0, seed=3), tmp_path) != _new(CrossPrompt(share=2.0, seed=4), tmp_path)
    for each in new:
        (asked, answer), (other, loser) = (side for side in (each.chosen, each.rejected))
        assert not each.prompt and asked != other and each.probability == 1.0
        assert answer.content == WON[asked.content] and loser.content != WON[other.content]


def test_across_prompts_by_a_judge(tmp_path: Path) -> None:
    """P is the judge's, whatever the labels were."""
    new = _new(CrossPrompt(judge=RuleJudge("tests.labels.test_new_pairs.longer")), tmp_path)
    for each in new:
        odds = len(text(each.chosen)) - len(text(each.rejected))
        assert each.probability == pytest.approx(1 / (1 + np.exp(-odds)))
    assert len({each.probability for each in new}) > 1


def test_pairs_across_prompts_are_read_back(tmp_path: Path) -> None:
    """In a file with the pairs they were made of."""
    path = tmp_path / "out.jsonl"
    every = CrossPrompt().apply(PAIRS, Work("none", tmp_path)).pairs
    path.write_text("".join(json.dumps(row) + "\n" for row in written(every)))
    again = [each.comparison for each in read_pairs(Source(str(path)))]
    fields = ("prompt", "chosen", "rejected", "probability", "subset")
    assert [[getattr(each, name) for name in fields] for each in again] == [
        [getattr(each.comparison, name) for name in fields] for each in every
    ]


def test_gated_heads_refuse_pairs_across_prompts(tmp_path: Path) -> None:
    """Where they are trained, scored and labelled; texts without any prompt are no such pairs, and other heads read both."""
    pairs = CrossPrompt(alone=True).apply(PAIRS, Work("none", tmp_path)).pairs
    path = tmp_path / "across.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in written(pairs[:3])))
    refused = r"across.jsonl:1: its responses answer different prompts, and this head is gated"
    records = [each.comparison for each in read_pairs(Source(str(path)))]
    backbone, tokenizer = Backbone("bundled:tiny-llama").eval(), load_tokenizer("bundled:tiny-llama")
    bare = Comparison((), (Message("assistant", "a"),), (Message("assistant", "b"),))
    same = replace(records[0], rejected=(*records[0].chosen[:-1], Message("assistant", "b")))
    longer = (Message("assistant", "a"), Message("user", "and?"), Message("assistant", "c"))
    turns = Comparison((Message("user", "p"),), longer, (Message("assistant", "b"), *longer[1:]))
    instructed = replace(records[0], prompt=(Message("system", "Be brief."),))
    for gated in (True, False):
        head = GPMHead(backbone.hidden_size, 4, GatedSkew if gated else BlockSkew)
        scorer = Scorer(PreferenceModel(backbone, head, 1.0, EncodeConfig(), tokenizer, {}))
        data = PreferenceData(train=str(path), cache=str(tmp_path / "cache"))
        module = GeneralPreference(lambda: backbone, lambda _, head=head: head)
        module.configure_model()
        data.trainer = cast(Any, SimpleNamespace(lightning_module=module))
        data.setup("fit")
        assert len(list(scorer.compare([bare, same, turns]))) == 3
        (table,) = scorer.tables([RankedResponses((), (records[0].chosen,))])
        assert table.shape == (1, 1), "one conversation is no comparison"
        if not gated:
            assert len(list(scorer.compare(records))) == len(data._encoded("train")) == 3
            continue
        with pytest.raises(RecordError, match=refused):
            list(scorer.compare(records))
        with pytest.raises(RecordError, match="answer different prompts"):
            list(scorer.compare([instructed]))
        with pytest.raises(RecordError, match=refused):
            data._encoded("train")
        with pytest.raises(RecordError, match=refused):
            step = Strength(folds=2, members=1, head=lambda size: GPMHead(size, 4, GatedSkew))
            step.apply([Labelled(each) for each in records], Work("bundled:tiny-llama", tmp_path))


def test_usefulness_is_a_log_ratio_of_votes(tmp_path: Path) -> None:
    """log(8 / 2) from 7 and 1 votes; log(3) from a published ratio of 3; pairs without votes stay."""
    voted = Labelled(PAIRS[0].comparison, scores=(7.0, 1.0))
    found = Usefulness(scale=2.0).apply([voted, PAIRS[1]], Work("none", tmp_path)).pairs
    assert found[0].comparison.margin == pytest.approx(2 * np.log(4), abs=1e-6) and found[1] == PAIRS[1]
    (shp,) = Usefulness("ratio").apply([pair("p", "a", "b", strength=3.0)], Work("none", tmp_path)).pairs
    assert shp.comparison.margin == pytest.approx(np.log(3), abs=1e-6)
    with pytest.raises(ConfigError, match="no pair has votes"):
        Usefulness().apply(PAIRS, Work("none", tmp_path))


@pytest.mark.parametrize("negatives", ["random", "near", "liked"])
def test_relevance(tmp_path: Path, negatives: Any) -> None:
    """The winner on its prompt beats a winner on another one; near ones are the nearest, liked ones are liked more than random ones."""
    draw = np.random.default_rng(0)
    vectors = {name: draw.standard_normal(6) for i in range(30) for name in (f"p{i}", f"good {i}", f"bad {i}")}
    found = Relevance(negatives, share=0.5, weight=0.25, seed=1).apply(PAIRS, Given(vectors, tmp_path)).pairs[30:]
    assert len(found) == 15 and len({each.comparison.prompt for each in found}) == 15
    for each in (new.comparison for new in found):
        asked = each.prompt[0].content
        other = {answer: prompt for prompt, answer in WON.items()}[each.rejected[0].content]
        assert each.chosen[0].content == WON[asked] and other != asked and (each.subset, each.weight) == ("relevance", 0.25)
        if negatives == "near":
            mean = np.mean([vectors[f"p{i}"] for i in range(30)], 0)
            cosine = {
                name: (vectors[name] - mean) @ (vectors[asked] - mean) / np.linalg.norm(vectors[name] - mean)
                for name in WON
                if name != asked
            }
            assert other == max(cosine, key=lambda name: cosine[name])


def test_pairs_of_other_prompts_are_drawn_evenly() -> None:
    """Each pair of another prompt is as likely as the others, the own prompt's are never drawn, and none is drawn twice."""
    prompt = np.array([2, 0, 2, 1, 0, 2, 3])
    elsewhere, draw = _Elsewhere(prompt), np.random.default_rng(0)
    for place in range(7):
        others = np.flatnonzero(prompt != prompt[place])
        assert sorted(elsewhere.drawn(place, 99, draw)) == list(others)
        counts = np.bincount(np.concatenate([elsewhere.drawn(place, 2, draw) for _ in range(600)]), minlength=7)[others]
        assert counts.sum() == 1200 and chisquare(counts).pvalue > 1e-3


def test_nearest_leaves_out_the_own_group() -> None:
    """By hand: 0 and 1 are one prompt."""
    assert nearest(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.9, 0.2], [-1.0, 0.0]]), np.array([0, 0, 1, 2]))[:2] == [2, 2]


def test_thoroughness_cuts_behind_a_sentence(tmp_path: Path) -> None:
    """The half nearest to the middle; an answer of one sentence has none."""
    pairs = [pair("p", "One two. Three four. Five six seven eight.", "b"), pair("q", "One sentence only.", "b")]
    (new,) = _new(Thoroughness(share=1.0), tmp_path, pairs)
    assert (new.chosen, new.rejected) == (pairs[0].comparison.chosen, (Message("assistant", "One two. Three four."),))


def test_evidence_from_columns(tmp_path: Path) -> None:
    """Rows that have both columns make a pair."""
    rows = [{"with": "a", "without": "b"}, {"with": "a"}, None]
    pairs = [Labelled(each.comparison, row) for each, row in zip(PAIRS, rows, strict=False)]
    (new,) = _new(Evidence("with", "without", share=1.0), tmp_path, pairs)
    assert (new.prompt[0].content, text(new.chosen), text(new.rejected), new.subset) == ("p0", "a", "b", "grounding")
    with pytest.raises(ConfigError, match="no row holds a text in both columns"):
        Evidence("with", "missing", share=1.0).apply(pairs, Work("none", tmp_path))


def test_relevance_is_learnt_at_a_price(tmp_path: Path) -> None:
    """Votes do not teach it; random negatives add 0.2 or more on the axiom, for 0.1 of the votes at most (related.md 2.16: .3 and .08)."""
    found = label_checks.relevance(0, tmp_path, n=600, tests=500)
    assert found["relevance: votes alone"] < 0.3
    assert found["relevance: + 20 % random"] > found["relevance: votes alone"] + 0.2
    assert found["relevance: + 20 % liked"] > found["relevance: + 20 % random"]
    assert found["votes: + 20 % random"] > found["votes: votes alone"] - 0.1


def test_cross_prompt_pairs_help_where_answers_are_alike(tmp_path: Path) -> None:
    """By 15 points or more where the answers to a prompt hardly differ, and by none at normal diversity (related.md 2.3)."""
    alike = label_checks.across(0, tmp_path, spread=0.1, n=500, tests=500)
    assert alike["BT, across prompts"] > alike["BT, same prompt"] + 0.15
    assert alike["pointwise, across prompts"] > alike["pointwise, same prompt"] + 0.15
    normal = label_checks.across(0, tmp_path, beta=10.0, n=500, tests=500)
    assert abs(normal["BT, across prompts"] - normal["BT, same prompt"]) < 0.05
    assert normal["BT, same prompt"] > normal["pointwise, same prompt"] - 0.01, "no gain over Bradley-Terry on its own data"


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda: CrossPrompt(share=0.0), "CrossPrompt.share"),
        (lambda: Relevance("hard"), "Relevance.negatives"),
        (lambda: Relevance(share=2.0), "Relevance.share"),
        (lambda: Thoroughness(weight=0.0), "Thoroughness.weight"),
        (lambda: Usefulness(scale=0.0), "Usefulness.scale"),
        (lambda: CrossPrompt().apply(PAIRS[:1], Work("none", Path())), "two prompts"),
        (lambda: Relevance().apply(PAIRS[:1], Work("none", Path())), "no two pairs have different prompts"),
    ],
)
def test_what_is_refused(step: Any, message: str) -> None:
    """Out of range, and too few prompts."""
    with pytest.raises(ConfigError, match=message):
        step()


def test_margins_of_votes_reach_the_loss() -> None:
    """-log sigmoid(s - m)."""
    scores, margin = torch.tensor([1.0]), torch.tensor([2.0])
    torch.testing.assert_close(LogisticLoss()(scores, torch.ones(1), margin), torch.nn.functional.softplus(margin - scores))
