"""Sampling against slow references: full forward passes, exact distributions, transformers' own way of drawing K answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encoder
from peft.tuners.tuners_utils import BaseTunerLayer
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from prefrep import generation
from prefrep.data.encode import EncodeConfig, Encoder
from prefrep.errors import ConfigError, RecordError
from prefrep.generation import Sampled, TransformersSampler, VLLMSampler
from prefrep.nn.backbone import Backbone
from prefrep.nn.loading import load_tokenizer
from prefrep.nn.lora import LoRA
from prefrep.records import Message, Messages
from prefrep.scoring import ranked


def user(text: str) -> Messages:
    return (Message("user", text),)


SHORT, LONG = user("Why?"), (*user("Name a prime number, please."), Message("assistant", "7"), *user("And another one?"))


def tokens(sampler: TransformersSampler, backbone: Backbone, prompts: Sequence[Messages], responses: int = 1, seed: int = 0) -> np.ndarray:
    """New token ids [N * K, T]."""
    encoded, coder, ends = sampler._prompts(backbone, prompts, responses)
    return sampler._generate(backbone, encoded, generation.pad_id(coder.tokenizer), ends, responses, seed, sampler.max_new_tokens).numpy()


@torch.no_grad()
def greedy(backbone: Backbone, ids: np.ndarray, count: int) -> list[int]:
    """The likeliest tokens by one whole forward pass each, without a cache or padding."""
    whole = [int(token) for token in ids]
    for _ in range(count):
        whole.append(int(backbone.model(input_ids=torch.tensor([whole])).logits[0, -1].argmax()))
    return whole[len(ids) :]


# ---- prompts


@pytest.mark.parametrize("template", ["chat", "plain", "auto"])
@pytest.mark.parametrize("prompt", [SHORT, LONG, (Message("system", "Be brief."), *SHORT)])
def test_what_is_scored_begins_with_what_was_sampled_from(family: Backbone, template: Any, prompt: Messages) -> None:
    coder, _ = TransformersSampler(template=template).encoder(family)
    sampled_from = coder.prompts([prompt])[0]
    scored = Encoder(family.tokenizer(), coder.config, "single", policy=True)
    _, datum = next(scored.encode_tables([ranked(prompt, [coder.lead + "7", coder.lead + "Hello there", ""])]))
    assert datum is not None
    for sequence in datum.trees[0].sequences:
        assert sequence[: len(sampled_from)].tolist() == sampled_from.tolist()
    assert datum.trees[0].prompt == len(sampled_from)


def sentencepiece() -> PreTrainedTokenizerBase:
    """A tokenizer as Llama 2 has one: a blank is part of the word behind it, and decoding drops the first one."""
    letters = [chr(code) for code in range(33, 127)]
    merges = [("i", "s"), ("P", "a"), ("Pa", "r"), ("Par", "is"), ("▁", "Paris"), ("▁", "is")]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, *(a + b for a, b in merges)]
    built = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    built.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1, right=0)]
    )
    built.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("name", ["smollm2-135m", "tiny-llama", "tiny-gpt2", "sentencepiece"])
@pytest.mark.parametrize("text", [" Paris is", " 7", " 1990 is", " \nthe", "  the", " ", "", "\nthe", "Paris", "7", " «é» 😀"])
def test_plain_responses_are_scored_in_the_tokens_that_were_sampled(name: str, text: str) -> None:
    """Whatever follows the colon: a word with its blank, as models write it, or something else."""
    tokenizer = sentencepiece() if name == "sentencepiece" else load_tokenizer(f"bundled:{name}")
    coder = Encoder(tokenizer, EncodeConfig("plain"), "single", policy=True)
    before = "\n\nHuman: Why?\n\nAssistant:"
    sampled_from, whole = (tokenizer(each)["input_ids"] for each in (before, before + text))
    assert whole[: len(sampled_from)] == sampled_from and coder.prompts([SHORT])[0].tolist() == sampled_from
    new, end = whole[len(sampled_from) :], tokenizer.eos_token_id
    found = generation._sampled([*new, end, end], coder, {end})
    assert found == Sampled(text.removeprefix(" "), True, " " if text.startswith(" ") else "")
    ((_, datum),) = coder.encode_tables([ranked(SHORT, [found.lead + found.text])])
    assert datum is not None and datum.trees[0].prompt == len(sampled_from)
    assert datum.trees[0].sequences[0].tolist() == [*whole, end]
    if found.lead:  # and a preference model reads what the policy wrote
        ((_, read),) = Encoder(tokenizer, EncodeConfig("plain"), "single").encode_tables([ranked(SHORT, [found.text])])
        assert read is not None and read.trees[0].sequences[0].tolist() == [*whole, end]


def test_a_word_behind_a_plain_prompt_is_one_token() -> None:
    """SmolLM2 has ` Paris` and `Paris`, and only the first can follow a colon."""
    coder = Encoder(load_tokenizer("bundled:smollm2-135m"), EncodeConfig("plain"), "single", policy=True)
    ((_, datum),) = coder.encode_tables([ranked(SHORT, [" Paris", " 7"])])
    assert datum is not None
    first, second = (coder.tokenizer.convert_ids_to_tokens(ids[datum.trees[0].prompt :].tolist()) for ids in datum.trees[0].sequences)
    assert first == ["ĠParis", "<|im_end|>"] and second == ["Ġ", "7", "<|im_end|>"]


def test_the_model_gets_the_prompt_tokens(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, torch.Tensor] = {}
    generate = llama.model.generate

    def spy(**arguments: Any) -> torch.Tensor:
        seen.update(ids=arguments["input_ids"], mask=arguments["attention_mask"])
        return generate(**arguments)

    monkeypatch.setattr(llama.model, "generate", spy)
    list(TransformersSampler(max_new_tokens=2).sample(llama, [SHORT, LONG], 2, 0))
    wanted = encoder().prompts([SHORT, SHORT, LONG, LONG])
    found = [ids[mask.bool()].tolist() for ids, mask in zip(seen["ids"], seen["mask"], strict=True)]
    assert found == [ids.tolist() for ids in wanted]


def test_end_ids() -> None:
    plain, chat = encoder(template="plain"), encoder()
    assert plain.end_ids() == chat.end_ids() == [chat.tokenizer.eos_token_id]
    chat.tokenizer.add_special_tokens({"eos_token": "<|other|>"})
    other = type(chat)(chat.tokenizer, chat.config, "single")
    assert other.end_ids() == sorted(chat.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|other|>"]))


# ---- greedy


def test_greedy_is_the_likeliest_token_whatever_the_neighbours(family: Backbone) -> None:
    sampler = TransformersSampler(temperature=0, max_new_tokens=10)
    encoded = encoder(family.path).prompts([SHORT, LONG])
    ends = set(sampler.encoder(family)[1])
    together = tokens(sampler, family, [SHORT, LONG], 2)
    for row, ids in zip((0, 2), encoded, strict=True):
        wanted = greedy(family, ids, 10)
        assert not ends & set(wanted)
        assert together[row].tolist() == together[row + 1].tolist() == wanted


def test_stops_at_the_end_token_of_the_model(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth greedy token is declared the end: then three tokens are the text."""
    wanted = greedy(llama, encoder().prompts([SHORT])[0], 6)
    assert wanted[3] not in wanted[:3]
    monkeypatch.setattr(llama.model, "generation_config", GenerationConfig(eos_token_id=[wanted[3]]))
    (found,) = next(TransformersSampler(temperature=0, max_new_tokens=6).sample(llama, [SHORT], 1, 0))
    assert found == Sampled(llama.tokenizer().decode(wanted[:3], skip_special_tokens=True), True)
    (cut,) = next(TransformersSampler(temperature=0, max_new_tokens=3).sample(llama, [SHORT], 1, 0))
    assert cut == Sampled(found.text, False)


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
    drawn = tokens(TransformersSampler(temperature, top_p, max_new_tokens=1), llama, [SHORT], count)[:, 0]
    share = np.bincount(drawn, minlength=len(p)) / count
    assert (top_p == 1 or len(kept) < len(p)) and share[nucleus == 0].sum() == 0
    assert (np.abs(share - nucleus) <= 5 * np.sqrt(nucleus * (1 - nucleus) / count) + 1e-9).all()


