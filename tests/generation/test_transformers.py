"""Sampling against slow references: full forward passes, exact distributions, transformers' own `generate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encoder, tiny
from scipy.stats import chisquare
from transformers import FalconConfig, GenerationConfig, MambaConfig

from prefrep.data.encode import pad_id
from prefrep.errors import ConfigError, RecordError, TrainingError
from prefrep.generation import Sampled, TransformersSampler
from prefrep.nn.backbone import Backbone
from prefrep.nn.decoding import SharedCache, reads_like_the_model
from prefrep.nn.loading import load_tokenizer
from prefrep.nn.lora import LoRA
from prefrep.nn.probes import ROUNDING
from prefrep.records import Message, Messages


def user(text: str) -> Messages:
    return (Message("user", text),)


SHORT, LONG = user("Why?"), (*user("Name a prime number, please."), Message("assistant", "7"), *user("And another one?"))


def tokens(
    sampler: TransformersSampler, backbone: Backbone, prompts: Sequence[Messages], responses: int = 1, seed: int = 0
) -> list[list[int]]:
    """Token ids of the N * K responses."""
    found = sampler.sample(backbone, prompts, responses, range(seed, seed + len(prompts)))
    return [list(each.ids or ()) for own in found for each in own]


@pytest.fixture(params=["continuous", "padded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of decoding."""
    if request.param == "padded":
        monkeypatch.setattr("prefrep.generation.transformers._probed", lambda *_: False)
    return str(request.param)


@torch.no_grad()
def greedy(backbone: Backbone, ids: np.ndarray, count: int) -> list[int]:
    """The likeliest tokens by one whole forward pass each, without a cache or padding."""
    whole = [int(token) for token in ids]
    for _ in range(count):
        whole.append(int(backbone.model(input_ids=torch.tensor([whole])).logits[0, -1].argmax()))
    return whole[len(ids) :]


def test_end_ids() -> None:
    plain, chat = encoder(template="plain"), encoder()
    assert plain.end_ids() == chat.end_ids() == [chat.tokenizer.eos_token_id]
    chat.tokenizer.add_special_tokens({"eos_token": "<|other|>"})
    other = type(chat)(chat.tokenizer, chat.config, "single")
    assert other.end_ids() == sorted(chat.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|other|>"]))


# ---- greedy


def test_greedy_is_the_likeliest_token_whatever_the_neighbours(family: Backbone, way: str) -> None:
    sampler = TransformersSampler(temperature=0, max_new_tokens=10)
    encoded = encoder(family.path).prompts([SHORT, LONG])
    ends = set(sampler.encoder(family)[1])
    together = tokens(sampler, family, [SHORT, LONG], 2)
    assert set(sampler._continuous.values()) == {way == "continuous"}, "every family can be read token by token"
    for row, ids in zip((0, 2), encoded, strict=True):
        wanted = greedy(family, ids, 10)
        assert not ends & set(wanted)
        assert together[row] == together[row + 1] == wanted


def compare_with_generate(backbone: Backbone, texts: Sequence[str], new: int) -> None:
    """Greedy tokens of our own and of `generate`, prompt by prompt, in float32."""
    sampler = TransformersSampler(temperature=0, max_new_tokens=new, tokens=1000)
    coder, ends = sampler.encoder(backbone)
    prompts = [user(text) for text in texts]
    found = tokens(sampler, backbone, prompts)
    pad = pad_id(coder.tokenizer)
    settings = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=ends, pad_token_id=pad)
    for ids, own in zip(coder.prompts(prompts), found, strict=True):
        whole = torch.from_numpy(ids)[None].long()
        wanted = backbone.model.generate(input_ids=whole, attention_mask=torch.ones_like(whole), generation_config=settings)
        assert own == wanted[0, len(ids) :].tolist()


def test_greedy_equals_generate(llama: Backbone) -> None:
    compare_with_generate(llama, [f"Say {'the number ' * (n % 7)}{n}" for n in range(100)], 6)


@pytest.mark.slow
def test_greedy_equals_generate_for_the_bundled_model() -> None:
    compare_with_generate(
        Backbone().eval(), [f"Name {n} {what}." for n in range(2, 27) for what in ("rivers", "primes", "poets", "gods")], 12
    )


