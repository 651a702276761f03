"""The hub, by a stand-in of its routes on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from conftest import COMPARISONS, program
from huggingface_hub import HfApi, constants
from lightning.pytorch import Trainer

from prefrep.callbacks import Export
from prefrep.data.encode import EncodeConfig
from prefrep.data.preference import PreferenceData
from prefrep.errors import CheckpointError, UsageError
from prefrep.io import folder, hub
from prefrep.io.card import card
from prefrep.io.fingerprint import fingerprint
from prefrep.io.folder import PreferenceModel
from prefrep.metrics.intervals import accuracy_interval
from prefrep.modules.models import BradleyTerry
from prefrep.nn.backbone import Backbone
from prefrep.nn.heads import GPMHead
from prefrep.scoring import Scorer

export = program("export")
SHA = "0123456789abcdef0123456789abcdef01234567"


class Stand(ThreadingHTTPServer):
    """Repositories as dicts of files; `main` and the tag `v1` name the only commit."""

    repos: dict[str, dict[str, bytes]]
    place: str


class Routes(BaseHTTPRequestHandler):
    server: Stand

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, code: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content: Any) -> None:
        self._answer(200, json.dumps(content).encode(), Content_Type="application/json")

    def _file(self) -> None:
        owner, name, kind, revision, file = self.path.split("?")[0].strip("/").split("/", 4)
        files = self.server.repos.get(f"{owner}/{name}")
        if files is None or kind != "resolve" or revision not in ("main", "v1", SHA):
            return self._answer(404, X_Error_Code="RepoNotFound" if files is None else "RevisionNotFound")
        if file not in files:
            return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=SHA)
        content = files[file]
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self._answer(200, content, ETag=etag, X_Repo_Commit=SHA, X_Linked_Size=str(len(content)), Content_Length=str(len(content)))

    def do_HEAD(self) -> None:
        self._file()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if not path.startswith("/api/models/"):
            return self._file()
        owner, name, kind, revision, *_ = [*path.removeprefix("/api/models/").split("/"), "", ""]
        files = self.server.repos.get(f"{owner}/{name}")
        if files is None or revision not in ("", "main", "v1", SHA):
            return self._answer(404, X_Error_Code="RepoNotFound" if files is None else "RevisionNotFound")
        if kind == "tree":
            return self._json(
                [{"type": "file", "path": file, "size": len(x), "oid": hashlib.sha1(x).hexdigest()} for file, x in files.items()]
            )
        self._json({"id": f"{owner}/{name}", "sha": SHA, "siblings": [{"rfilename": file} for file in files], "private": False, "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = self.path.split("?")[0]
        if self.headers.get("Authorization") != "Bearer secret":
            return self._answer(401, b'{"error": "Invalid user token."}')
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = "/".join(each for each in (asked.get("organization"), asked["name"]) if each)
            self.server.repos.setdefault(repo, {})
            return self._json({"url": f"http://{self.headers['Host']}/{repo}"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        repo = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if "/preupload/" in path:
            return self._json(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]}
            )
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        self._json({"commitUrl": f"http://{self.headers['Host']}/{repo}/commit/{SHA}", "commitOid": SHA, "success": True})


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stand]:
    server = Stand(("127.0.0.1", 0), Routes)
    server.repos = {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    here = f"http://127.0.0.1:{server.server_address[1]}"
    server.place = here
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "secret")

    def api(**options: Any) -> HfApi:
        return HfApi(endpoint=here, **options)

    def download(repo: str, **options: Any) -> str:
        return str(huggingface_hub.snapshot_download(repo, endpoint=here, cache_dir=tmp_path / "cache", **options))

    monkeypatch.setattr(hub, "HfApi", api)
    monkeypatch.setattr(hub, "snapshot_download", download)
    yield server
    server.shutdown()


def model() -> PreferenceModel:
    backbone = Backbone("bundled:tiny-llama")
    torch.manual_seed(1)
    head = GPMHead(backbone.hidden_size, dim=4)
    torch.nn.init.normal_(head.value_head.weight)
    return PreferenceModel(backbone.eval(), head.eval(), 0.25, EncodeConfig(), backbone.tokenizer(), {})


def saved(path: Path) -> list[float]:
    made = model()
    folder.save(
        path, made.backbone, made.head, made.tau, made.encode, made.tokenizer, {"data": {"train": ["me/pairs", "/home/me/mine.jsonl"]}}
    )
    return list(Scorer(made).compare(COMPARISONS))


def test_there_and_back(stand: Stand, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pushed, downloaded by name, by revision and by the programs' spelling: the same scores and the same fingerprint."""
    expected = saved(tmp_path / "m")
    assert export(["--model", str(tmp_path / "m"), "--push", "me/gpm"]) == 0
    assert f"pushed to {stand.place}/me/gpm/commit/{SHA}" in capsys.readouterr().out
    files = {file.name for file in (tmp_path / "m").iterdir()}
    assert stand.repos["me/gpm"].keys() == files
    for scorer in (Scorer.from_pretrained("me/gpm", "cpu", revision="v1"), Scorer.from_pretrained("me/gpm@v1", "cpu")):
        assert list(scorer.compare(COMPARISONS)) == expected
    assert fingerprint("me/gpm") == fingerprint("me/gpm@v1") == fingerprint(tmp_path / "m")
    (tmp_path / "in.jsonl").write_text('{"prompt": "Name a prime", "chosen": "7", "rejected": "9"}\n')
    out = tmp_path / "out.jsonl"
    assert program("score")(["--model", "me/gpm@v1", "--data", str(tmp_path / "in.jsonl"), "--out", str(out), "--device", "cpu"]) in (
        0,
        None,
    )
    assert json.loads(out.read_text())["score"] == pytest.approx(expected[0], abs=1e-5)