def test_shared_cache_draws_what_transformers_draws(family: Backbone) -> None:
    """Same seed, same tokens as `num_return_sequences`, which reads each prompt K times."""
    sampler = TransformersSampler(max_new_tokens=6)
    encoded, coder, ends = sampler._prompts(family, [SHORT, LONG], 3)
    ids, mask = generation._left_padded(encoded, generation.pad_id(coder.tokenizer))
    settings = GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.9, top_k=0, max_new_tokens=6, num_return_sequences=3,
        eos_token_id=ends, pad_token_id=generation.pad_id(coder.tokenizer),
    )  # fmt: skip
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        whole = family.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    assert np.array_equal(tokens(sampler, family, [SHORT, LONG], 3, seed=5), whole[:, ids.shape[1] :].numpy())


def test_repeatable_and_leaves_everything_as_it_was(llama: Backbone) -> None:
    sampler = TransformersSampler(max_new_tokens=8)
    llama.train()
    state, own = torch.get_rng_state(), llama.model.generation_config
    one, two, other = (list(sampler.sample(llama, [SHORT, LONG], 2, seed)) for seed in (1, 1, 2))
    assert one == two != other
    assert [len(each) for each in one] == [2, 2] and one[0][0] != one[0][1]
    assert torch.equal(torch.get_rng_state(), state)
    assert llama.training and llama.model.training and llama.model.generation_config is own
    llama.eval()


