"""-hf against a hub of our own on the loopback: huggingface_hub with its real requests and its real cache."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hrun import _core
from run_hrun import environment, run_command

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves folder/USER/MODEL/... as a hub does; `asked` holds the paths of the requests."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[str]()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, with_body=False)

            def do_GET(self) -> None:
                hub.answer(self, with_body=True)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, with_body: bool) -> None:
        path = request.path.split("?")[0].strip("/")
        self.asked.append(path)
        parts = path.split("/")
        if parts[:2] == ["api", "models"]:
            repository = self.folder / "/".join(parts[2:4])
            files = (
                sorted(p for p in repository.rglob("*") if p.is_file())
                if repository.is_dir()
                else []
            )
            names = [str(p.relative_to(repository)) for p in files]
            listed = [
                {"type": "file", "path": n, "size": p.stat().st_size, "oid": "0" * 40}
                for n, p in zip(names, files)
            ]
            about = {
                "id": "/".join(parts[2:4]),
                "sha": COMMIT,
                "siblings": [{"rfilename": n} for n in names],
            }
            body = json.dumps(listed if "tree" in parts else about).encode()
            return self.send(
                request,
                200 if files else 404,
                body if files else b"{}",
                "application/json",
                with_body,
                {} if files else {"X-Error-Code": "RepoNotFound"},
            )
        file = self.folder / "/".join(parts[:2]) / "/".join(parts[4:])
        if parts[2:3] != ["resolve"] or not file.is_file():
            return self.send(
                request, 404, b"", "text/plain", with_body, {"X-Error-Code": "EntryNotFound"}
            )
        body = file.read_bytes()
        etag = hashlib.sha256(body).hexdigest()
        self.send(
            request,
            200,
            body,
            "application/octet-stream",
            with_body,
            {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"', "X-Linked-Size": str(len(body))},
        )

    def send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        kind: str,
        with_body: bool,
        headers: dict[str, str],
    ) -> None:
        request.send_response(status)
        for name, value in {
            **headers,
            "Content-Type": kind,
            "Content-Length": str(len(body)),
        }.items():
            request.send_header(name, value)
        request.end_headers()
        if with_body:
            request.wfile.write(body)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub(tmp_path: Path, tiny_model: Callable[..., Path]) -> Iterator[Hub]:
    """The hub has user/model: two types, one of them in two files, and files that are no model."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gguf"))
    from test_split_files import split

    folder = tmp_path / "hub" / "user" / "model"
    folder.mkdir(parents=True)
    (folder / "tiny-Q4_0.gguf").write_bytes(tiny_model().read_bytes())
    split(tiny_model(), folder, 2, "tiny-F32")
    (folder / "mmproj-tiny-Q4_0.gguf").write_bytes(b"GGUF")
    (folder / "README.md").write_text("A model.")
    server = Hub(tmp_path / "hub")
    yield server
    server.close()


def settings(url: str, cache: Path, **changes: str | None) -> dict[str, str]:
    proxies = dict.fromkeys(
        ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    )
    return environment(
        HF_ENDPOINT=url,
        HF_HOME=str(cache),
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_TOKEN=None,
        **{"HF_HUB_OFFLINE": None, **proxies, **changes},
    )


DOWNLOAD = """
import json, sys, hrun
from hrun.cli.hub import download
for spec in sys.argv[1:]:
    try:
        print(json.dumps([str(download(spec)), ""]))
    except hrun.Error as error:
        print(json.dumps(["", str(error)]))
"""


def download(url: str, cache: Path, *specs: str, **changes: str | None) -> list[tuple[str, str]]:
    """Returns for each model the file, or the message."""
    done = subprocess.run(
        [sys.executable, "-c", DOWNLOAD, *specs],
        env=settings(url, cache, **changes),
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_models_of_a_hub(hub: Hub, tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    cache = tmp_path / "cache"
    run = run_command(
        "hrun",
        "-hf",
        "user/model",
        "-p",
        "the",
        "-n",
        "4",
        "--temp",
        "0",
        "-c",
        "32",
        env=settings(hub.url, cache),
    )
    assert run.returncode == 0, run.stderr.decode()
    # A preferred type, though it is not the first by name.
    assert any(path.endswith("tiny-Q4_0.gguf") for path in hub.asked) and not any(
        "F32" in path or "mmproj" in path for path in hub.asked
    )

    whole, parts, missing, unknown = download(
        hub.url, cache, "user/model:Q4_0", "user/model:f32", "user/model:q6_k", "user/nothing"
    )
    assert Path(whole[0]).read_bytes() == tiny_model().read_bytes()
    assert {path.rsplit("/", 1)[-1] for path in hub.asked if "F32" in path} == {
        "tiny-F32-00001-of-00002.gguf",
        "tiny-F32-00002-of-00002.gguf",
    }
    model = _core.Model.load(parts[0])
    assert model.n_params == _core.Model.load(str(tiny_model())).n_params
    assert missing == ("", "user/model has no GGUF file of type q6_k") and unknown[1].startswith(
        "cannot download user/nothing"
    )

    # The hub is gone: what was downloaded is found, anything else is told why not.
    hub.close()
    specs = ("user/model:f32", "user/other", "user/model:q8_0")
    for changes in ({}, {"HF_HUB_OFFLINE": "1"}):
        again, absent, other_type = download(hub.url, cache, *specs, **changes)
        assert again == parts
        assert (
            "no connection to Hugging Face" in absent[1]
            and "nothing of user/other has been downloaded" in absent[1]
            and "-m" in absent[1]
        )
        assert "of type q8_0 among what has been downloaded" in other_type[1]
    Path(parts[0]).with_name("tiny-F32-00002-of-00002.gguf").unlink()
    assert "not complete in its cache" in download(hub.url, cache, "user/model:f32")[0][1]