def test_what_the_hub_refuses_is_a_sentence(stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "m")
    with pytest.raises(CheckpointError, match="cannot be had from the hub"):
        Scorer.from_pretrained("me/nothing")
    export(["--model", str(tmp_path / "m"), "--push", "me/gpm"])
    with pytest.raises(CheckpointError, match="me/gpm@v2: no such folder"):
        Scorer.from_pretrained("me/gpm@v2")
    with pytest.raises(CheckpointError, match="write owner/name"):
        export(["--model", str(tmp_path / "m"), "--push", "gpm"])
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(CheckpointError, match="cannot push there .* log in"):
        export(["--model", str(tmp_path / "m"), "--push", "me/gpm"])
    with pytest.raises(UsageError, match="drop it"):
        export(["--model", str(tmp_path / "m"), "--push", "me/gpm", "--out", str(tmp_path / "x")])


def test_what_cannot_be_pushed_leaves_no_repository(stand: Stand, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nothing to push"):
        export(["--model", str(tmp_path / "m"), "--push", "me/gpm"])
    saved(tmp_path / "m")
    for change in ({"head": {}}, {"recipe": {"data": "x"}}, {"versions": 5}):
        about = json.loads((tmp_path / "m" / "prefrep.json").read_text())
        (tmp_path / "m" / "prefrep.json").write_text(json.dumps(about | change))
        with pytest.raises(CheckpointError, match="damaged or edited"):
            export(["--model", str(tmp_path / "m"), "--push", "me/gpm"])
        (tmp_path / "m" / "prefrep.json").write_text(json.dumps(about))
    assert "me/gpm" not in stand.repos


@pytest.mark.parametrize("lost", ["model.safetensors", "head.safetensors", "tokenizer.json", "prefrep.json", "cut"])
def test_half_a_download_is_refused(stand: Stand, lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, the cache hands out what it has of a folder."""
    saved(tmp_path / "m")
    export(["--model", str(tmp_path / "m"), "--push", "me/gpm"])
    place = hub.fetched("me/gpm")
    if lost == "cut":
        content = (place / "model.safetensors").read_bytes()
        (place / "model.safetensors").unlink()
        (place / "model.safetensors").write_bytes(content[:-10])
    else:
        (place / lost).unlink()
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, **options: str(place))
    with pytest.raises(CheckpointError, match="download it again|only a part of it was downloaded"):
        Scorer.from_pretrained("me/gpm")


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "a@b").mkdir(parents=True)
    assert hub.split("me/gpm@v1") == ("me/gpm", "v1") and hub.split("me/gpm") == ("me/gpm", None)
    assert hub.split("runs/a@b") == ("runs/a@b", None) and not hub.is_hub_id("runs/a@b")
    assert [hub.is_hub_id(name) for name in ("me/gpm", "me/gpm@v1", "./me/gpm", "/me/gpm", "gpm", "a/b/c", "~/gpm")] == [True] * 2 + [
        False
    ] * 5


def test_the_model_card(stand: Stand, tmp_path: Path) -> None:
    """A YAML head that the hub reads; how to load it; what others make of it; local paths by their last part alone."""
    saved(tmp_path / "m")
    text = (tmp_path / "m" / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "prefrep" and head["datasets"] == ["me/pairs"] and "base_model" not in head
    for said in ("Scorer.from_pretrained(", "--to seqcls", "random scores", "0.25", "GPMHead", "`me/pairs`, `mine.jsonl`"):
        assert said in text
    assert "/home/me" not in text and "--to sentence-transformers" in text
    for template in ("classifier", "official"):  # which do not read at a final EOS
        about = json.loads((tmp_path / "m" / "prefrep.json").read_text())
        about["encode"]["template"] = template
        assert "--to sentence-transformers" not in card(about)
    export(["--model", str(tmp_path / "m"), "--push", "me/gpm"])
    assert "Scorer.from_pretrained('me/gpm')" in stand.repos["me/gpm"]["README.md"].decode()
    shutil.rmtree(tmp_path / "m")
    with pytest.raises(CheckpointError, match="nothing to push"):
        export(["--model", str(tmp_path / "m"), "--push", "me/gpm"])


def test_a_run_pushes_what_it_exports(stand: Stand, tmp_path: Path) -> None:
    """The card says what was measured, with its interval; no path of this machine leaves it but file names."""
    rows = [{"prompt": p.prompt[0].content, "chosen": p.chosen[0].content, "rejected": p.rejected[0].content} for p in COMPARISONS]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    module = BradleyTerry(partial(Backbone, path="bundled:tiny-llama", frozen=True))
    data = PreferenceData(str(file), val=str(file), batch_size=4, cache=None)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        use_distributed_sampler=False, callbacks=[Export(push="me/run")],
    )  # fmt: skip
    trainer.fit(module, data)
    text = stand.repos["me/run"]["README.md"].decode()
    wins = float(trainer.callback_metrics["val/accuracy"]) * 4
    low, high = accuracy_interval(round(wins), 4)
    assert f"| validation accuracy | {wins / 4:.4g} (95 % interval {low:.3f} to {high:.3f}, n = 4) |" in text
    assert "`pairs.jsonl`" in text and str(tmp_path) not in text
    assert Scorer.from_pretrained("me/run", "cpu").rank("Name a prime", ["7", "9"])
    refused = Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, logger=False, callbacks=[Export(push="run")])
    with pytest.raises(CheckpointError, match="write owner/name"):
        refused.fit(module, data)
