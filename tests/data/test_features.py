"""Cached hidden states: what was read is found again exactly, everything else is read, and nothing half-written is believed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import COMPARISONS, comparison, encoder
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefrep.data.features import Features, key, root
from prefrep.data.identity import identity
from prefrep.data.remember import look_up, remember
from prefrep.data.trees import Datum, Layout, Tree, TreeBatch, collate
from prefrep.errors import DataError
from prefrep.nn.backbone import Backbone
from prefrep.nn.lora import LoRA

ABOUT = {"weights": "w"}


def keys(*numbers: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in numbers]


def filled(folder: Path, segments: int = 3, dtype: torch.dtype = torch.float32) -> Features:
    """Segments of two states each; the state of key n is [n, -n]."""
    features = Features(folder, ABOUT)
    for n in range(0, 2 * segments, 2):
        features.add(keys(n, n + 1), torch.tensor([[n, -n], [n + 1, -n - 1]], dtype=dtype))
    return features


def states(features: Features, *numbers: int) -> Tensor:
    return features[torch.tensor([features.row(k) for k in keys(*numbers)])]


class Reader:
    """Reads with a backbone, and counts."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone, self.tokens, self.batches, self.fail_after = backbone, 0, 0, 10**9

    def __call__(self, batch: TreeBatch) -> Tensor:
        if self.batches == self.fail_after:
            raise KeyboardInterrupt
        self.batches += 1
        self.tokens += batch.tokens
        return self.backbone(batch.ids, batch.positions, batch.until, batch.padded).flatten(0, 1)


def encoded(records: list[Any], layout: str = "single", **config: Any) -> list[Datum]:
    return [datum for _, datum in encoder(layout=layout, **config).encode(records) if datum is not None]


# ---- the folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_come_back_as_they_were(dtype: torch.dtype, tmp_path: Path) -> None:
    written = filled(tmp_path, dtype=dtype)
    for features in (written, Features(tmp_path, ABOUT)):
        assert len(features) == 6 and features.row(keys(3)[0]) >= 0 and keys(6)[0] not in features
        found = states(features, 5, 0, 3, 3)
        assert found.dtype is dtype
        assert found.tolist() == [[5, -5], [0, 0], [3, -3], [3, -3]]
        assert features[torch.arange(6).view(2, 3)].shape == (2, 3, 2)


def test_a_truncated_segment_is_left_out_whatever_its_length(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path, segments=1)
    (sound,) = tmp_path.glob("*/*.safetensors")
    whole = sound.read_bytes()
    assert len(whole) > 100
    broken = sound.with_name("broken.safetensors")
    for length in range(len(whole)):
        broken.write_bytes(whole[:length])
        features = Features(tmp_path, ABOUT)
        assert len(features) == 2, length
    assert "damaged" in caplog.text and "broken.safetensors" in caplog.text
    features.add(keys(7), torch.tensor([[7.0, -7.0]]))
    assert states(Features(tmp_path, ABOUT), 7, 1).tolist() == [[7, -7], [1, -1]]


