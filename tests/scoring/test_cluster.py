"""Several machines: Ray's own imitation of them, nodes in processes of this one, of which one is lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import program

from prefrep.data.encode import EncodeConfig
from prefrep.data.sources import read
from prefrep.errors import CheckpointError, ConfigError, PrefrepError, UsageError
from prefrep.io.folder import save
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead
from prefrep.nn.loading import load_tokenizer
from prefrep.scoring import cluster
from prefrep.scoring.interface import WINDOW
from prefrep.scoring.loading import Scoring
from prefrep.scoring.workers import Workers

score = program("score")


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'prefrep\[ray\]'"):
        Workers("anything", Scoring(engine="ray"))


def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("Could not find it\nat all")

    monkeypatch.setattr(cluster, "find_spec", lambda name: name)
    monkeypatch.setattr(cluster, "import_module", lambda name: SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(PrefrepError, match=r"no cluster answers \(Could not find it\); unset RAY_ADDRESS"):
        Workers("anything", Scoring(engine="ray"))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head that scores nothing, and two machines with a core each."""
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # as many as this process: kernels of another number of threads round otherwise
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")  # on a busy machine actors would wait behind everybody else
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for _ in range(2):
            found.add_node(num_cpus=1)
        patch.setenv("RAY_ADDRESS", found.address)
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.mark.slow  # starts a cluster
def test_ray_gives_the_scores_of_one_process(nodes: Any, tmp_path: Path) -> None:
    """To the last bit, in order, once each: after the start of another engine, and while a process and then a machine are lost."""
    backbone, model, data = Backbone("bundled:tiny-llama").eval(), str(tmp_path / "export"), tmp_path / "rows.jsonl"
    save(tmp_path / "export", backbone, GPMHead(backbone.hidden_size), 1.0, EncodeConfig(), load_tokenizer("bundled:tiny-llama"), {})
    rows = [{"prompt": f"Say {i}", "chosen": "it is " * (i % 5 + 1), "rejected": f"no {i}", "id": f"r{i}"} for i in range(5 * WINDOW + 30)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    score(["--model", model, "--data", str(data), "--out", str(one)])

    # A run in one process, cut off in its second window, goes on.
    (tmp_path / "two.jsonl.about.json").write_text((tmp_path / "one.jsonl.about.json").read_text())
    two.write_bytes(one.read_bytes()[: one.read_bytes().index(b'"row": 140') + 3])
    score(["--model", model, "--data", str(data), "--out", str(two), "--engine", "ray", "--workers", "2"])
    assert two.read_bytes() == one.read_bytes()

    expected = [json.loads(line)["score"] for line in one.read_text().splitlines()]
    pool = Workers(model, Scoring(engine="ray", workers=1))
    with pytest.raises(CheckpointError, match="no such folder"):
        Workers(model + "-not", Scoring(engine="ray", workers=1))
    with pytest.raises(UsageError, match="--workers 9: the cluster has 2 CPUs"):
        Workers(model, Scoring(engine="ray", workers=9))
    pid = pool._pool.submit(os.getpid).result()
    answers = pool.compare(record for record in read(str(data)))  # type: ignore[misc]
    found = [next(answers)]
    os.kill(pid, signal.SIGKILL)
    found += [next(answers) for _ in range(2 * WINDOW)]
    assert pool._pool.submit(os.getpid).result() != pid, "it started again"
    nodes.remove_node(max(nodes.worker_nodes, key=lambda node: node.node_id == _node(pool)), allow_graceful=False)
    assert [*found, *answers] == expected


def _node(pool: Workers) -> str:
    """Node of the pool's only actor."""
    import ray

    return str(pool._pool.submit(lambda: ray.get_runtime_context().get_node_id()).result())
