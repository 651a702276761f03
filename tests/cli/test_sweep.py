"""`prefrep sweep` on a tiny random model: both engines, all workers killed, what goes wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
from conftest import program

from prefrep.cli.friendly import run
from prefrep.errors import ConfigError, PrefrepError
from prefrep.evaluation.scores import described
from prefrep.modules import GeneralPreference
from prefrep.nn.backbone import Backbone
from prefrep.sweeps import points as sweep_points
from prefrep.sweeps.points import prepare
from prefrep.sweeps.spec import Point, parse_setting, read_sweep
from prefrep.sweeps.study import Study, alone

main = program("sweep")

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "sweep" / "tiny.yaml"


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    """`--set` for training and validation files."""
    found = []
    for name, count in (("train", 11), ("val", 9)):
        rows = [{"prompt": f"Say {i % 5}", "chosen": f"{i} it is", "rejected": f"no {i * 7 % 5}, thanks"} for i in range(count)]
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found += ["--set", f"data.{name}={file}"]
    return found


def scores(folder: Path) -> list[float]:
    return [json.loads(line)["score"] for line in (folder / "scores.jsonl").read_text().splitlines()]


def sweep_file(folder: Path, text: str) -> str:
    file = folder / "sweep.yaml"
    file.write_text(f"base: {ROOT}/configs/tiny/gpm.yaml\n{text}")
    return str(file)


FROZEN = "set: {model.backbone.lora: null, model.backbone.frozen: true, trainer.accelerator: cpu}\n"


def test_both_engines_give_the_same(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And a run that fails in one of them says why, and the others go on."""
    # Validation data that contradict training: the exported weights are not the last ones, which the engine has in its hands.
    val = (tmp_path / "val.jsonl").read_text()
    (tmp_path / "val.jsonl").write_text(val.replace("chosen", "other").replace("rejected", "chosen").replace("other", "rejected"))
    long = FROZEN.replace("}", ", model.optimizer.lr: 0.01, trainer.max_epochs: 3}")
    file = sweep_file(tmp_path, f"{long}grid: {{model.head.dim: [4], data.on_bad_row: [error, skip]}}")
    for name in ("train", "val"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "chosen": "b"}\n' + (tmp_path / f"{name}.jsonl").read_text())
    for engine, more in (("frozen", []), ("fit", ["--set", "data.cache=null"])):
        with pytest.raises(PrefrepError, match=r"dim=4-on_bad_row=error-seed=0 failed: .*train.jsonl:1"):
            main(["--config", file, "--out", str(tmp_path / engine), *data, *more])
    folders = [tmp_path / engine / "points" / "dim=4-on_bad_row=skip-seed=0" for engine in ("frozen", "fit")]
    abouts = [json.loads((folder / "point.json").read_text()) for folder in folders]
    assert [about["engine"] for about in abouts] == ["frozen", "fit"] and all(about["state"] == "complete" for about in abouts)
    one, other = map(scores, folders)
    recipe = json.loads((folders[0] / "export" / "prefrep.json").read_text())["recipe"]
    assert recipe["checkpoint"] != f"step{recipe['step']}.ckpt"
    assert one == pytest.approx(other, abs=1e-4) and len(one) == 9 and max(map(abs, one)) > 0.1
    assert all(len(about["recipe"]) == 16 for about in abouts) and abouts[0]["recipe"] != abouts[1]["recipe"], "one keeps what it reads"
    assert abouts[0]["data"] == abouts[1]["data"] and len(abouts[0]["data"]) == 64
    assert [described(folder)["data"] for folder in folders] == [about["data"] for about in abouts], (
        "`prefrep report` knows they can be compared"
    )
    results = [json.loads((folder / "results.json").read_text()) for folder in folders]
    assert results[0]["model"].pop("path") != results[1]["model"].pop("path") and results[0]["model"] == results[1]["model"]
    assert all(found["model"]["pairwise"] for found in results), "a GPM has no rewards"
    assert all(results[0][key] == results[1][key] for key in ("overall", "subsets", "agreement", "data"))
    for name in ("results.json", "metrics.jsonl", "export/prefrep.json", "export/head.safetensors", "scores.jsonl"):
        assert all((folder / name).exists() for folder in folders), name
    assert "## Failed points" in (tmp_path / "fit" / "report.md").read_text()


