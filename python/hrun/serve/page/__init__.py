"""The web page at ``/``: one document without anything from elsewhere, put together of the files of this folder."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

_SCRIPTS = ("markdown.js", "chat.js")


@lru_cache(maxsize=1)
def document() -> tuple[bytes, dict[str, str]]:
    """The page and its headers: what is not in it by its hash does not run."""
    folder = files(__package__)

    def text(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8")

    script = '"use strict";\n' + "".join(map(text, _SCRIPTS))
    style = text("style.css")
    html = text("index.html").replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return html.encode(), headers


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


async def page(request: Request) -> Response:
    """GET /."""
    body, headers = document()
    return Response(body, headers=headers, media_type="text/html")