def test_settings_of_the_model_do_not_leak_in(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = TransformersSampler(max_new_tokens=8)
    before = list(sampler.sample(llama, [SHORT], 2, 0))
    monkeypatch.setattr(
        llama.model, "generation_config", GenerationConfig(repetition_penalty=9.0, no_repeat_ngram_size=1, min_new_tokens=8)
    )
    assert list(sampler.sample(llama, [SHORT], 2, 0)) == before


def test_other_temperature_of_the_same_sampler(llama: Backbone) -> None:
    warm = TransformersSampler(top_p=0.5, max_new_tokens=4)
    assert list(warm.at(0).sample(llama, [SHORT], 1, 0)) == list(TransformersSampler(0, max_new_tokens=4).sample(llama, [SHORT], 1, 1))
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
    assert not np.array_equal(base, adapted)
    assert adapted[0].tolist() == greedy(backbone.eval(), encoder().prompts([SHORT])[0], 8)


# ---- what goes wrong


@pytest.mark.parametrize(
    "settings", [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"max_new_tokens": 0}]
)
def test_bad_settings(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        TransformersSampler(**settings)  # type: ignore[arg-type]


def test_bad_prompts(llama: Backbone) -> None:
    sampler = TransformersSampler(max_new_tokens=2040)
    with pytest.raises(RecordError, match="more than the 2048"):
        sampler.sample(llama, [LONG], 1, 0)
    for empty in ((), user(" ")):
        with pytest.raises(RecordError, match="empty"):
            sampler.sample(llama, [empty], 1, 0)
    with pytest.raises(ConfigError, match="must be 1 or more"):
        sampler.sample(llama, [SHORT], 0, 0)
    assert list(sampler.sample(llama, [], 1, 0)) == []


@pytest.mark.parametrize("left", [0, 1, 4, 6])
def test_a_response_may_be_shortened_to_the_room_that_is_left(left: int, llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The long prompt fills the context up to some tokens; the short one loses nothing to its neighbour."""
    coder = encoder()
    short, long = coder.prompts([SHORT, LONG])
    sampler = TransformersSampler(temperature=0, max_new_tokens=6)
    monkeypatch.setattr(Backbone, "room", len(long) + left)
    if left < 6:
        with pytest.raises(RecordError, match=f"{len(long)} tokens and max_new_tokens 6 are more than the {len(long) + left}"):
            sampler.sample(llama, [LONG, SHORT], 2, 0)
    if left == 0:
        with pytest.raises(RecordError, match=f"{len(long)} tokens and a response are more than the {len(long)}"):
            sampler.sample(llama, [LONG, SHORT], 2, 0, shorten=True)
        return
    found = list(sampler.sample(llama, [LONG, SHORT], 2, 0, shorten=True))
    wanted = [coder.tokenizer.decode(greedy(llama, ids, count), skip_special_tokens=True) for ids, count in ((long, left), (short, 6))]
    assert found == [(Sampled(text, False),) * 2 for text in wanted]


def test_vllm_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"vllm is not installed; pip install 'prefrep\[vllm\]'"):
        VLLMSampler()


@pytest.mark.parametrize("template", ["auto", "plain"])
def test_vllm_gets_merged_weights_and_prompt_tokens(template: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for vLLM: what it is given is what counts here."""
    seen: list[Any] = []
    limits = [16, 16]

    class LLM:
        def __init__(self, model: str, gpu_memory_utilization: float) -> None:
            seen.append(AutoModelForCausalLM.from_pretrained(model).eval())
            assert (Path(model) / "tokenizer.json").exists() and gpu_memory_utilization == 0.3

        def generate(
            self, prompts: list[dict[str, list[int]]], options: list[SimpleNamespace], use_tqdm: bool
        ) -> Iterator[SimpleNamespace]:
            assert prompts == [{"prompt_token_ids": ids.tolist()} for ids in encoder(template=template).prompts([SHORT, LONG])]
            assert [(o.n, o.temperature, o.top_p, o.max_tokens) for o in options] == [(2, 0.7, 0.9, limit) for limit in limits]
            assert options[0].seed != options[1].seed
            outputs = [SimpleNamespace(text=" yes", finish_reason="stop"), SimpleNamespace(text="no", finish_reason="length")]
            return iter([SimpleNamespace(outputs=outputs)] * 2)

    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr(generation, "find_spec", lambda name: fake)
    backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=4)).eval()
    sampler = VLLMSampler(max_new_tokens=16, template=template, gpu_memory=0.3)
    wanted = [(Sampled("yes", True, " ") if template == "plain" else Sampled(" yes", True), Sampled("no", False))] * 2
    assert list(sampler.sample(backbone, [SHORT, LONG], 2, 3)) == wanted
    list(sampler.sample(backbone, [SHORT, LONG], 2, 3))
    assert len(seen) == 1, "equal weights need no new engine"
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "room", len(encoder(template=template).prompts([LONG])[0]) + 5)
        limits = [16, 5]
        list(sampler.sample(backbone, [SHORT, LONG], 2, 3, shorten=True))
        limits = [16, 16]
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    list(sampler.sample(backbone, [SHORT, LONG], 2, 3))
    assert len(seen) == 2
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(seen[1](input_ids=ids).logits, backbone.model(input_ids=ids).logits, atol=1e-4)
        assert not torch.allclose(seen[0](input_ids=ids).logits, seen[1](input_ids=ids).logits, atol=1e-2)
    for module in backbone.model.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(False)  # pi_0 in the policy's place
    list(sampler.sample(backbone, [SHORT, LONG], 2, 3))
    with torch.no_grad():
        assert torch.equal(seen[2](input_ids=ids).logits, seen[0](input_ids=ids).logits)