@pytest.mark.parametrize("budget", [1, 200, 400])
def test_room_in_memory_changes_no_response(budget: int, llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts wait for others to end, places are used again, the last responses move together, and memory grows with them."""
    monkeypatch.setattr("prefrep.nn.decoding.FIRST", 2)
    prompts = [user("Say " + "the " * n) for n in range(9)]
    monkeypatch.setattr(llama.model, "generation_config", GenerationConfig(eos_token_id=list(range(0, 60))))  # many responses end early
    whole = tokens(TransformersSampler(1.0, 1.0, 12), llama, prompts, 3)
    assert len({len(ids) for ids in whole}) > 5
    assert tokens(TransformersSampler(1.0, 1.0, 12, tokens=budget), llama, prompts, 3) == whole


@pytest.mark.parametrize("budget", [1, 150, 400, 700, 2000])
def test_prompts_that_wait_for_a_place_are_within_the_budget(budget: int, llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int, int, int]] = []

    class Seen(SharedCache):
        def __init__(self, *args: int) -> None:
            super().__init__(*args)
            sizes.append(self.sizes)

    monkeypatch.setattr("prefrep.generation.continuous.SharedCache", Seen)
    tokens(TransformersSampler(1.0, 1.0, 12, tokens=budget), llama, [user("Say " + "the " * n) for n in range(9)], 3)
    ((slots, longest, places, new),) = sizes
    assert new == 12 and places % 3 == 0 and places // 3 <= slots <= 9
    assert slots * longest + places * new <= max(budget, longest + 3 * new)
    assert (slots + 2) * longest + (places + 3) * new > budget or slots == 9, "and as many as fit"


def test_a_response_does_not_depend_on_the_others(family: Backbone, way: str) -> None:
    sampler = TransformersSampler(1.0, 0.9, max_new_tokens=8)
    whole = tokens(sampler, family, [SHORT, LONG], 4, seed=5)
    assert tokens(sampler, family, [LONG], 4, seed=6) == whole[4:]
    assert tokens(sampler, family, [SHORT], 2, seed=5) == whole[:2]


def test_both_ways_draw_the_same(family: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = TransformersSampler(0.8, 0.9, max_new_tokens=8, top_k=40)
    one = [own for own in sampler.sample(family, [SHORT, LONG], 3, [1, 2])]
    sampler._continuous.clear()
    monkeypatch.setattr("prefrep.generation.transformers._probed", lambda *_: False)
    two = [own for own in sampler.sample(family, [SHORT, LONG], 3, [1, 2])]
    for a, b in zip((each for own in one for each in own), (each for own in two for each in own), strict=True):
        assert a == b and a.ids == b.ids
        assert a.logprob == pytest.approx(b.logprob, abs=1e-4) and a.entropy == pytest.approx(b.entropy, abs=1e-5)


def test_stops_at_the_end_token_of_the_model(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth greedy token is declared the end: then three tokens are the text."""
    wanted = greedy(llama, encoder().prompts([SHORT])[0], 6)
    assert wanted[3] not in wanted[:3]
    monkeypatch.setattr(llama.model, "generation_config", GenerationConfig(eos_token_id=[wanted[3]]))
    (found,) = next(TransformersSampler(temperature=0, max_new_tokens=6).sample(llama, [SHORT], 1, [0]))
    assert found == Sampled(llama.tokenizer().decode(wanted[:3], skip_special_tokens=True), True)
    (cut,) = next(TransformersSampler(temperature=0, max_new_tokens=3).sample(llama, [SHORT], 1, [0]))
    assert cut == Sampled(found.text, False)


def test_several_tokens_end_a_response_and_it_can_be_empty(llama: Backbone, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = greedy(llama, encoder().prompts([SHORT])[0], 6)
    for place in (0, 2, 5):
        ends = {token: place for token in (wanted[place], 299, 298)}
        monkeypatch.setattr(llama.model, "generation_config", GenerationConfig(eos_token_id=list(ends)))
        stop = next(i for i, token in enumerate(wanted) if token in ends)
        sampler = TransformersSampler(temperature=0, max_new_tokens=6)
        (short, _), (other, _) = sampler.sample(llama, [SHORT, LONG], 2, [0, 0])
        assert short.finished and list(short.ids or ()) == wanted[: stop + 1]
        assert short.text == llama.tokenizer().decode(wanted[:stop], skip_special_tokens=True)
        assert other.finished == bool(ends.keys() & set(other.ids or ()))


# ---- draws


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 0.8)])
def test_first_tokens_follow_the_nucleus(llama: Backbone, temperature: float, top_p: float) -> None:
    with torch.no_grad():
        ids = torch.tensor(encoder().prompts([SHORT])[0][None], dtype=torch.long)
        p = (llama.model(input_ids=ids).logits[0, -1].double() / temperature).softmax(0).numpy()
    order = np.argsort(-p)
    kept = order[: int(np.searchsorted(np.cumsum(p[order]), top_p) + 1)]
    nucleus = np.zeros_like(p)
    nucleus[kept] = p[kept] / p[kept].sum()
    count = 4000
    drawn = np.array(tokens(TransformersSampler(temperature, top_p, max_new_tokens=1), llama, [SHORT], count))[:, 0]
    share = np.bincount(drawn, minlength=len(p)) / count
    assert (top_p == 1 or len(kept) < len(p)) and share[nucleus == 0].sum() == 0
    assert (np.abs(share - nucleus) <= 5 * np.sqrt(nucleus * (1 - nucleus) / count) + 1e-9).all()


