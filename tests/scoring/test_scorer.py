"""The scorer: tables are skew and agree with comparisons, and nothing but the texts moves a score."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from conftest import COMPARISONS, comparison
from transformers import GptOssConfig, GptOssForCausalLM

from prefrep.data.encode import EncodeConfig
from prefrep.errors import ConfigError, DataError, RecordError
from prefrep.io.folder import PreferenceModel
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead, GPMHead, HybridHead, PairHead, PreferenceHead
from prefrep.nn.loading import load_tokenizer
from prefrep.nn.skew import BlockSkew, GatedSkew, LearnedSkew
from prefrep.records import Comparison, Message, RankedResponses
from prefrep.scoring import PairScorer, Scorer, ranked

HEADS: dict[str, Any] = {
    "bt": BTHead,
    "pair": PairHead,
    "block": partial(GPMHead, dim=4, skew=BlockSkew),
    "gated": partial(GPMHead, dim=6, skew=GatedSkew, normalize=False),
    "learned": partial(GPMHead, dim=4, skew=LearnedSkew),
    "hybrid": partial(HybridHead, dim=4, skew=GatedSkew, normalize=False),
}
LAYOUTS: tuple[Literal["padded", "auto"], ...] = ("padded", "auto")
RESPONSES = ["Sure, here it is: one", "Sure, here it is: two", "No.", "", "Because it rains, and rain is wet"]
TABLES = [
    ranked("Why?", RESPONSES),
    ranked("Name a prime number, and say how you found it", ["7", "9"]),
    ranked("Alone", ["me"]),
    ranked((Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Go on")), ["the end", "the end", "theend"]),
]


def model(name: str, backbone: Backbone, tau: float = 0.5, **encode: Any) -> PreferenceModel:
    """A model whose head is random, wide enough that scores differ visibly and stay of the size of log-odds."""
    torch.manual_seed(0)
    head: PreferenceHead = HEADS[name](backbone.hidden_size)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return PreferenceModel(backbone, head.eval(), tau, EncodeConfig(**encode), backbone.tokenizer(), {})


@pytest.fixture(params=HEADS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_padded_rows_are_read_by_a_kernel_that_the_model_has(tmp_path: Path) -> None:
    """The first one that is tried lacks the sinks of gpt-oss."""
    tokenizer = load_tokenizer("bundled:tiny-llama")
    config = GptOssConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, num_local_experts=4, num_experts_per_tok=2, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    GptOssForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    padded, auto = (list(Scorer(model("bt", Backbone(str(tmp_path)).eval()), layout=kind).compare(COMPARISONS)) for kind in LAYOUTS)
    assert padded == pytest.approx(auto, abs=1e-4)


def as_comparison(record: RankedResponses, i: int, j: int) -> Comparison:
    return Comparison(record.prompt, record.responses[i], record.responses[j])


def test_tables_are_skew_and_agree_with_comparisons(name: str, llama: Backbone) -> None:
    scorer = Scorer(model(name, llama))
    for record, table in zip(TABLES, scorer.tables(TABLES), strict=True):
        size = len(record.responses)
        assert table.shape == (size, size) and table.dtype == np.float32
        assert np.array_equal(table, -table.T) and not table.diagonal().any()
        places = list(itertools.permutations(range(size), 2))
        scores = list(scorer.compare(as_comparison(record, i, j) for i, j in places))
        np.testing.assert_allclose(scores, [table[place] for place in places], atol=1e-4)
        if size == 5:
            assert np.abs(table[np.triu_indices(5, 1)]).min() > 1e-3, "scores that are all near zero would agree anyhow"


@pytest.mark.parametrize("layout", ["trees", "padded"])
@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_scores_do_not_depend_on_batches_or_layout(name: str, layout: Any, batch_tokens: int, llama: Backbone) -> None:
    scorer = Scorer(model(name, llama), batch_tokens, layout)
    alone = Scorer(model(name, llama), batch_tokens=1, layout="padded")
    wanted = [next(alone.compare([record])) for record in COMPARISONS]
    assert len({round(score, 2) for score in wanted}) == len(wanted)
    np.testing.assert_allclose(list(scorer.compare(COMPARISONS)), wanted, atol=1e-4)
    np.testing.assert_allclose(list(scorer.compare(COMPARISONS[::-1])), wanted[::-1], atol=1e-4)
    for record, table in zip(TABLES, scorer.tables(TABLES), strict=True):
        np.testing.assert_allclose(table, next(alone.tables([record])), atol=1e-4)


@pytest.mark.parametrize(
    ("rubric", "batch_tokens"), [("Prefer what is true. " * 10, 4096), ("Prefer what is true. " * 10, 1000), ("Be true. ", 400)]
)
def test_records_read_what_they_begin_with_once(
    name: str, rubric: str, batch_tokens: int, llama: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rubric above some records of different lengths, and others between them."""
    above = Message("system", rubric)
    mixed = [
        replace(each, prompt=(above, *each.prompt, Message("user", "And? " * (i % 7 * 8)))) if i % 3 else each
        for i, each in enumerate(itertools.islice(itertools.cycle(COMPARISONS), 2 * len(COMPARISONS)))
    ]
    read: list[int] = []
    forward = Backbone.forward

    def counted(self: Backbone, ids: Any, positions: Any, until: Any, padded: bool) -> Any:
        read.append(int((until > 0).sum()))
        return forward(self, ids, positions, until, padded)

    monkeypatch.setattr(Backbone, "forward", counted)
    alone = Scorer(model(name, llama), batch_tokens=1)
    wanted = [next(alone.compare([record])) for record in mixed]
    apart, most = sum(read), max(read)
    read.clear()
    np.testing.assert_allclose(list(Scorer(model(name, llama), batch_tokens).compare(mixed)), wanted, atol=1e-4)
    limit = {4096: 0.75, 1000: 0.9, 400: 1.0}[batch_tokens]  # a short rubric is hardly worth it, and pairs of a pair model fill a batch
    assert sum(read) <= limit * apart
    assert max(read) <= max(batch_tokens, most)


