"""hrun-serve: a model behind the HTTP interfaces of OpenAI, Anthropic and ollama.

hrun-serve -m model.gguf                 on http://127.0.0.1:8080
hrun-serve -m model.gguf --port 9000 --api-key SECRET --host 0.0.0.0
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hrun.cli.common import (
    EXIT_INTERRUPTED,
    Parser,
    add_model_options,
    add_sampling_options,
    chosen_sampling,
    complain,
    load,
    run,
    runtime_settings,
)
from hrun.cli.options import add_flags, whole_number
from hrun.errors import ArgumentError
from hrun.serve.options import Options, is_loopback

_EPILOG = """\
Flags have llama-server's names where both have the feature.  Exit code 0 after SIGTERM, 130 after Ctrl-C; 1 after an error, 2
for a wrong flag.  The first signal lets answers finish (--drain-timeout), a second one ends at once."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    return run("hrun-serve", _main, make_parser(), argv)


def make_parser() -> Parser:
    """All flags."""
    parser = Parser(prog="hrun-serve", description=__doc__, epilog=_EPILOG)
    add_model_options(parser)
    add = parser.add_argument
    add_flags(parser, "hf_repo")
    add_flags(parser, "ctx_size", help="context of one request in tokens; 0: the model's (default: the model's, at most 16384)")  # fmt: skip
    add("-np", "--parallel", type=whole_number(1, 1 << 16), default=64, metavar="N", help="sequences computed together at most (default 64)")  # fmt: skip
    add("--kv-tokens", type=whole_number(1), metavar="N", help="tokens that the cache of all requests together holds (default: four contexts, as far as a quarter of the free memory holds them)")  # fmt: skip
    add("--host", default="127.0.0.1", metavar="NAME", help="address to listen on (default 127.0.0.1: this machine only)")  # fmt: skip
    add("--port", type=whole_number(0, 65535), default=8080, metavar="N", help="0: any free one (default 8080)")  # fmt: skip
    add("-a", "--alias", action="append", default=[], metavar="NAME", help="the model's name for requests; may be repeated (default: the file's)")  # fmt: skip
    add("--any-model", action="store_true", help="answer requests for any model name")
    add("--chat-template", metavar="TEMPLATE", help="in place of the model's")
    add_flags(parser, "chat_template_file")
    add("--chat-template-kwargs", metavar="JSON", help="variables for the chat template, e.g. '{\"enable_thinking\": false}'")  # fmt: skip
    add("--trust-request-chat-template", action="store_true", help="take the chat_template of a request")  # fmt: skip
    add("--jinja", action="store_true", help=argparse.SUPPRESS)  # always
    add("--reasoning-format", choices=["auto", "deepseek", "none"], default="auto", help="none leaves what the model thinks in its content (default: apart)")  # fmt: skip
    add("--reasoning-field", default="reasoning_content", metavar="NAMES", help="fields for it, by commas: reasoning_content (default), reasoning")  # fmt: skip
    add("--tool-format", metavar="NAME", help="how the model writes tool calls (default: by its chat template)")  # fmt: skip
    add("--strict-tools", action="store_true", help="refuse tools where the template does not say how they are written")  # fmt: skip
    add("--strict-params", action="store_true", help="refuse fields that are not known")
    add_flags(parser, "pooling", choices=("mean", "cls", "last"))
    add_flags(parser, "predict", type=whole_number(-1), help="tokens of an answer whose request names no limit (default -1: what fits)")  # fmt: skip
    guard = parser.add_argument_group("access")
    guard.add_argument("--api-key", action="append", default=[], metavar="KEY", help="may be repeated, or several by commas (also HRUN_API_KEY)")  # fmt: skip
    guard.add_argument("--api-key-file", metavar="FILE", help="one key a line")
    guard.add_argument("--no-auth", action="store_true", help="listen beyond this machine without a key")  # fmt: skip
    guard.add_argument("--cors-origins", action="append", default=[], metavar="ORIGIN", help="pages that may use the server, e.g. https://example.org; localhost is this machine's at any port, * is all; may be repeated")  # fmt: skip
    guard.add_argument("--allowed-hosts", action="append", default=[], metavar="NAME", help="names in the Host header besides the loopback's; * is all; may be repeated")  # fmt: skip
    guard.add_argument("--public-metrics", action="store_true", help="/metrics without a key")
    guard.add_argument("--share-cache-across-keys", action="store_true", help="reuse cached prompts of other keys, who can then feel what was asked")  # fmt: skip
    guard.add_argument("--no-page", "--no-webui", "--no-ui", dest="page", action="store_false", help="no web page at /")  # fmt: skip
    limits = parser.add_argument_group("limits")
    limits.add_argument("--queue", type=whole_number(0), default=Options.max_queue, metavar="N", help=f"sequences that may wait beside those that are computed (default {Options.max_queue})")  # fmt: skip
    limits.add_argument("--max-requests-per-key", type=whole_number(0), default=0, metavar="N", help="at a time (default 0: no limit)")  # fmt: skip
    limits.add_argument("--max-body", type=whole_number(1), default=Options.max_body_bytes, metavar="BYTES", help="of a request (default 8 MiB)")  # fmt: skip
    limits.add_argument("-to", "--timeout", type=float, default=Options.request_seconds, metavar="SECONDS", help=f"for a request (default {Options.request_seconds:g})")  # fmt: skip
    limits.add_argument("--write-timeout", type=float, default=Options.write_seconds, metavar="SECONDS", help=f"a client that reads nothing for so long is gone (default {Options.write_seconds:g})")  # fmt: skip
    limits.add_argument("--drain-timeout", type=float, default=Options.drain_seconds, metavar="SECONDS", help=f"for answers to finish after the first signal (default {Options.drain_seconds:g})")  # fmt: skip
    ray = parser.add_argument_group(
        "Ray Serve", "Several engines behind one server; needs the extra hrun[ray]."
    )
    ray.add_argument(
        "--ray", action="store_true", help="compute in replicas on this machine, which Ray starts"
    )
    ray.add_argument("--ray-address", metavar="ADDRESS", help="in replicas of a cluster: auto, or HOST:PORT; the model's file must be on each machine under the same path")  # fmt: skip
    ray.add_argument("--ray-replicas", type=_low_high, default=(1, 1), metavar="N or LOW:HIGH", help="how many replicas; with two numbers Ray scales between them (default 1)")  # fmt: skip
    ray.add_argument("--ray-target", type=whole_number(1), metavar="N", help="requests under way at a replica above which another one is started (default: half of --parallel)")  # fmt: skip
    ray.add_argument("--ray-app", default="hrun", metavar="NAME", help="the app's name; a second server with the same name uses the same replicas (default hrun)")  # fmt: skip
    add("--metrics", action="store_true", help=argparse.SUPPRESS)  # always
    add(
        "--slots", action="store_true", help="answer GET /slots, for programs made for llama-server"
    )
    add("--metrics-prefix", default=Options.metrics_prefix, metavar="TEXT", help="e.g. vllm: for boards made for vLLM (default hrun:)")  # fmt: skip
    add("--log-requests", action="store_true", help="a line on stderr for each request")
    add_flags(parser, "verbose")
    add_flags(parser, "version")
    add_sampling_options(parser, "For requests that do not say.  Defaults are the model file's recommendations, else those shown.")  # fmt: skip
    return parser


