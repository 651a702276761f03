"""Policies as preference models, against transformers one text at a time, and against the losses that policies learn by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COMPARISONS, program
from families import RECORDS
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.errors import ConfigError, UsageError
from prefrep.judges import ImplicitJudge
from prefrep.modules.alignment import DirectAlignment
from prefrep.nn.backbone import Backbone
from prefrep.nn.bundled import resolve
from prefrep.records import Message
from prefrep.scoring import Scorer
from prefrep.scoring.implicit import Form, ImplicitScorer
from prefrep.scoring.loading import Scoring

POLICY = "bundled:tiny-llama"
score = program("score")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another policy with the same tokenizer."""
    place = tmp_path_factory.mktemp("reference")
    model: Any = AutoModelForCausalLM.from_pretrained(resolve(POLICY))
    torch.manual_seed(3)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(place)
    AutoTokenizer.from_pretrained(resolve(POLICY)).save_pretrained(place)
    return str(place)


@torch.no_grad()
def logprobs(path: str, prompt: tuple[Message, ...], response: tuple[Message, ...]) -> torch.Tensor:
    """Log-probabilities of the tokens of an answer and its end, by transformers."""
    tokenizer: Any = AutoTokenizer.from_pretrained(resolve(path))
    model: Any = AutoModelForCausalLM.from_pretrained(resolve(path), attn_implementation="eager").eval()

    def ids(messages: tuple[Message, ...], opened: bool) -> list[int]:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=opened).rstrip("\n" if not opened else "")
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    before, whole = ids(prompt, True), ids(prompt + response, False)
    assert whole[: len(before)] == before and whole[-1] == tokenizer.eos_token_id
    scores = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return scores[torch.arange(len(before) - 1, len(whole) - 1), torch.tensor(whole[len(before) :])]


@pytest.mark.parametrize("layout", ["trees", "padded"])
def test_ratios(layout: Any, reference: str) -> None:
    scorer = ImplicitScorer.of(POLICY, reference, beta=0.3, layout=layout)
    for record, found in zip(RECORDS, scorer.rewards(RECORDS), strict=True):
        own = [[float(logprobs(path, record.prompt, y).sum()) for y in record.responses] for path in (POLICY, reference)]
        assert found.tolist() == pytest.approx(0.3 * np.subtract(*own), abs=1e-4)
    pair, *_ = COMPARISONS
    table = scorer.table(pair.prompt, [pair.chosen, pair.rejected])
    assert next(scorer.compare([pair])) == pytest.approx(table[0, 1], abs=1e-4)
    assert not scorer.pairwise


@pytest.mark.parametrize(("form", "rule"), [("sum", lambda x: x.sum()), ("average", lambda x: x.mean()), ("norm", lambda x: -x.norm())])
def test_forms_without_a_reference(form: Form, rule: Any) -> None:
    scorer = ImplicitScorer.of(POLICY, None, form)
    for record, found in zip(RECORDS, scorer.rewards(RECORDS), strict=True):
        assert found.tolist() == pytest.approx([float(rule(logprobs(POLICY, record.prompt, y))) for y in record.responses], abs=1e-4)


def test_they_are_the_rewards_that_policies_learn_by(reference: str) -> None:
    """`DirectAlignment` sums the same tokens."""
    scorer = ImplicitScorer.of(POLICY, reference)
    encoder = Encoder(scorer.model.tokenizer, EncodeConfig(), "single", policy=True, given="refuse")
    data = [datum for _, datum in encoder.encode(COMPARISONS) if datum is not None]
    sums = []
    for path in (POLICY, reference):
        module = DirectAlignment(lambda path=path: Backbone(path))  # type: ignore[misc]
        module.configure_model()
        batch = scorer._collated(data)
        assert batch.surplus is not None
        with torch.no_grad():
            sums.append(module.response_logprobs(batch, batch.surplus))
    ratios = (sums[0] - sums[1])[batch.pairs]
    assert list(scorer.compare(COMPARISONS)) == pytest.approx((ratios[:, 0] - ratios[:, 1]).tolist(), abs=1e-4)


def test_texts_fit_both_models(reference: str, tmp_path: Path) -> None:
    place = Path(shutil.copytree(reference, tmp_path / "short"))
    about = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(about | {"max_position_embeddings": 64}))
    assert ImplicitScorer.of(POLICY, str(place)).encode.max_length == 64
    assert ImplicitScorer.of(str(place), reference).encode.max_length == 64


def test_what_does_not_go_together(reference: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="form ratio needs a reference"):
        ImplicitScorer.of(POLICY, None)
    with pytest.raises(ConfigError, match="form sum has no reference"):
        ImplicitScorer.of(POLICY, reference, "sum")
    with pytest.raises(ConfigError, match="beta must be positive"):
        ImplicitScorer.of(POLICY, reference, beta=0)
    with pytest.raises(ConfigError, match="different vocabularies"):
        ImplicitScorer.of(POLICY, "bundled:tiny-qwen2")
    for options, words in (
        ({"beta": 2.0}, "--beta"),
        ({"implicit": "ratio"}, "needs --reference"),
        ({"reference": "x", "implicit": "sum"}, "no reference"),
    ):
        with pytest.raises(UsageError, match=words):
            Scoring(**options)  # type: ignore[arg-type]


def test_the_command_line_and_the_judge(reference: str, tmp_path: Path) -> None:
    data, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    data.write_text(json.dumps({"prompt": "Name a prime", "chosen": "7", "rejected": "9"}) + "\n")
    assert score(["--model", POLICY, "--reference", reference, "--beta", "0.5", "--data", str(data), "--out", str(out)]) == 0
    scorer = ImplicitScorer.of(POLICY, reference, beta=0.5)
    expected = next(scorer.compare(COMPARISONS[:1]))
    assert json.loads(out.read_text())["score"] == pytest.approx(expected, abs=1e-5)
    judge = ImplicitJudge(POLICY, reference, beta=0.5)
    (verdict,) = judge.judge(RECORDS[:1])
    assert verdict.table == pytest.approx(next(scorer.tables(RECORDS[:1])), abs=1e-5)
    assert judge.describe()["beta"] == 0.5 and judge.describe()["reference_fingerprint"]


def test_a_policy_without_a_reference_is_named(tmp_path: Path) -> None:
    place = Path(resolve(POLICY))
    with pytest.raises(Exception, match="give a policy's --reference"):
        Scorer.from_pretrained(place)