def test_company_does_not_matter(name: str, llama: Backbone) -> None:
    """Neither other prompts in a batch nor other responses to the same prompt."""
    scorer = Scorer(model(name, llama))
    whole = scorer.table("Why?", RESPONSES)
    for some in ([0, 2], [4, 1, 3], [1]):
        np.testing.assert_allclose(scorer.table("Why?", [RESPONSES[i] for i in some]), whole[np.ix_(some, some)], atol=1e-4)


def test_exchanging_the_responses_changes_the_sign_alone(name: str, llama: Backbone) -> None:
    scorer = Scorer(model(name, llama))
    texts = [("Why?", "So", "No"), ("A", "", "b"), ("Same", "same", "same")]
    there = list(scorer.compare(comparison(*text) for text in texts))
    back = list(scorer.compare(comparison(prompt, b, a) for prompt, a, b in texts))
    np.testing.assert_allclose(there, [-score for score in back], atol=1e-5)
    assert there[2] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("layout", ["trees", "padded"])
@pytest.mark.parametrize("family_name", ["llama", "gpt2"])
def test_texts_without_a_prompt_have_no_favourite_side(family_name: str, layout: Any) -> None:
    """Without prompt and without BOS a gate could only read a response: whose, must not be decided by the label."""
    scorer = Scorer(model("gated", Backbone(f"bundled:tiny-{family_name}").eval()), layout=layout)
    a, b = ((Message("assistant", text),) for text in ("seven", "nine"))
    there, back = scorer.compare([Comparison((), a, b), Comparison((), b, a)])
    assert abs(there) > 1e-2 and there == pytest.approx(-back, abs=1e-4)
    (table,) = scorer.tables([RankedResponses((), (a, b))])
    assert table[0, 1] == pytest.approx(there, abs=1e-4)


def test_padding_with_eos_is_harmless(name: str, llama: Backbone) -> None:
    wanted = list(Scorer(model(name, llama), layout="padded").compare(COMPARISONS))
    other = model(name, llama)
    other.tokenizer.pad_token = other.tokenizer.eos_token
    assert list(Scorer(other, layout="padded").compare(COMPARISONS)) == wanted


def test_tau_divides(name: str, llama: Backbone) -> None:
    once, tenth = (list(Scorer(model(name, llama, tau=tau)).compare(COMPARISONS)) for tau in (1.0, 0.1))
    np.testing.assert_allclose(tenth, np.asarray(once) * 10, rtol=1e-5)