def options_of(flags: argparse.Namespace) -> Options:
    """The flags as settings.  Raises ArgumentError, OSError."""
    from hrun.arguments import checked_sampling

    for name in ("timeout", "write_timeout", "drain_timeout"):
        if not (math.isfinite(getattr(flags, name)) and getattr(flags, name) >= 0):
            raise ArgumentError(f"--{name.replace('_', '-')} must be a time in seconds")
    keys = _split(flags.api_key)
    if flags.api_key_file:
        keys += [k.strip() for k in Path(flags.api_key_file).read_text().splitlines() if k.strip()]
    keys += _split([os.environ.get("HRUN_API_KEY", "")])
    if not keys and not is_loopback(flags.host) and not flags.no_auth:
        raise ArgumentError(
            f"--host {flags.host} is reached from other machines: give an --api-key, or --no-auth if all may use it"
        )
    template = flags.chat_template
    if flags.chat_template_file:
        template = Path(flags.chat_template_file).read_text(encoding="utf-8")
    hosts = _split(flags.allowed_hosts)
    fields = tuple(_split([flags.reasoning_field]))
    if not fields or not set(fields) <= {"reasoning_content", "reasoning"}:
        raise ArgumentError("--reasoning-field takes reasoning_content, reasoning, or both")
    from hrun.serve.tools.formats import FORMATS

    names = [row.name for row in FORMATS]
    if flags.tool_format is not None and flags.tool_format not in names:
        raise ArgumentError(f"--tool-format is one of {', '.join(names)}")
    return Options(
        host=flags.host,
        port=flags.port,
        aliases=tuple(_split(flags.alias)),
        any_model=flags.any_model,
        api_keys=tuple(dict.fromkeys(keys)),
        public_metrics=flags.public_metrics,
        cors_origins=tuple(_split(flags.cors_origins)),
        allowed_hosts=tuple(hosts),
        check_host="*" not in hosts,
        share_cache_across_keys=flags.share_cache_across_keys,
        sampling=checked_sampling(chosen_sampling(flags)),
        seed=None if flags.seed == -1 else flags.seed,
        default_max_tokens=None if flags.predict == -1 else flags.predict,
        template_variables=_variables(flags.chat_template_kwargs),
        chat_template=template,
        trust_request_chat_template=flags.trust_request_chat_template,
        tool_format=flags.tool_format,
        reasoning_format=flags.reasoning_format,
        reasoning_field=",".join(fields),
        strict_params=flags.strict_params,
        strict_tools=flags.strict_tools,
        embeddings_pooling=flags.pooling,
        metrics_prefix=flags.metrics_prefix,
        page=flags.page,
        slots=flags.slots,
        log_requests=flags.log_requests,
        max_body_bytes=flags.max_body,
        max_queue=flags.queue,
        max_per_key=flags.max_requests_per_key,
        request_seconds=flags.timeout,
        write_seconds=flags.write_timeout,
        drain_seconds=flags.drain_timeout,
    )


