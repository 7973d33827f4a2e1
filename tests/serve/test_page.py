"""The web page: one document, nothing from elsewhere; and in a browser, where there is one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from live import Live, ScriptedEngine, until

EVIL = [
    "<script>document.title='evil'</script>",
    "<img src=x onerror=\"document.title='evil'\">",
    "[x](javascript:document.title='evil')",
    "```\n<script>document.title='evil'</script>\n```",
    "| <b onclick=x>a</b> | b |\n|---|---|\n| <svg onload=\"document.title='evil'\"> | 2 |",
]


def test_the_page_is_one_document(live: Live) -> None:
    reply = live.get("/")
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/html")
    assert len(reply.data) < 60_000
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    # Nothing is loaded from anywhere, and no text becomes HTML.
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", reply.text)
    assert "innerHTML" not in reply.text and "insertAdjacentHTML" not in reply.text


def test_the_page_needs_no_key_and_can_be_left_out(serve_path: Any) -> None:
    from hrun import Runtime

    runtime = Runtime(serve_path, n_threads=1)
    with Live(runtime, keep=True, api_keys=("k",)) as live:
        assert live.get("/").status == 200
    with Live(runtime, page=False) as live:
        live.get("/").refused(404)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, scripted: tuple[Live, ScriptedEngine]) -> Iterator[Any]:
    live, _ = scripted
    page = browser.new_context().new_page()
    said: list[str] = []
    page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda r: said.append(r.url) if f":{live.port}/" not in r.url and not r.url.startswith("data:") else None)  # fmt: skip
    page.goto(f"http://127.0.0.1:{live.port}/")
    page.wait_for_selector("#model:not(:empty)")
    yield page
    assert said == []
    page.context.close()


def send(page: Any, text: str) -> None:
    page.fill("#input", text)
    page.keyboard.press("Enter")


def test_a_message_is_answered_and_kept(page: Any, scripted: tuple[Live, ScriptedEngine]) -> None:
    send(page, "Hello")
    page.wait_for_selector("#send:visible")
    answer = page.locator("#messages > li.assistant .body")
    assert answer.inner_text() == "Hello, world."
    assert "tokens/s" in page.inner_text("#messages > li.assistant .meta")
    page.get_by_role("button", name="Another answer").click()
    page.wait_for_selector("text=2/2")
    page.get_by_role("button", name="Version before").click()
    page.wait_for_selector("text=1/2")
    page.reload()  # shows the same conversation; another tab begins a new one
    page.locator("#messages > li.user .body", has_text="Hello").wait_for()
    other = page.context.new_page()
    other.goto(page.url)
    other.locator(".empty").wait_for()
    other.click("#list li:nth-child(2) .name")
    assert other.locator("#messages > li.user .body").inner_text() == "Hello"
    other.close()
    page.get_by_role("button", name="Edit").click()
    page.fill(".edit textarea", "Other")
    page.keyboard.press("Enter")
    page.wait_for_selector("#send:visible")
    assert page.locator("#messages > li.user .body").inner_text() == "Other"


def test_stop_frees_the_sequence(page: Any, scripted: tuple[Live, ScriptedEngine]) -> None:
    live, engine = scripted
    engine.free = False
    send(page, "Hello")
    page.wait_for_selector("#stop:visible")
    until(lambda: engine.handles, "a sequence")
    engine.step(5)
    page.locator("#messages > li.assistant", has_text="Hello").wait_for()
    page.keyboard.press("Escape")
    until(lambda: engine.handles[0].cancelled, "the cancellation")
    live.idle()
    page.wait_for_selector("text=stopped")


def test_what_a_model_writes_is_never_markup(page: Any, scripted) -> None:
    live, engine = scripted
    live.runtime.n_ctx = 4096
    engine.script = lambda prompt: "\n\n".join(EVIL)
    send(page, EVIL[0])
    page.wait_for_selector("#send:visible")
    assert "evil" not in page.title()
    inside = "#messages script, #messages img, #messages svg, #messages b, #messages a"
    assert page.locator(inside).count() == 0
    text = page.inner_text("#messages")
    assert text.count("<script>") == 3 and "javascript:" in text
