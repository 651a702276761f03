"""Other people's preference models: golden numbers of their own code, transformers' classifiers, slow references, and damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import encoders
import families
import numpy as np
import pytest
import torch
from conftest import COMPARISONS, program
from families import RECORDS, rewards, said
from safetensors.torch import load_file
from transformers import AutoTokenizer

from prefrep.errors import CheckpointError, ConfigError
from prefrep.io import folder
from prefrep.io.catalogue import FAMILIES
from prefrep.io.readers import TITLES, kind_of, opened
from prefrep.nn.backbone import Backbone
from prefrep.records import Comparison, Message, RankedResponses
from prefrep.scoring import PairScorer, Scorer

GOLDEN = families.golden()
score = program("score")


@pytest.mark.parametrize("kind", [kind for kind in GOLDEN if "pairrm" not in kind])
@pytest.mark.parametrize("layout", ["auto", "padded"])
def test_rewards_of_the_authors_code(kind: str, layout: Any, tmp_path: Path) -> None:
    """`benchmarks/parity/families.py` wrote the golden numbers with RewardBench's classes; folders keep them."""
    place = families.write(tmp_path / kind, kind)
    expected = [value for row in GOLDEN[kind] for value in row]
    assert max(expected) - min(expected) > 0.01
    found = kind_of(str(place))
    assert found == families.KINDS.get(kind, kind)
    scorer = Scorer(opened(place), layout=layout)
    assert rewards(scorer) == pytest.approx(expected, abs=1e-5)
    if layout == "padded":
        model = scorer.model
        folder.save(tmp_path / "ours", model.backbone, model.head, model.tau, model.encode, model.tokenizer, model.recipe)
        assert rewards(Scorer.from_pretrained(tmp_path / "ours")) == pytest.approx(expected, abs=1e-5)


def pair_scores(scorer: PairScorer) -> list[float]:
    """As `benchmarks/parity/families.py` has them: the first answer against all others, then all others against the first."""
    pairs = []
    for record in RECORDS:
        others = range(1, len(record.responses))
        orders = [(0, i) for i in others] + [(i, 0) for i in others]
        pairs += [Comparison(record.prompt, record.responses[a], record.responses[b]) for a, b in orders]
    return list(scorer.compare_one_order(pairs))


@pytest.mark.parametrize("kind", ["pairrm", "better-pairrm"])
def test_pairrm(kind: str, tmp_path: Path) -> None:
    """Each order as the code of LLM-Blender and Better-PairRM has it, and comparisons the mean over both orders."""
    scorer = Scorer.from_pretrained(families.write(tmp_path / "rm", kind), kind=kind)
    assert isinstance(scorer, PairScorer)
    expected = [value for row in GOLDEN[kind] for value in row]
    assert pair_scores(scorer) == pytest.approx(expected, abs=1e-5)
    table = next(scorer.tables(RECORDS))
    first, second, back, again = GOLDEN[kind][0]
    assert table[0, 1:].tolist() == pytest.approx([(first - back) / 2, (second - again) / 2], abs=1e-5)
    assert np.array_equal(table, -table.T)
    assert first + back != pytest.approx(0, abs=1e-3)  # else the order would not matter
    model = scorer.model
    folder.save(tmp_path / "ours", model.backbone, model.head, model.tau, model.encode, model.tokenizer, model.recipe)
    again_loaded = Scorer.from_pretrained(tmp_path / "ours")
    assert isinstance(again_loaded, PairScorer)
    assert pair_scores(again_loaded) == pytest.approx(expected, abs=1e-5)