def _split(values: Sequence[str]) -> list[str]:
    return [part.strip() for value in values for part in value.split(",") if part.strip()]


def _variables(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError as error:
        raise ArgumentError(f"--chat-template-kwargs is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ArgumentError("--chat-template-kwargs must be a JSON object")
    return value


def _main(flags: argparse.Namespace) -> int:
    try:
        import prometheus_client  # noqa: F401
        import pydantic  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        return complain("hrun-serve", f"{error.name} is missing; pip install 'hrun[serve]'")
    from hrun.serve.server import Server, bound_socket
    from hrun.serve.service import Service, log

    options = options_of(flags)
    if flags.hf_repo:
        from hrun.cli.hub import download

        flags.model = str(download(flags.hf_repo))
    try:
        listening = bound_socket(options.host, options.port)
    except OSError as error:
        return complain(
            "hrun-serve",
            f"cannot listen on {options.host} port {options.port}: {error.strerror or error}",
        )
    with listening, _model(flags, options) as (model, replicas):
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host

        async def serve() -> int | None:
            engines = replicas.engines if replicas is not None else None
            service = Service(model, options, flags.parallel, engines)
            if replicas is not None:
                replicas.watch()
            server = Server(service)
            log(f"hrun-serve: {model.name} on http://{shown}:{port}")
            await server.serve(sockets=[listening])
            return server.exit_signal

        number = asyncio.run(serve())
    return EXIT_INTERRUPTED if number == 2 else 0


@contextlib.contextmanager
def _model(flags: argparse.Namespace, options: Options) -> Iterator[tuple[Any, Any]]:
    """A Runtime and None, or a model whose weights are elsewhere and its replicas."""
    if not flags.ray and flags.ray_address is None:
        if flags.threads <= 0:
            flags.threads = _threads()
        with load(flags, flags.ctx_size, flags.verbose, **_cache(flags)) as runtime:
            yield runtime, None
        return
    try:
        import ray  # noqa: F401
    except ImportError:
        raise ArgumentError("ray is missing; pip install 'hrun[ray]'") from None
    from hrun.serve.cluster.ray_serve import connect

    with connect(_cluster(flags, options)) as replicas:
        yield replicas.model, replicas


def _cluster(flags: argparse.Namespace, options: Options) -> Any:
    """Returns the cluster that the flags ask Ray for."""
    import hrun
    from hrun._core import devices
    from hrun.serve.cluster.ray_serve import Cluster

    low, high = flags.ray_replicas
    path = Path(flags.model).resolve() if flags.model else hrun.demo_model_path()
    n_threads = flags.threads
    if n_threads <= 0:  # replicas on one machine share its cores
        cores = len(os.sched_getaffinity(0))
        n_threads = cores if flags.ray_address is not None else max(cores // high, 1)
    gpus = len(devices(free_memory=False)[0]) > 1 and flags.device != "cpu"
    return Cluster(
        model_path=path,
        settings=runtime_settings(flags) | {"n_ctx": flags.ctx_size} | _cache(flags),
        address=flags.ray_address,
        app=flags.ray_app,
        min_replicas=low,
        max_replicas=high,
        target_requests=flags.ray_target or max(flags.parallel // 2, 1),
        n_threads=n_threads,
        n_gpus=1.0 if gpus else 0.0,
        stall_seconds=options.stall_seconds,
        drain_seconds=options.drain_seconds,
    )


def _low_high(text: str) -> tuple[int, int]:
    """N or LOW:HIGH."""
    parts = text.split(":")
    if not all(part.isdecimal() for part in parts) or len(parts) > 2:
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number nor LOW:HIGH")
    low, high = int(parts[0]), int(parts[-1])
    if not 1 <= low <= high:
        raise argparse.ArgumentTypeError(f"'{text}': the numbers must be at least 1, and rise")
    return low, high


def _cache(flags: argparse.Namespace) -> dict[str, Any]:
    """The size of the cache, and how many share it."""
    import hrun
    from hrun._core import devices, read_spec
    from hrun.serve.memory import default_kv_tokens

    kv_tokens = flags.kv_tokens
    *gpus, cpu = devices(free_memory=False)[0]
    on_gpu = flags.device != "cpu" and bool(gpus)
    if kv_tokens is None and not on_gpu:
        params = read_spec(str(flags.model or hrun.demo_model_path())).params
        types = (flags.cache_type_k, flags.cache_type_v)
        kv_tokens = default_kv_tokens(params, flags.ctx_size, *types, cpu.free_bytes)
    return {"n_parallel": flags.parallel, "kv_tokens": kv_tokens}


def _threads() -> int:
    """The engine leaves a core to the network where there are several."""
    n = len(os.sched_getaffinity(0))
    return n - 1 if n >= 4 else 0


if __name__ == "__main__":
    sys.exit(main())
