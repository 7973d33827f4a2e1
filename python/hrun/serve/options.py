"""The options that the server was started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_loopback(host: str) -> bool:
    """Is the address reached from this machine only?"""
    return host in LOOPBACK or host.startswith("127.")


@dataclass(frozen=True)
class Options:
    """Every setting that a request can feel; the command's flags fill it in."""

    host: str = "127.0.0.1"
    port: int = 8080
    aliases: tuple[str, ...] = ()  # names of the model; the first is the one that answers carry
    any_model: bool = False
    api_keys: tuple[str, ...] = ()
    public_metrics: bool = False
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    check_host: bool = True
    share_cache_across_keys: bool = False
    sampling: Mapping[str, float] = field(default_factory=dict)  # in place of the model's
    seed: int | None = None
    default_max_tokens: int | None = None  # for requests that name none
    template_variables: Mapping[str, object] = field(default_factory=dict)
    chat_template: str | None = None  # in place of the model's
    trust_request_chat_template: bool = False
    tool_format: str | None = None
    reasoning_format: str = "auto"
    reasoning_field: str = "reasoning_content"
    strict_params: bool = False
    strict_tools: bool = False
    embeddings_pooling: str | None = None
    metrics_prefix: str = "hrun:"
    page: bool = True
    slots: bool = False
    log_requests: bool = False
    # Limits.
    max_body_bytes: int = 8 << 20
    max_queue: int = 256  # choices that wait beside those that are computed
    max_per_key: int = 0  # requests at a time of one key; 0: no limit
    max_choices: int = 32  # n and best_of
    max_prompts: int = 256  # in one completions, embeddings or rerank request
    max_messages: int = 4096
    max_tools: int = 128
    max_stops: int = 16
    max_schema_bytes: int = 256 << 10
    request_seconds: float = 600.0
    body_seconds: float = 60.0  # for a request's body to come
    write_seconds: float = 60.0  # a client that reads nothing for so long is gone
    ping_seconds: float = 15.0
    drain_seconds: float = 30.0
    stall_seconds: float = 120.0  # a step of the engine that takes longer is reported by /health