CLASSIFIERS = [
    ("deberta-v2", {}), ("roberta", {}), ("xlm-roberta", {}), ("camembert", {}), ("bert", {}),
    ("modernbert", {"classifier_pooling": "mean"}), ("modernbert", {"classifier_pooling": "cls"}), ("deberta-v2", {"type_vocab_size": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), CLASSIFIERS)
@pytest.mark.parametrize("chats", [False, True])
def test_encoders_as_classifiers(kind: str, options: dict[str, Any], chats: bool, tmp_path: Path) -> None:
    """Padding is on the right: with it on the left, transformers reads a pad token where the first token counts."""
    model = encoders.folder(tmp_path / "rm", kind, "ForSequenceClassification", **options)
    tokenizer = encoders.tokenizer()
    records = [RankedResponses(c.prompt, (c.chosen, c.rejected)) for c in COMPARISONS] + RECORDS
    if chats:
        tokenizer.chat_template = families.CHAT.replace("bos_token", "''")
        tokenizer.save_pretrained(tmp_path / "rm")
    asked, answers, texts = [], [], []
    for record in records:
        for response in record.responses:
            asked.append("\n".join(m.content for m in record.prompt))
            answers.append(response[0].content)
            turns = [{"role": m.role, "content": m.content} for m in record.prompt + response]
            texts.append(str(tokenizer.apply_chat_template(turns, tokenize=False)) if chats else "")
    types = getattr(model.config, "type_vocab_size", 0) > 1
    given = (texts,) if chats else (asked, answers)
    inputs = tokenizer(*given, padding=True, return_tensors="pt", return_token_type_ids=types and not chats)
    with torch.no_grad():
        expected = model(**inputs).logits[:, 0].tolist()
    scorer = Scorer.from_pretrained(tmp_path / "rm", batch_tokens=200)
    assert rewards(scorer, records) == pytest.approx(expected, abs=1e-5)
    assert len({round(x, 4) for x in expected}) > 5


def test_longer_texts_lose_the_ends_of_answers(tmp_path: Path) -> None:
    """As transformers truncates on the right: the last token stays [SEP]."""
    model = encoders.folder(tmp_path / "rm", "roberta", "ForSequenceClassification")
    scorer = Scorer(opened(tmp_path / "rm"))
    scorer = Scorer(replace_length(scorer, 20))
    record = RankedResponses(said("Name a prime"), (said("x")[:1], (Message("assistant", "long " * 9),)))
    tokenizer = encoders.tokenizer()
    tokenizer.truncation_side = "right"
    inputs = tokenizer(
        "Name a prime", "long " * 9, truncation="only_second", max_length=20, return_tensors="pt", return_token_type_ids=False
    )
    with torch.no_grad():
        assert rewards(scorer, [record])[1] == pytest.approx(model(**inputs).logits.item(), abs=1e-5)
    assert scorer.encode_counts["truncated responses"] == 1


def replace_length(scorer: Scorer, length: int) -> folder.PreferenceModel:
    from dataclasses import replace

    return replace(scorer.model, encode=replace(scorer.model.encode, max_length=length))


# ---- layouts whose code is not at hand: the formula, one text at a time


@torch.no_grad()
def states(place: Path, record: RankedResponses, response: tuple[Message, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The last state of a text, and that of the last token of its prompt."""
    tokenizer: Any = AutoTokenizer.from_pretrained(place)
    body = Backbone(str(place), attention="eager").eval().transformer

    def ids(messages: tuple[Message, ...]) -> list[int]:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    hidden = body(input_ids=torch.tensor([ids(record.prompt + response)])).last_hidden_state[0]
    return hidden[-1], hidden[len(ids(record.prompt)) - 1]


def test_worldpm(tmp_path: Path) -> None:
    place = families.write(tmp_path / "rm", "worldpm")
    t = load_file(place / "model.safetensors")
    expected = []
    for record in RECORDS:
        for response in record.responses:
            h, _ = states(place, record, response)
            inner = torch.relu(h @ t["v_head.0.weight"].T + t["v_head.0.bias"])
            expected.append(float(inner @ t["v_head.2.weight"][0] + t["v_head.2.bias"]))
    assert rewards(Scorer.from_pretrained(place)) == pytest.approx(expected, abs=1e-5)


def test_armorm_and_its_objectives(tmp_path: Path) -> None:
    place = families.write(tmp_path / "rm", "armorm")
    t = load_file(place / "model.safetensors")
    total, each = [], []
    for record in RECORDS:
        for response in record.responses:
            h, gate = states(place, record, response)
            for i in range(3):
                gate = gate @ t[f"gating.layers.{i}.weight"].T + t[f"gating.layers.{i}.bias"]
                gate = torch.relu(gate) if i < 2 else gate
            weights = torch.softmax(gate / 0.5, -1) * t["gating.logit_scale"]
            own = (h @ t["regression_layer.weight"].T) @ t["reward_transform_matrix"]
            total.append(float(weights @ own))
            each.append(own.tolist())
    scorer = Scorer.from_pretrained(place)
    assert rewards(scorer) == pytest.approx(total, abs=1e-5)
    for i, name in enumerate(("helpful", "honest", "short")):
        assert rewards(Scorer.from_pretrained(place, objective=name)) == pytest.approx([x[i] for x in each], abs=1e-5)
    tables = list(scorer.tables(RECORDS))
    assert tables[0] == pytest.approx(np.subtract.outer(total[:3], total[:3]), abs=1e-5)
    pair = Comparison(RECORDS[0].prompt, *RECORDS[0].responses[:2])
    assert next(scorer.compare_rewards([pair])) == pytest.approx((total[0] - total[1], total[0], total[1]), abs=1e-5)
    with pytest.raises(ConfigError, match="no objective 'kind'; this model has helpful, honest, short"):
        Scorer.from_pretrained(place, objective="kind")


def test_a_cost_is_the_negative_and_not_shifted(tmp_path: Path) -> None:
    reward = families.write(tmp_path / "reward", "beaver", do_normalize=False)
    cost = families.write(tmp_path / "cost", "beaver", score_type="cost")
    assert rewards(Scorer.from_pretrained(cost)) == pytest.approx([-x / 2 for x in rewards(Scorer.from_pretrained(reward))], abs=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_steamshp(tied: bool, tmp_path: Path) -> None:
    """Log-odds of the first decoded token; transformers' own model decodes. Flan-T5 has an output layer of its own, T5 has not."""
    model = encoders.folder(tmp_path / "t5", "t5", "ForConditionalGeneration")
    model = model if tied else encoders.untied(tmp_path / "t5")
    tokenizer = encoders.tokenizer()
    with pytest.raises(CheckpointError, match="--as rlhflow or steamshp"):
        Scorer.from_pretrained(tmp_path / "t5")
    scorer = Scorer.from_pretrained(tmp_path / "t5", kind="steamshp")
    assert isinstance(scorer, PairScorer)
    expected, letters = [], tokenizer("AB", add_special_tokens=False)["input_ids"]
    for pair in COMPARISONS:
        x, a, b = (each[0].content for each in (pair.prompt, pair.chosen, pair.rejected))
        text = f"POST: {x}\n\n RESPONSE A: {a}\n\n RESPONSE B: {b}\n\n Which response is better? RESPONSE"
        with torch.no_grad():
            logits = model(
                **tokenizer(text, return_tensors="pt", return_token_type_ids=False), decoder_input_ids=torch.tensor([[0]])
            ).logits
        expected.append(float(logits[0, 0, letters[0]] - logits[0, 0, letters[1]]))
    assert list(scorer.compare_one_order(COMPARISONS)) == pytest.approx(expected, abs=1e-5)


def test_mean_pooling_of_a_causal_model(tmp_path: Path) -> None:
    place = families.write(tmp_path / "rm", "oasst-pythia", pooling="mean")
    t = load_file(place / "model.safetensors")
    tokenizer: Any = AutoTokenizer.from_pretrained(place)
    body = Backbone(str(place), attention="eager").eval().transformer
    expected = []
    for response in RECORDS[0].responses:
        turns = [{"role": m.role, "content": m.content} for m in RECORDS[0].prompt + response]
        with torch.no_grad():
            hidden = body(
                input_ids=tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)["input_ids"]
            ).last_hidden_state
        expected.append(float(hidden[0].mean(0) @ t["out_proj.weight"][0] + t["out_proj.bias"]))
    assert rewards(Scorer.from_pretrained(place), RECORDS[:1]) == pytest.approx(expected, abs=1e-5)


def test_several_labels_need_a_choice(tmp_path: Path) -> None:
    model = encoders.folder(tmp_path / "rm", "deberta-v2", "ForSequenceClassification", num_labels=2, id2label={0: "kind", 1: "true"})
    with pytest.raises(CheckpointError, match="2 outputs.*choose one with --objective: kind, true"):
        Scorer.from_pretrained(tmp_path / "rm")
    inputs = encoders.tokenizer()("Name a prime", "7", return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = float(model(**inputs).logits[0, 1])
    found = rewards(Scorer.from_pretrained(tmp_path / "rm", objective="true"), RECORDS[:1])
    assert found[0] == pytest.approx(expected, abs=1e-5)


def test_every_family_has_a_title_and_a_test() -> None:
    tested = {*map(lambda kind: families.KINDS.get(kind, kind), families.LAYOUTS), "deberta", "roberta", "bert", "modernbert", "steamshp"}
    assert set(FAMILIES) - tested == {"better-pairrm"}  # of the layout of PairRM, with golden numbers of its own
    assert set(FAMILIES) < set(TITLES)


def test_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = families.write(tmp_path / "rm", "ultrarm")
    data = tmp_path / "in.jsonl"
    data.write_text(json.dumps({"prompt": "Name a prime", "chosen": "7", "rejected": "9, I would say"}) + "\n")
    out = tmp_path / "out.jsonl"
    assert score(["--model", str(place), "--data", str(data), "--out", str(out)]) == 0
    assert "taken for UltraRM or Eurus-RM (--as ultrarm)" in capfd.readouterr().err
    first, second, _ = GOLDEN["ultrarm"][0]
    assert json.loads(out.read_text())["score"] == pytest.approx(first - second, abs=1e-5)
