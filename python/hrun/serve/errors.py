"""Errors as clients see them: a status, and the shape of OpenAI's."""

from __future__ import annotations

import re
import sys
import traceback
from typing import Any

import hrun
from hrun.errors import printable

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_PATH = re.compile(r"(?<![\w/.])/(?:[\w.@+-]+/)+([\w.@+-]+)")
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")


class ApiError(Exception):
    """The error that ends a request.  ``param`` names the field that is to blame, ``code`` is for
    programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        self.extra: dict[str, Any] = {}  # more for programs, beside the code

    @property
    def type(self) -> str:
        """The family of the error, by its status."""
        return _TYPES.get(self.status, "invalid_request_error")

    def body(self) -> dict[str, Any]:
        """Returns the error in OpenAI's shape."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error | self.extra}


class ClientGone(Exception):
    """Nobody is there to read the answer."""


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that the client has to change."""
    return ApiError(400, message, param=param, code=code)


def anthropic_error(error: ApiError) -> dict[str, Any]:
    """An error in Anthropic's shape."""
    usual = "api_error" if error.status >= 500 else _ANTHROPIC_TYPES[400]
    kind = _ANTHROPIC_TYPES.get(error.status, usual)
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def api_error(error: BaseException) -> ApiError:
    """Returns the error that a client is told of.  An error that is our fault is written to stderr
    with its trace.
    """
    if isinstance(error, ApiError):
        return error
    text = sanitized(str(error))
    if isinstance(error, hrun.ContextOverflowError):
        return bad(text, code="context_length_exceeded")
    if isinstance(error, hrun.ChatTemplateError):
        return bad(text, param="messages", code="chat_template_error")
    if isinstance(error, hrun.GrammarError):
        return bad(text, code="unsupported_grammar")
    if isinstance(error, hrun.ArgumentError):
        return bad(text)
    if isinstance(error, hrun.UnsupportedModelError):
        return ApiError(501, text, code="not_supported")
    if isinstance(error, hrun.QueueFullError):
        return ApiError(429, text, code="queue_full", headers={"Retry-After": "1"})
    if isinstance(error, hrun.Cancelled):
        return ApiError(503, "the request was cancelled", code="cancelled")
    if isinstance(error, hrun.GenerationError):
        return ApiError(503, text, code="unavailable", headers={"Retry-After": "5"})
    traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
    if isinstance(error, hrun.Error):
        return ApiError(500, text, code="engine_error")
    return ApiError(500, "internal error; the server's log has more", code="internal_error")


def sanitized(text: str) -> str:
    """Returns the text without folders and addresses of this machine."""
    return printable(_ADDRESS.sub("0x...", _PATH.sub(r"\1", text)), 1000)
