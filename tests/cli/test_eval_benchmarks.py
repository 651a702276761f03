"""`prefrep eval` on RM-Bench, JudgeBench, RMB, PPE, best of N and a folder of several, with tiny random models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import program

from prefrep.data.encode import EncodeConfig
from prefrep.errors import ConfigError, DataError, RecordError, UsageError
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import BTHead, GPMHead, PairHead
from prefrep.nn.loading import load_tokenizer
from prefrep.scoring import Scorer

main, report = program("eval"), program("report")
FEW = ["--bootstrap", "100"]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One exported folder per head, on one tiny random backbone."""
    folder = tmp_path_factory.mktemp("models")
    backbone, tokenizer = Backbone("bundled:tiny-llama").eval(), load_tokenizer("bundled:tiny-llama")
    heads = {"bt": BTHead(backbone.hidden_size), "gpm": GPMHead(backbone.hidden_size, dim=4), "pair": PairHead(backbone.hidden_size)}
    for name, head in heads.items():
        save(folder / name / "export", backbone, head, 1.0, EncodeConfig(), tokenizer, {})
    return {name: str(folder / name / "export") for name in heads}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def styled(n: int) -> list[dict[str, Any]]:
    return [
        {"id": i, "prompt": f"{i}?", "chosen": [f"{i}", f"it is {i}", f"**{i}**"], "rejected": ["no", "it is not", f"**no** {i}"]}
        for i in range(n)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of every benchmark under names of no meaning, but for the domain of RM-Bench and the scenario of RMB; and others."""
    data = tmp_path / "data"
    write(data / "a" / "chat_filtered.json", styled(3))
    write(data / "a" / "safety-refuse_filtered.json", styled(2))
    judge = [
        {
            "pair_id": str(i),
            "source": source,
            "question": f"{i}?",
            "response_A": f"{i}",
            "response_B": f"not {i}",
            "label": ("A>B", "B>A")[i % 2],
        }
        for i, source in enumerate(["mmlu-pro-law", "livecodebench"] * 3)
    ]
    write(data / "b.jsonl", judge)
    talk = [{"role": "user", "content": "how?"}]
    pair = {"pair_uid": "p", "conversation_input": talk, "chosen": {"answer": "so"}, "reject": {"answer": "no"}}
    best = {"bon_uid": "b", "conversation_input": talk, "bon_best": {"answer": "so"}, "loser_list": [{"answer": "no"}, {"answer": "never"}]}
    write(data / "c" / "Pairwise_set" / "Helpfulness" / "Code" / "Debug.json", [pair])
    write(data / "c" / "BoN_set" / "Harmlessness" / "S1.json", [best, best])
    correct = {"prompt": "2?", **{f"response_{i}": "2" * i for i in range(1, 5)}, "scores": [True, False, False, True]}
    write(data / "gpqa.jsonl", [{**correct, "question_id": i, "prompt": f"{i}?"} for i in range(3)])
    write(data / "test.jsonl", [{"prompt": "2?", "response_1": "2", "response_2": "3", "winner": "tie"},
                                {"prompt": "4?", "response_1": "2", "response_2": "4", "winner": "model_b"}])  # fmt: skip
    write(data / "rewardbench.jsonl", [{"id": i, "subset": "hep-go", "prompt": f"{i}?", "chosen": "a", "rejected": "b"} for i in range(2)])
    write(data / "training.jsonl", [{"prompt": "2?", "chosen": "2", "rejected": "3"}])
    write(data / "scores.jsonl", [{"id": "1", "subset": "s", "score": 1.0}])
    return data


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.mark.parametrize("head", ["bt", "gpm", "pair"])
@pytest.mark.parametrize(
    ("name", "data"), [("rmbench", "a"), ("judgebench", "b.jsonl"), ("rmb", "c"), ("ppe", "gpqa.jsonl"), ("bestofn", "gpqa.jsonl")]
)
def test_results_and_saved_scores_agree(name: str, data: str, head: str, exports: dict[str, str], folder: Path, tmp_path: Path) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    assert main([name, "--model", exports[head], "--data", str(folder / data), "--out", str(out), "--also-swap", *FEW]) == 0
    found = results(out)
    assert found["benchmark"] == name and found["rule"] and found["tie_treatment"] and "swap" in found
    for value in [found["overall"], *found["sections"].values(), *found["subsets"].values()]:
        low, high = value["ci95"]
        assert set(value) == {"score", "n", "ci95"} and low <= value["score"] <= high
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert all((row["scores"] is None) == (head != "bt") for row in rows)
    assert (out / "mistakes.jsonl").is_file()
    assert main([name, "--scores", str(out / "scores.jsonl"), "--out", str(again), *FEW]) == 0
    for key in ("overall", "sections", "subsets", "tables", "rule", "partial", "model"):
        assert results(again)[key] == found[key]


def test_answers_do_not_depend_on_how_a_model_is_asked(exports: dict[str, str], folder: Path, tmp_path: Path) -> None:
    """The rewards of a Bradley-Terry model differ by what it answers to comparisons, and a table holds what compare answers."""
    from prefrep.data.sources import Source, read
    from prefrep.evaluation.judged.rows import JudgedScore, _comparisons, pairs_asked, prompts_of
    from prefrep.evaluation.rows import read_scores

    for head in exports:
        main(["rmbench", "--model", exports[head], "--data", str(folder / "a"), "--out", str(tmp_path / head), *FEW])
        prompts = prompts_of(read(Source(str(folder / "a"), format="rmbench")), lambda record: "")
        scorer = Scorer.from_pretrained(exports[head], device="cpu")
        for row, prompt in zip(read_scores(tmp_path / head / "scores.jsonl", JudgedScore), prompts, strict=True):
            pairs = pairs_asked(prompt, "across")
            assert len(pairs) == 9
            found = [row.margins()[i, j] for i, j in pairs]
            assert found == pytest.approx(list(scorer.compare(_comparisons(prompt, "across"))), abs=1e-4)
            assert len({round(float(value), 4) for value in found}) > 3  # a model that says the same of everything would pass too


def test_all_runs_what_it_finds(exports: dict[str, str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run" / "benchmarks"
    assert main(["all", "--model", exports["gpm"], "--data", str(folder), "--out", str(out), *FEW]) == 0
    said = capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["judgebench", "ppe", "rewardbench", "rmb", "rmbench"]
    assert f"left out: {folder}/scores.jsonl:1: no format fits" in said
    assert f"left out: {folder}/training.jsonl: rows have the format standard-explicit, which is no benchmark" in said
    assert said.rstrip().splitlines()[-6].split() == ["n", "score", "95", "%", "interval"]
    counts = {name: results(out / name)["overall"]["n"] for name in ("judgebench", "ppe", "rewardbench", "rmb", "rmbench")}
    assert counts == {"judgebench": 6, "ppe": 4, "rewardbench": 2, "rmb": 3, "rmbench": 5}
    # One scorer answers all; what it counts while encoding is counted per benchmark.
    assert results(out / "rewardbench")["model"]["encoded"]["records"] == 2 and results(out / "rmbench")["model"]["encoded"]["records"] == 5
    alone = tmp_path / "alone"
    assert main(["rmbench", "--model", exports["gpm"], "--data", str(folder / "a"), "--out", str(alone), *FEW]) == 0
    assert {key: results(alone)[key] for key in ("overall", "sections", "tables")} == {
        key: results(out / "rmbench")[key] for key in ("overall", "sections", "tables")
    }


def test_all_again_asks_the_model_nothing(exports: dict[str, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["all", "--model", exports["gpm"], "--data", str(folder), "--out", str(tmp_path / "out"), *FEW]
    main(command)
    before = {path: path.read_text() for path in sorted((tmp_path / "out").rglob("results.json"))}
    for name in ("compare", "tables"):
        monkeypatch.setattr(Scorer, name, lambda *args, **more: pytest.fail("asked"))
    main(command)
    assert {path: path.read_text() for path in before} == before


def test_the_report_sets_benchmarks_side_by_side(exports: dict[str, str], folder: Path, tmp_path: Path) -> None:
    for head in ("bt", "gpm"):
        main(["all", "--model", exports[head], "--data", str(folder), "--out", str(tmp_path / head), "--name", f"tiny/{head}", *FEW])
    page = tmp_path / "page.html"
    assert report([str(tmp_path / "bt"), str(tmp_path / "gpm"), "--out", str(page)]) == 0
    text = page.with_suffix(".md").read_text()
    _, _, table = text.partition("Benchmarks, side by side")
    lines = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in table.splitlines()[4:12]
        if line.startswith("|")
    }
    for name in ("judgebench", "rewardbench", "rmb", "rmbench"):
        n, bt, gpm, rule = lines[name]
        for head, shown in (("bt", bt), ("gpm", gpm)):
            assert shown.startswith(f"{results(tmp_path / head / name)['overall']['score']:.3f}")
        assert n.endswith(", partial") and rule
    # Nine comparisons per prompt, which are not independent, are tested by prompt.
    assert "Several comparisons on one prompt" in text
    for head in ("bt", "gpm"):
        lines_of = (tmp_path / head / "judgebench" / "mistakes.jsonl").read_text().splitlines()
        right = results(tmp_path / head / "judgebench")["overall"]["score"] * 6
        assert len(lines_of) == 6 - round(right)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["rmb", "--model", "m", "--out", "o"], UsageError, "name the rows of rmb with --data"),
        (["rmbench", "--out", "o"], UsageError, "name either --model FOLDER or --scores FILE"),
        (["rmbench", "--model", "m", "--data", "none", "--out", "o"], DataError, "none: no such file"),
        (["all", "--model", "m", "--data", "none", "--out", "o"], DataError, "none: no such folder"),
        (["all", "--model", "m", "--out", "o"], UsageError, "the following arguments are required: data"),
        (["judgbench"], UsageError, "did you mean judgebench"),
    ],
)
def test_usage_errors(arguments: list[str], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        main(arguments)


def test_what_is_of_another_benchmark_is_refused(exports: dict[str, str], folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match=r"none of its files belongs to a benchmark.*training.jsonl.*known: rewardbench, "):
        (only := tmp_path / "only").mkdir()
        write(only / "training.jsonl", [{"prompt": "2?", "chosen": "2", "rejected": "3"}])
        main(["all", "--model", exports["bt"], "--data", str(only), "--out", str(out)])
    with pytest.raises(RecordError, match=r"training.jsonl:1"):
        main(["rmbench", "--model", exports["bt"], "--data", str(folder / "training.jsonl"), "--out", str(out)])
    assert not out.exists()
    main(["judgebench", "--model", exports["bt"], "--data", str(folder / "b.jsonl"), "--out", str(out), *FEW])
    with pytest.raises(ConfigError, match="use `prefrep eval judgebench`"):
        main(["rmb", "--scores", str(out / "scores.jsonl"), "--out", str(tmp_path / "again")])