def test_rank_is_by_row_mean(name: str, llama: Backbone) -> None:
    scorer = Scorer(model(name, llama))
    table, order = scorer.table("Why?", RESPONSES), scorer.rank("Why?", RESPONSES)
    means = [sum(float(x) for x in row) / len(row) for row in table]
    assert sorted(order) == list(range(5)) and [means[i] for i in order] == sorted(means, reverse=True)


def test_rank_of_a_reward_model_sorts_its_rewards(llama: Backbone) -> None:
    scorer = Scorer(model("bt", llama))
    (rewards,) = scorer.rewards([TABLES[0]])
    assert scorer.rank("Why?", RESPONSES) == sorted(range(5), key=lambda i: -rewards[i])
    np.testing.assert_allclose(scorer.table("Why?", RESPONSES), rewards[:, None] - rewards[None, :], atol=1e-5)
    assert not scorer.pairwise


@pytest.mark.parametrize("general", ["pair", "block"])
def test_only_reward_models_have_rewards(general: str, llama: Backbone) -> None:
    scorer = Scorer(model(general, llama))
    assert scorer.pairwise
    with pytest.raises(ConfigError, match=r"Head compares responses and gives no reward"):
        list(scorer.rewards([TABLES[0]]))


def test_one_response_or_none_at_all(name: str, llama: Backbone) -> None:
    scorer = Scorer(model(name, llama))
    assert scorer.table("Q", ["only"]).tolist() == [[0.0]] and scorer.rank("Q", ["only"]) == [0]
    assert list(scorer.compare([])) == [] and list(scorer.tables([])) == []


def test_conversations_are_lists_of_messages_too(name: str, llama: Backbone) -> None:
    scorer = Scorer(model(name, llama))
    expected = scorer.table("Name a prime", ["7", "9"])
    for prompt in ([Message("user", "Name a prime")], [{"role": "user", "content": "Name a prime"}], (Message("user", "Name a prime"),)):
        assert np.array_equal(scorer.table(prompt, ["7", [{"role": "assistant", "content": "9"}]]), expected)
    with pytest.raises(ValueError, match="needs role and content"):
        scorer.table([{"text": "Name a prime"}], ["7", "9"])


def test_a_score_that_is_no_number_is_refused(name: str, llama: Backbone) -> None:
    broken = model(name, llama)
    with torch.no_grad():
        for parameter in broken.head.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(DataError, match="not finite"):
        Scorer(broken).rank("Name a prime", ["7", "9"])


def test_streams_are_read_as_they_are_needed(name: str, llama: Backbone) -> None:
    taken = 0

    def endless() -> Iterator[Comparison]:
        nonlocal taken
        for taken in itertools.count(1):
            yield comparison("Say", str(taken), "no")

    scores = list(itertools.islice(Scorer(model(name, llama)).compare(endless()), 3))
    assert 3 <= taken <= 256
    np.testing.assert_allclose(
        scores, list(Scorer(model(name, llama)).compare(comparison("Say", str(i), "no") for i in (1, 2, 3))), atol=1e-4
    )


def test_long_streams_keep_their_order(llama: Backbone) -> None:
    """Longer than a window, lengths all mixed up."""
    scorer = Scorer(model("bt", llama))
    records = [comparison("Say", "x" * (i * 37 % 23), "no") for i in range(150)]
    wanted = {i: next(scorer.compare([comparison("Say", "x" * i, "no")])) for i in range(23)}
    np.testing.assert_allclose(list(scorer.compare(records)), [wanted[i * 37 % 23] for i in range(150)], atol=1e-4)


def test_whoever_asks_gets_a_score(llama: Backbone) -> None:
    """`drop` is for training data; where even truncation leaves nothing to compare, there is a sentence."""
    long = comparison("word " * 50, "a", "b", source="f.jsonl:4")
    short = {"max_length": 40}
    dropping, keeping = (Scorer(model("bt", llama, truncation=t, **short)) for t in ("drop", "keep_end"))
    assert list(dropping.compare([long])) == list(keeping.compare([long]))
    assert dropping.describe()["encoded"] == {"records": 1, "truncated prompts": 1}
    with pytest.raises(RecordError, match=r"f\.jsonl:4: .*max_length"):
        list(Scorer(model("bt", llama, truncation="keep_start", **short)).compare([long]))


