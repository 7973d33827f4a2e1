"""hrun-ladder --upload, against a hub of our own on the loopback: huggingface_hub with its real requests."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from run_hrun import environment, run_command

pytestmark = pytest.mark.slow

TOKEN = "hf_right"
WORDS = "It was the best of times, it was the worst of times, and the sea rose. "


class Hub:
    """Takes commits as a hub does.  ``asked``: the requests in order; ``files``: what was committed."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.made: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.refuses = ""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, b"")

            def do_POST(self) -> None:
                hub.answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        path = request.path.split("?")[0].removeprefix("/api/")
        self.asked.append(f"{request.command} {path}")
        status, out = 200, {}
        if request.headers["Authorization"] != f"Bearer {TOKEN}" and path != "validate-yaml":
            status, out = 401, {"error": "Invalid credentials"}
        elif path == self.refuses:
            status, out = 403, {"error": "You may not write here"}
        elif path == "whoami-v2":
            out = {"name": "someone", "type": "user", "auth": {}}
        elif path == "repos/create":
            self.made = json.loads(body)
            out = {"url": f"{self.url}/{self.made['organization']}/{self.made['name']}"}
        elif path == "validate-yaml":
            out = {"errors": [], "warnings": []}
        elif path.endswith("/preupload/main"):
            out = {
                "files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
            }
        elif path.endswith("/commit/main"):
            for line in body.splitlines():
                item = json.loads(line)
                if item["key"] == "header":
                    self.messages.append(item["value"]["summary"])
                else:
                    value = item["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            out = {"commitUrl": f"{self.url}/someone/tiny/commit/{'0' * 40}", "commitOid": "0" * 40}
        else:
            status, out = 404, {"error": path}
        data = json.dumps(out).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)


@pytest.fixture
def hub() -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    server = Hub()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def ladder(
    hub: Hub, tiny_model: Callable[..., Path], tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """The command with an upload to someone/tiny: its exit code, stdout, stderr."""
    model = tiny_model(format="f32", n_ctx=1024)
    text = tmp_path / "text.txt"
    text.write_text(WORDS * 60)

    def run(*flags: str, **changes: str | None) -> tuple[int, str, str]:
        names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
        settings = {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": None,
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **dict.fromkeys(names), **changes,
        }  # fmt: skip
        done = run_command(
            "hrun-ladder", model, "--types", "q8_0,q4_k_m", "-o", tmp_path / "out", "--text", text, "--chunks", 1,
            "--upload", "someone/tiny", *flags, env=environment(**settings),
        )  # fmt: skip
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return run


def test_files_card_and_figures_go_up_in_one_commit(
    hub: Hub, ladder: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    code, out, err = ladder("--private")
    assert code == 0, err
    assert out.splitlines()[-1] == f"{hub.url}/someone/tiny"
    assert hub.made == {"name": "tiny", "organization": "someone", "visibility": "private", "type": "model"}  # fmt: skip
    made = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.name != "notes.txt"}
    assert len(made) == 5 and hub.files == made
    assert len(hub.messages) == 1 and hub.messages[0].startswith("Q8_0, Q4_K_M by hrun ")
    # The hub is asked for the writer's name before the work; nothing is made on the hub until it is
    # done.
    assert hub.asked[0] == "GET whoami-v2" and hub.asked[1] == "POST repos/create"


def test_a_dry_run_asks_and_writes_nothing(
    hub: Hub, ladder: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, err = ladder("--dry-run")
    assert code == 0, err
    assert hub.asked == [] and not (tmp_path / "out").exists()
    lines = out.splitlines()
    assert len(lines) == 6 and "would be made" in lines[0]
    assert lines[-1] == "all of them would go to the repository someone/tiny of Hugging Face"


def test_what_cannot_go_up_is_refused_before_any_work(
    hub: Hub, ladder: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    start = "hrun-ladder: cannot upload to someone/tiny: "
    code, _, err = ladder(HF_TOKEN=None)
    assert (code, err) == (
        1,
        f"{start}no token; hf auth login keeps one, or set HF_TOKEN\n",
    )
    code, _, err = ladder(HF_TOKEN="hf_wrong")
    assert code == 1 and err.startswith(start) and "Invalid user token" in err
    code, _, err = ladder(HF_ENDPOINT="http://127.0.0.1:1")
    assert code == 1 and err.startswith(f"{start}no connection to Hugging Face")
    code, _, err = ladder("--upload", "tiny")
    assert code == 1 and "'tiny' is not of the form USER/MODEL" in err
    assert not (tmp_path / "out").exists()


def test_a_refused_commit_is_an_error_and_the_files_stay(
    hub: Hub, ladder: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    hub.refuses = "models/someone/tiny/commit/main"
    code, _, err = ladder()
    assert code == 1 and "cannot upload to someone/tiny" in err and "403" in err
    assert len(list((tmp_path / "out").glob("*.gguf"))) == 2
    hub.refuses = ""
    code, _, err = ladder()
    assert code == 0 and err.count("is there") == 2 and len(hub.files) == 5