def test_sequences_follow_the_model(llama: Backbone) -> None:
    """Three tokens twice are nine sequences, whose probabilities two whole forward passes give."""
    prompt = encoder().prompts([SHORT])[0].tolist()

    @torch.no_grad()
    def likeliest(ids: list[int]) -> tuple[list[int], np.ndarray]:
        top = llama.model(input_ids=torch.tensor([ids])).logits[0, -1].double().topk(3)
        return top.indices.tolist(), top.values.softmax(0).numpy()

    first, share = likeliest(prompt)
    expected = {(a, b): p * q for a, p in zip(first, share, strict=True) for b, q in zip(*likeliest([*prompt, a]), strict=True)}
    count = 20_000
    found = Counter(map(tuple, tokens(TransformersSampler(1.0, 1.0, 2, top_k=3), llama, [SHORT], count)))
    assert found.keys() <= expected.keys()
    assert chisquare([found[pair] for pair in expected], [p * count for p in expected.values()]).pvalue > 1e-4


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_logprobs_and_entropies_are_those_of_whole_passes(name: str, way: str) -> None:
    """At temperature 1 and without truncation, however the tokens were drawn."""
    backbone = Backbone(f"bundled:tiny-{name}").eval()
    coder = encoder(backbone.path)
    for prompt, own in zip(
        (SHORT, LONG), TransformersSampler(0.7, 0.8, 9, top_k=50).sample(backbone, [SHORT, LONG], 3, [0, 1]), strict=True
    ):
        for each in own:
            before = coder.prompts([prompt])[0].tolist()
            assert each.ids is not None and each.exact
            with torch.no_grad():
                logits = backbone.model(input_ids=torch.tensor([[*before, *each.ids]])).logits[0, len(before) - 1 : -1].double()
            logprobs = logits.log_softmax(-1)
            assert each.logprob == pytest.approx(logprobs.gather(1, torch.tensor(each.ids)[:, None]).sum().item(), abs=1e-4)
            assert each.entropy == pytest.approx(-(logprobs.exp() * logprobs).sum(-1).mean().item(), abs=1e-5)


@pytest.mark.parametrize("how", ["set", "autocast"])
def test_a_copy_in_bfloat16(how: str) -> None:
    """The log-probabilities are those of the copy, and the policy stays as it is."""
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=4)).train()
    for name, parameter in backbone.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    sampler = TransformersSampler(1.0, 1.0, 8, dtype="bfloat16" if how == "set" else "auto")
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        (own,) = sampler.sample(backbone, [LONG], 3, [0])
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    prompt, copy = encoder().prompts([LONG])[0].tolist(), backbone.twin(torch.bfloat16).model
    exact = backbone.twin().model
    for each in own:
        assert not each.exact and each.ids is not None

        def score(model: Any, ids: Sequence[int] = each.ids) -> float:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
            return float(logits.double().log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())

        assert each.logprob == pytest.approx(score(copy), abs=0.3) == pytest.approx(score(exact), abs=0.6)