def test_scores_are_not_of_the_training_kind(name: str, llama: Backbone) -> None:
    """No gradients, and plain numbers."""
    (score,) = Scorer(model(name, llama)).compare(COMPARISONS[:1])
    assert type(score) is float
    (table,) = Scorer(model(name, llama)).tables(TABLES[:1])
    assert isinstance(table, np.ndarray)


def test_description_is_plain_data(name: str, llama: Backbone) -> None:
    scorer = Scorer(model(name, llama), batch_tokens=64, layout="padded")
    list(scorer.compare(COMPARISONS))
    about = json.loads(json.dumps(scorer.describe()))
    assert about["layout"] == "padded" and about["batch_tokens"] == 64 and about["dtype"] == "float32"
    assert about["encoded"]["records"] == len(COMPARISONS) and about["pairwise"] is (name != "bt")


def test_settings_out_of_range(llama: Backbone) -> None:
    with pytest.raises(ConfigError, match="batch_tokens"):
        Scorer(model("bt", llama), batch_tokens=0)


def test_one_order_of_a_pair_model(llama: Backbone) -> None:
    """The average over both orders, rebuilt from single ones; other models have no order to show."""
    records = list(COMPARISONS)
    swapped = [replace(record, chosen=record.rejected, rejected=record.chosen) for record in records]
    scorer = PairScorer(model("pair", llama))
    first, second = list(scorer.compare_one_order(records)), list(scorer.compare_one_order(swapped))
    assert any(abs(a + b) > 1e-3 for a, b in zip(first, second, strict=True)), "a random pair model prefers a position"
    averaged = [(a - b) / 2 for a, b in zip(first, second, strict=True)]
    assert averaged == pytest.approx(list(scorer.compare(records)), abs=1e-4)
    assert not hasattr(Scorer(model("bt", llama)), "compare_one_order")


@pytest.mark.parametrize("layout", ["trees", "padded"])
def test_a_pair_model_reads_no_more_at_a_time_than_a_batch(layout: Any, llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten pairs of five responses, in batches of at most 400 tokens, whatever the record; the table is the one of a single batch."""
    read, own = list[int](), Backbone.forward

    def forward(self: Backbone, ids: torch.Tensor, positions: torch.Tensor, until: torch.Tensor, padded: bool) -> torch.Tensor:
        read.append(int((until > 0).sum()))
        return own(self, ids, positions, until, padded)

    monkeypatch.setattr(Backbone, "forward", forward)
    (whole,) = Scorer(model("pair", llama), 10**6, layout).tables(TABLES[:1])
    assert max(read) > 600
    read.clear()
    (parts,) = Scorer(model("pair", llama), 400, layout).tables(TABLES[:1])
    assert len(read) > 2 and max(read) <= 400
    np.testing.assert_allclose(parts, whole, atol=1e-4)


def test_nothing_is_longer_than_the_model_can_read(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 64 positions reads what fits, as if it had been exported with that length; and counts what did not."""
    long = comparison("word " * 80, "a", "b")
    short = list(Scorer(model("bt", llama, max_length=64)).compare([long]))
    monkeypatch.setattr(Backbone, "room", 64)
    scorer = Scorer(model("bt", llama, max_length=2048))
    assert list(scorer.compare([long])) == short and scorer.describe()["encoded"] == {"records": 1, "truncated prompts": 1}


def test_rewards_beside_log_odds(llama: Backbone) -> None:
    """One reading gives what `compare` and `rewards` give, to the last bit of the log-odds."""
    head = BTHead(llama.hidden_size)
    torch.nn.init.normal_(head.value_head.weight)
    scorer = Scorer(PreferenceModel(llama, head, 0.3, EncodeConfig(), llama.tokenizer(), {}))
    found = list(scorer.compare_rewards(COMPARISONS))
    assert [score for score, _, _ in found] == list(scorer.compare(COMPARISONS))
    for (score, chosen, rejected), record in zip(found, COMPARISONS, strict=True):
        rewards = next(scorer.rewards([RankedResponses(record.prompt, (record.chosen, record.rejected))]))
        assert [chosen, rejected] == pytest.approx(rewards.tolist(), abs=1e-5) and score == pytest.approx(chosen - rejected, abs=1e-5)