def test_killing_the_writer_leaves_only_whole_segments(tmp_path: Path) -> None:
    code = f"""
import itertools, torch
from pathlib import Path
from prefrep.data.features import Features
features = Features(Path({str(tmp_path)!r}), {ABOUT!r})
for n in itertools.count():
    ids = range(100 * n, 100 * n + 100)
    features.add([i.to_bytes(16, "big") for i in ids], torch.tensor([[float(i)] * 500 for i in ids]))
    print(n, flush=True)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) == 20:
            time.sleep(0.003)  # into the middle of a write
            writer.send_signal(signal.SIGKILL)
            break
    writer.wait()
    features = Features(tmp_path, ABOUT)
    assert len(features) >= 2100 and len(features) % 100 == 0
    rows = torch.tensor([features.row(k) for k in keys(*range(len(features)))])
    assert torch.equal(features[rows], torch.arange(len(features)).float()[:, None].expand(-1, 500))


def test_what_killed_writers_leave_is_swept_away(tmp_path: Path) -> None:
    import os

    folder = filled(tmp_path, segments=1).folder
    old, new = folder / ".old.partial", folder / ".new.partial"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    Features(tmp_path, ABOUT)
    assert new.exists() and not old.exists()


def test_segments_of_another_model_are_rejected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path)
    other = Features(tmp_path, {"weights": "other"})
    assert len(other) == 0
    (path, *_) = (tmp_path / Features(tmp_path, ABOUT).identity[:16]).glob("*.safetensors")
    (other.folder / "copied.safetensors").write_bytes(path.read_bytes())
    save_file(load_file(path), other.folder / "nameless.safetensors")
    assert len(Features(tmp_path, {"weights": "other"})) == 0
    assert caplog.text.count("of another model") == 2


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot keep hidden states there .*data\.cache"):
        Features(tmp_path / "file", ABOUT)


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = filled(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prefrep.data.features.save_file", full)
    with pytest.raises(DataError, match=r"No space left on device.*to another folder"):
        features.add(keys(100), torch.zeros(1, 2))
    assert not list(features.folder.glob(".*"))


# ---- the identity


def test_the_identity_is_that_of_the_weights_not_of_the_object() -> None:
    one, two = Backbone("bundled:tiny-llama", frozen=True), Backbone("bundled:tiny-llama", frozen=True)
    same = identity(one, "cpu")
    assert identity(two, "cpu") == same
    parameter = list(two.parameters())[-1]
    with torch.no_grad():
        parameter[..., -1] = torch.nextafter(parameter[..., -1], torch.tensor(9.0))
    assert identity(two, "cpu")["weights"] != same["weights"], "one rounding step in one place is another model"
    assert identity(Backbone("bundled:tiny-llama", "bfloat16", frozen=True), "cpu")["weights"] != same["weights"]
    assert identity(Backbone("bundled:tiny-qwen2", frozen=True), "cpu")["config"] != same["config"]


def rounded(model: Any) -> None:
    model.to(torch.bfloat16).float()


def assigned(model: Any) -> None:
    model.load_state_dict({name: tensor * 2 for name, tensor in model.state_dict().items()}, assign=True)


def replaced(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data * 2


def written(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(2)


@pytest.mark.parametrize("change", [rounded, assigned, replaced, written])
def test_weights_that_changed_without_being_counted_are_seen(change: Callable[[Any], None]) -> None:
    one, two = Backbone("bundled:tiny-llama", frozen=True), Backbone("bundled:tiny-llama", frozen=True)
    before = identity(one, "cpu")["weights"]
    change(one.model)
    change(two.model)
    after = identity(one, "cpu")["weights"]
    assert after != before and after == identity(two, "cpu")["weights"], "as if it had never been looked at before"


def test_adapters_that_are_switched_off_or_scaled_are_another_model() -> None:
    found = set()
    for alpha in (1.0, 2.0):
        torch.manual_seed(0)
        backbone = Backbone("bundled:tiny-llama", lora=LoRA(rank=2, alpha=alpha))
        adapters = [each for each in backbone.model.modules() if isinstance(each, LoraLayer)]
        for on in (True, False, True):
            for adapter in adapters:
                adapter.enable_adapters(on)
            found.add(identity(backbone, "cpu")["weights"])
    assert len(found) == 4


def test_everything_else_that_moves_a_state_is_in_the_identity() -> None:
    backbone = Backbone("bundled:tiny-llama", frozen=True)
    same = identity(backbone, "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        assert identity(backbone, "cpu") != same
    as_is = {"model": backbone.model, "attention": backbone.attention, "pooling": "last", "marks": None}
    assert identity(SimpleNamespace(**as_is), "cpu") == same
    assert identity(SimpleNamespace(**{**as_is, "attention": "another"}), "cpu") != same
    places = [("first", None), ("mean", None), ("marked", [1]), ("marked", [2])]
    kinds = [identity(SimpleNamespace(**{**as_is, "pooling": pooling, "marks": marks}), "cpu") for pooling, marks in places]
    assert all(kind not in (same, *kinds[:i]) for i, kind in enumerate(kinds)), "where a text is read"
    backbone.model.config.rms_norm_eps *= 10
    assert identity(backbone, "cpu") != same


# ---- reading


@pytest.mark.parametrize("layout", ["trees", "padded"])
@pytest.mark.parametrize("kind", ["single", "pair"])
def test_a_batch_brings_the_states_that_reading_gives(layout: Layout, kind: str, llama: Backbone, tmp_path: Path) -> None:
    """Ends and prompt ends, in the order of a batch read anew, and everything that says what is compared."""
    data = encoded([*COMPARISONS, comparison("", "no prompt at all", "none here")], kind)
    data[1] = replace(data[1], probability=(0.25,), margin=(0.5,), weight=(2.0,))
    features, read = Features(tmp_path, ABOUT), Reader(llama)
    known = look_up(remember(data, features, read, 0, layout, batch_tokens=150), features)
    assert read.batches > 1
    batch = collate(data, 0, layout)
    with torch.no_grad():
        hidden = read(batch)
    assert known.states is not None
    flat = known.states.flatten(0, 1)
    torch.testing.assert_close(flat[known.end], hidden[batch.end], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(flat[known.prompt_end], hidden[batch.prompt_end], atol=1e-5, rtol=1e-4)
    for name in ("pairs", "probability", "margin", "weight", "sizes"):
        assert torch.equal(getattr(known, name), getattr(batch, name)), name
    assert known.to("cpu").states is not None


def test_prompts_that_outlast_what_is_shared_are_read_where_collate_reads_them(llama: Backbone, tmp_path: Path) -> None:
    """As the official template makes them; and single responses, where nothing limits the prompt."""
    ids = [torch.randint(0, 200, (n,), generator=torch.manual_seed(n)).int().numpy() for n in (9, 12)]
    ids[1][:6] = ids[0][:6]
    ids[1][6] = ids[0][6] + 1
    data = [
        Datum((Tree(tuple(ids), 8),), ((0, 1),), (1.0,), (0.0,), (1.0,)),
        *(Datum((Tree((i,), 5),)) for i in ids),
        Datum((Tree((ids[0][:1],), 0),)),
    ]
    for layout in ("trees", "padded"):
        features, read = Features(tmp_path / layout, ABOUT), Reader(llama)
        known = look_up(remember(data, features, read, 0, layout), features)
        batch = collate(data, 0, layout)
        with torch.no_grad():
            hidden = read(batch)
        assert known.states is not None
        torch.testing.assert_close(known.states.flatten(0, 1)[known.prompt_end], hidden[batch.prompt_end], atol=1e-5, rtol=1e-4)


def test_each_text_is_read_once(llama: Backbone, tmp_path: Path) -> None:
    """A cycle of three comparisons is a prompt and three responses; a second time, or the other way round, it is nothing."""
    texts = [("one", "two is longer"), ("two is longer", "three"), ("three", "one")]
    cycle = encoded([comparison("p", a, b) for a, b in texts])
    responses = {ids.tobytes(): ids for datum in cycle for ids in datum.trees[0].sequences}
    features, read = Features(tmp_path, ABOUT), Reader(llama)
    remember(cycle, features, read, 0)
    assert read.tokens == Tree(tuple(responses.values()), 1).size
    read.fail_after = 0
    remember(cycle, features, read, 0)
    remember(encoded([comparison("p", "three", "two is longer")]), Features(tmp_path, ABOUT), read, 0)
    read.fail_after = 10**9
    remember(encoded([comparison("p", "three", "four")]), features, read, 0)
    assert read.tokens > Tree(tuple(responses.values()), 1).size


@pytest.mark.parametrize("config", [{"template": "plain"}, {"max_length": 24}])
def test_another_template_or_truncation_is_read_again(config: dict[str, Any], llama: Backbone, tmp_path: Path) -> None:
    record = comparison("Say hello to a friend of mine", "Hello, friend!", "Hello, fiend! Go away.")
    features, read = Features(tmp_path, ABOUT), Reader(llama)
    remember(encoded([record]), features, read, 0)
    once = read.tokens
    other = encoded([record], **config)
    known = look_up(remember(other, features, read, 0), features)
    assert read.tokens == once + other[0].size
    with torch.no_grad():
        batch = collate(other, 0)
        hidden = read(batch)
    assert known.states is not None
    torch.testing.assert_close(known.states.flatten(0, 1)[known.end], hidden[batch.end], atol=1e-5, rtol=1e-4)


def test_an_interrupted_reading_goes_on_where_it_was(llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefrep.data.remember.SEGMENT_SECONDS", 0.0)  # keep every batch
    data, read = encoded(COMPARISONS), Reader(llama)
    whole = tokens_of(data, llama, tmp_path)
    read.fail_after = 2
    with pytest.raises(KeyboardInterrupt):
        remember(data, Features(tmp_path, ABOUT), read, 0, batch_tokens=60)
    first, read.fail_after = read.tokens, 10**9
    assert 0 < first < whole
    remember(data, Features(tmp_path, ABOUT), read, 0, batch_tokens=60)
    assert read.tokens == whole


def tokens_of(data: list[Datum], backbone: Backbone, tmp_path: Path) -> int:
    """Tokens that one undisturbed process reads."""
    read = Reader(backbone)
    remember(data, Features(tmp_path / "undisturbed", {}), read, 0, batch_tokens=60)
    return read.tokens


def test_processes_share_the_reading(llama: Backbone, tmp_path: Path) -> None:
    data = encoded(COMPARISONS)
    barrier = threading.Barrier(2)
    results: dict[int, tuple[int, Tensor]] = {}

    def process(rank: int) -> None:
        features, read = Features(tmp_path, ABOUT), Reader(llama)
        known = look_up(remember(data, features, read, 0, batch_tokens=60, share=(rank, 2), wait=barrier.wait), features)
        assert known.states is not None
        results[rank] = read.tokens, known.states

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    run_all(threads)
    assert results[0][0] > 0 and results[1][0] > 0 and results[0][0] + results[1][0] == tokens_of(data, llama, tmp_path)
    assert torch.equal(results[0][1], results[1][1])


def test_no_process_writes_before_all_know_what_is_missing(llama: Backbone, tmp_path: Path) -> None:
    events: list[str] = []
    read = Reader(llama)

    def reading(batch: TreeBatch) -> Tensor:
        events.append("read")
        return read(batch)

    remember(encoded(COMPARISONS), Features(tmp_path, ABOUT), reading, 0, wait=lambda: events.append("wait"))
    assert events == ["wait", "read", "wait"]


def run_all(threads: list[threading.Thread]) -> None:
    for act in ("start", "join"):
        for thread in threads:
            call: Callable[[], None] = getattr(thread, act)
            call()


def test_keys_and_places(tmp_path: Path, features: Path) -> None:
    ids = torch.arange(5).int().numpy()
    assert key(ids) == key(torch.arange(5).numpy()) and len(key(ids)) == 16 and key(ids) != key(ids[:4])
    assert root("auto") == features and root(str(tmp_path)) == tmp_path