@pytest.mark.parametrize("kind", ["mamba", "falcon"])
def test_models_that_cannot_be_read_token_by_token_are_named(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A recurrent one, and one whose positions are biases: they decode with `generate`, to the tokens of whole passes."""
    load_tokenizer("bundled:tiny-gpt2").save_pretrained(tmp_path)
    size: dict[str, Any] = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
    heads: dict[str, Any] = {"num_attention_heads": 2, "alibi": True, "initializer_range": 0.2}
    backbone = Backbone(tiny(tmp_path, MambaConfig(**size) if kind == "mamba" else FalconConfig(**size, **heads))).eval()
    with caplog.at_level("WARNING"):
        found = tokens(TransformersSampler(temperature=0, max_new_tokens=6), backbone, [SHORT, SHORT], 2)
    assert "sampling with transformers' generate, which is slower" in caplog.text
    coder = TransformersSampler().encoder(backbone)[0]
    assert found == [greedy(backbone, coder.prompts([SHORT])[0], 6)] * 4


@pytest.mark.parametrize("name", ["bundled:smollm2-135m", "bundled:tiny-llama"])
def test_half_precision_is_read_token_by_token_too(name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding is not taken for a state of the model's own, and a cache that is wrong is not taken for rounding."""
    backbone = Backbone(name, dtype="bfloat16", frozen=True).eval()
    with caplog.at_level("WARNING"):
        tokens(TransformersSampler(max_new_tokens=2), backbone, [SHORT], 2)
    assert "transformers' generate" not in caplog.text
    keep = SharedCache.keep

    def damaged(slot: int) -> Callable[..., None]:
        def kept(self: SharedCache, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
            keep(self, layer, key, value)
            self._kept[layer][1][slot] = self._kept[layer][1][slot].roll(1, 1)  # type: ignore[index]

        return kept

    for slot in (0, 1):
        monkeypatch.setattr(SharedCache, "keep", damaged(slot))
        assert not reads_like_the_model(backbone, ROUNDING)


def test_repeatable_and_leaves_everything_as_it_was(llama: Backbone) -> None:
    sampler = TransformersSampler(max_new_tokens=8)
    llama.train()
    state, own, kernel = torch.get_rng_state(), llama.model.generation_config, llama.attention
    one, two, other = (list(sampler.sample(llama, [SHORT, LONG], 2, [seed, seed])) for seed in (1, 1, 2))
    assert one == two != other
    assert [len(each) for each in one] == [2, 2] and one[0][0] != one[0][1]
    assert torch.equal(torch.get_rng_state(), state)
    assert llama.training and llama.model.training and llama.model.generation_config is own and llama.attention == kernel
    llama.eval()


def test_settings_of_the_model_do_not_leak_in(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = TransformersSampler(max_new_tokens=8)
    before = list(sampler.sample(llama, [SHORT], 2, [0]))
    monkeypatch.setattr(
        llama.model, "generation_config", GenerationConfig(repetition_penalty=9.0, no_repeat_ngram_size=1, min_new_tokens=8)
    )
    assert list(sampler.sample(llama, [SHORT], 2, [0])) == before


def test_other_temperature_of_the_same_sampler(llama: Backbone) -> None:
    warm = TransformersSampler(top_p=0.5, max_new_tokens=4)
    assert list(warm.at(0).sample(llama, [SHORT], 1, [0])) == list(TransformersSampler(0, max_new_tokens=4).sample(llama, [SHORT], 1, [1]))
    assert warm.temperature == 0.7


def test_adapters_count_and_their_dropout_does_not() -> None:
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=4, dropout=0.5)).train()
    sampler = TransformersSampler(temperature=0, max_new_tokens=8)
    base = tokens(sampler, backbone, [SHORT])
    torch.manual_seed(0)
    for name, parameter in backbone.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    adapted = tokens(sampler, backbone, [SHORT])
    assert base != adapted
    assert adapted[0] == greedy(backbone.eval(), encoder().prompts([SHORT])[0], 8)


# ---- what goes wrong


@pytest.mark.parametrize(
    "settings",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"max_new_tokens": 0}, {"top_k": -1}, {"tokens": 0}],
)
def test_bad_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        TransformersSampler(**settings)  # type: ignore[arg-type]


def test_a_policy_that_has_diverged_writes_nothing(way: str) -> None:
    backbone = Backbone("bundled:tiny-llama").eval()
    with torch.no_grad():
        next(backbone.transformer.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="not finite"):
        TransformersSampler(max_new_tokens=4).sample(backbone, [SHORT], 2, [0])


def test_bad_prompts(llama: Backbone) -> None:
    sampler = TransformersSampler(max_new_tokens=2040)
    with pytest.raises(RecordError, match="more than the 2048"):
        sampler.sample(llama, [LONG], 1, [0])
    for empty in ((), user(" ")):
        with pytest.raises(RecordError, match="empty"):
            sampler.sample(llama, [empty], 1, [0])
    with pytest.raises(ConfigError, match="must be 1 or more"):
        sampler.sample(llama, [SHORT], 0, [0])
    assert list(sampler.sample(llama, [], 1, [])) == []


@pytest.mark.parametrize("left", [0, 1, 4, 6])
def test_a_response_may_be_shortened_to_the_room_that_is_left(left: int, llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The long prompt fills the context up to some tokens; the short one loses nothing to its neighbour."""
    coder = encoder()
    short, long = coder.prompts([SHORT, LONG])
    sampler = TransformersSampler(temperature=0, max_new_tokens=6)
    monkeypatch.setattr(Backbone, "room", len(long) + left)
    if left < 6:
        with pytest.raises(RecordError, match=f"{len(long)} tokens and max_new_tokens 6 are more than the {len(long) + left}"):
            sampler.sample(llama, [LONG, SHORT], 2, [0, 0])
    if left == 0:
        with pytest.raises(RecordError, match=f"{len(long)} tokens and a response are more than the {len(long)}"):
            sampler.sample(llama, [LONG, SHORT], 2, [0, 0], shorten=True)
        return
    found = list(sampler.sample(llama, [LONG, SHORT], 2, [0, 0], shorten=True))
    wanted = [coder.tokenizer.decode(greedy(llama, ids, count), skip_special_tokens=True) for ids, count in ((long, left), (short, 6))]
    assert found == [(Sampled(text, False),) * 2 for text in wanted]