def test_frozen_points_read_each_text_once(data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    forward = Backbone.forward

    def counting(self: Backbone, ids: object, *args: object, **kwargs: object) -> object:
        read.append(ids.numel())  # type: ignore[attr-defined]
        return forward(self, ids, *args, **kwargs)  # type: ignore[arg-type]

    made: list[None] = []
    initialise = Backbone.__init__
    monkeypatch.setattr(
        Backbone, "__init__", wraps(initialise)(lambda self, *args, **kwargs: made.append(initialise(self, *args, **kwargs)))
    )
    monkeypatch.setattr(Backbone, "forward", counting)
    monkeypatch.setattr(Backbone, "supports_trees", lambda self, *_: True)  # which reads a little itself
    totals = []
    for out, dims in (("one", "[2]"), ("many", "[2, 4, 6, 8]")):
        file = sweep_file(tmp_path, f"{FROZEN}grid: {{model.head.dim: {dims}}}\nseeds: [0, 1]\nkeep_models: false")
        cache = ["--set", f"data.cache={tmp_path}/cache-{out}"]
        assert main(["--config", file, "--out", str(tmp_path / out), *data, *cache]) == 0
        totals.append(sum(read))
        assert len(made) == 1, "one language model for all"
        read.clear()
        made.clear()
    assert totals[0] == totals[1] > 0
    folders = sorted((tmp_path / "many" / "points").iterdir())
    assert len(folders) == 8 and len({tuple(scores(folder)) for folder in folders}) == 8
    assert not any((folder / name).exists() for folder in folders for name in ("export", "checkpoints"))


def test_killed_between_training_and_scoring(data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen point whose model is exported is scored, and not trained again."""
    file = sweep_file(tmp_path, f"{FROZEN}grid: {{model.head.dim: [2, 4], data.on_bad_row: [skip]}}")
    assert main(["--config", file, "--out", str(tmp_path / "out"), *data]) == 0
    folders = sorted((tmp_path / "out" / "points").iterdir())
    before = [scores(folder) for folder in folders]
    for gone in (*(tmp_path / "out").glob("study.*"), folders[0] / "scores.jsonl", folders[0] / "point.json"):
        gone.unlink()
    monkeypatch.setattr(sweep_points.Shared, "train", lambda *_: pytest.fail("trained"))
    assert main(["--config", file, "--out", str(tmp_path / "out"), *data]) == 0
    assert [scores(folder) for folder in folders] == [pytest.approx(each, abs=1e-5) for each in before]


def test_workers_read_one_after_the_other(data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first point that reads other texts keeps the other workers waiting; points that read the same do not."""
    waited: list[str] = []

    def counting(folder: Path, what: str) -> AbstractContextManager[None]:
        waited.append(what)
        return alone(folder, what)

    monkeypatch.setattr(sweep_points, "alone", counting)
    file = sweep_file(tmp_path, f"{FROZEN}grid: {{data.max_length: [64, 128], data.batch_size: [2, 4], model.head.dim: [2, 4]}}")
    assert main(["--config", file, "--out", str(tmp_path / "out"), *data, "--set", f"data.cache={tmp_path}/cache"]) == 0
    assert waited == ["reading", "reading"]


def test_stopping_gives_the_point_back(data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not failed: the next start takes it up."""
    arguments = ["--config", sweep_file(tmp_path, FROZEN), "--out", str(tmp_path / "out"), *data]
    interrupt = signal.getsignal(signal.SIGINT)  # Lightning ignores further ones, for good

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(GeneralPreference, "training_step", stop)
        main(arguments)
    signal.signal(signal.SIGINT, interrupt)
    about = tmp_path / "out" / "points" / "base-seed=0" / "point.json"
    assert not about.exists()
    assert main(arguments) == 0 and json.loads(about.read_text())["state"] == "complete"


@pytest.mark.parametrize(("number", "call"), [(signal.SIGTERM, 2), (signal.SIGINT, 9)])
def test_a_signal_stops_it_between_steps(number: signal.Signals, call: int, data: list[str], tmp_path: Path) -> None:
    """It stops the sweep, fails no point, and the same command ends with the bytes of an undisturbed one."""
    file, log = sweep_file(tmp_path, f"{FROZEN}grid: {{model.head.dim: [2, 4]}}"), tmp_path / "log"

    def go(out: str, call: int = 0) -> int:
        def child() -> None:
            step, calls = GeneralPreference.training_step, iter(range(1, 100))

            @wraps(step)  # Lightning looks at the parameters
            def signalled(*args: Any) -> Any:
                if next(calls) == call:
                    os.kill(os.getpid(), number)
                return step(*args)

            sys.stderr = log.open("w", buffering=1)
            GeneralPreference.training_step = signalled  # type: ignore[method-assign]
            run(lambda: main(["--config", file, "--out", str(tmp_path / out), *data, "--set", f"data.cache={tmp_path}/cache-{out}"]))

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(120)
        assert process.exitcode is not None, log.read_text()
        return process.exitcode

    assert go("whole") == 0, log.read_text()
    assert go("out", call) == 128 + number
    done = int(call > 6)  # eleven comparisons, two a batch
    said = f"prefrep: stopped by {number.name}; {done} of 2 points are done in {tmp_path}/out; to go on, run the same command"
    assert log.read_text().splitlines()[-1] == said
    assert len(list((tmp_path / "out" / "points").glob("*/point.json"))) == done, "none has failed"
    assert go("out") == 0, log.read_text()
    for name in ("scores.jsonl", "export/head.safetensors", "metrics.jsonl"):
        one, two = (sorted((tmp_path / out / "points").glob(f"*/{name}")) for out in ("whole", "out"))
        assert len(one) == 2 and [timeless(file) for file in one] == [timeless(file) for file in two], name


def timeless(file: Path) -> Any:
    """The content of a file, without speeds."""
    if file.name != "metrics.jsonl":
        return file.read_bytes()
    return [{key: value for key, value in json.loads(line).items() if "_per_s" not in key} for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_a_signal_reaches_the_training_of_a_point(data: list[str], tmp_path: Path) -> None:
    """A point in a process of its own: that writes a checkpoint, from which the next start goes on."""
    out, log = tmp_path / "out", tmp_path / "log"
    file = sweep_file(tmp_path, "set: {trainer.accelerator: cpu, trainer.max_epochs: 3000}")
    command = [sys.executable, "-m", "prefrep", "sweep", "--config", file, "--out", str(out), *data]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stderr=stderr, stdout=stderr)
    metrics = out / "points" / "base-seed=0" / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert log.read_text().splitlines()[-1].startswith("prefrep: stopped by SIGTERM; 0 of 1 points are done in")
    said = metrics.with_name("fit.log").read_text().splitlines()[-1]
    assert said.startswith("prefrep: stopped by SIGTERM at step") and (metrics.parent / "checkpoints" / "last.ckpt").exists()


def test_all_workers_killed_in_the_middle(data: list[str], tmp_path: Path) -> None:
    """Nothing that was finished is touched, the rest is done by whoever comes next."""
    out = tmp_path / "out"
    file = sweep_file(tmp_path, f"{FROZEN}grid: {{model.head.dim: [2, 4]}}\nseeds: [0, 1, 2, 3, 4, 5, 6]")
    arguments = ["--config", file, "--out", str(out), *data]
    command = [sys.executable, "-m", "prefrep", "sweep", *arguments, "--workers", "2"]
    environment = {**os.environ, "PREFREP_CACHE": str(tmp_path / "cache")}
    workers = subprocess.Popen(command, start_new_session=True, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)

    def finished() -> dict[str, tuple[int, int]]:
        files = out.glob("points/*/*")
        done = [path for path in files if (path.parent / "point.json").exists() and path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in done}

    while sum("point.json" in name for name in finished()) < 3:
        assert workers.poll() is None
        time.sleep(0.02)
    os.killpg(workers.pid, signal.SIGKILL)
    workers.wait()
    before = finished()
    assert sum("point.json" in name for name in before) < 14, "killed in the middle"
    assert main(arguments) == 0
    after = finished()
    assert sum("point.json" in name for name in after) == 14
    assert all(after[name] == stamp for name, stamp in before.items()), "a finished point was touched"
    assert main(arguments) == 0 and finished() == after, "a third start has nothing to do"


def test_what_is_trained_does_not_change_between_seeds(data: list[str], tmp_path: Path) -> None:
    """The base file, --set, and what is in the training file; the validation file has a digest of its own."""
    base, out = tmp_path / "base.yaml", tmp_path / "out"
    base.write_text((ROOT / "configs" / "tiny" / "gpm.yaml").read_text())

    def begin(seeds: list[int], *more: tuple[str, object]) -> dict[str, str]:
        file = tmp_path / "sweep.yaml"
        file.write_text(f"base: {base}\n{FROZEN}seeds: {seeds}")
        settings = dict(parse_setting(text) for text in data[1::2])
        prepared = prepare(read_sweep(file, settings | dict(more)).points, out)
        Study(out).enlist({each.point.name: each.about for each in prepared})
        return {each.point.name: each.about["recipe"] for each in prepared}

    assert len(set(begin([0, 1]).values())) == 1
    assert begin([2, 7]) == dict.fromkeys(["base-seed=2", "base-seed=7"], begin([0])["base-seed=0"]), "a seed is no part of it"
    with pytest.raises(ConfigError, match="another seed of 'base-seed=3' was started with other settings or training data"):
        begin([3], ("model.optimizer.lr", 0.5))
    train, before = tmp_path / "train.jsonl", (tmp_path / "train.jsonl").read_text()
    train.write_text(before.replace("it is", "it was"))
    for seed, words in ((0, "'base-seed=0' was started"), (3, "another seed of 'base-seed=3' was started")):
        with pytest.raises(ConfigError, match=words):
            begin([seed])
    train.write_text(before)
    (tmp_path / "val.jsonl").write_text(before)
    assert begin([0, 3])
    base.write_text(base.read_text().replace("max_epochs: ", "max_epochs: 1"))
    with pytest.raises(ConfigError, match="another seed of 'base-seed=4' was started"):
        begin([4])


def test_values_that_follow_the_seed_are_of_one_recipe(data: list[str], tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text((ROOT / "configs" / "tiny" / "gpm.yaml").read_text().replace("name: logs}", "name: 'logs-${seed_everything}'}"))
    points = [Point("m", seed, base, dict(parse_setting(text) for text in data[1::2])) for seed in (3, 4)]
    one, two = (each.about for each in prepare(points, tmp_path / "out"))
    assert one["recipe"] == two["recipe"] and one["settings"] != two["settings"]


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        ([], ["needs --config FILE and --out DIR"], 2),
        (["--config", "{tmp}/none.yaml", "--out", "{tmp}/o"], ["none.yaml", "no such file"], 1),
        (["--config", str(TINY), "--out", "{tmp}/o"], ["dim=2-seed=0", "no validation data", "--set data.val=FILE"], 1),
        (["--config", str(TINY), "--out", "{tmp}/o", "--set", "model.head.dimm=3"], ["dim=2-seed=0", "'dimm' is not accepted"], 1),
        (["--config", str(TINY), "--out", "{tmp}/o", "--set", "model.loss.tau=0"], ["tau must be a positive number"], 1),
        (["--config", str(TINY), "--out", "{tmp}/o", "--set", "nothing"], ["KEY=VALUE"], 1),
        (["--config", str(TINY), "--out", "{tmp}/o", "--workers", "0"], ["--workers must be at least 1"], 2),
    ],
)
def test_wrong_input_gets_one_sentence(
    arguments: list[str], words: list[str], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything runs."""
    with pytest.raises(SystemExit) as stop:
        run(lambda: main([argument.replace("{tmp}", str(tmp_path)) for argument in arguments]))
    printed = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == code and all(word in printed[-1] for word in words), printed
    assert not (tmp_path / "o" / "points").exists()
