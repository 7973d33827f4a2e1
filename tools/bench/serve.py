"""Load one or more OpenAI-compatible servers alike, and say how long their clients wait.

    python tools/bench/serve.py --server hrun=http://127.0.0.1:8080 --server llama=http://127.0.0.1:8081
        [--clients 8 | --rate 2.5] [--requests 64] [--seconds 60] [--rounds 1] [--lengths 64:32:3,512:64:1]
        [--shared 0.5:256] [--users 4] [--seed 1] [--chat] [--token-ids 300:32000] [--health] [--json FILE]

Clients: a fixed number, each of which asks again when it has its answer, or Poisson arrivals at a rate per second whatever
the server does.  Every server gets the same requests in the same order, one server after the other, round by round.
--lengths: prompt tokens:answer tokens:weight, ...; prompts are words, or token ids of a range, for exact lengths.
--shared: that part of the requests begins with the same words, so many of them.

For each server: time to the first token, gaps between tokens, and total, median and 99th percentile; answered tokens per
second of the whole run; Jain's fairness index of the users' rates (1: all alike); answers by status; with --health how long
GET /health took meanwhile.  Absolute figures drift with the machine: quote the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import math
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

_WORDS = "time year people way day man thing woman life child world school state family student group country problem hand".split()


@dataclass(frozen=True)
class Ask:
    prompt: str | list[int]
    n_tokens: int
    user: str


@dataclass
class Answer:
    """The results that one client saw; times in seconds from when it asked."""

    user: str
    asked: float
    status: int = 0  # 0: no answer at all
    error: str = ""
    times: list[float] = field(default_factory=list)  # of the chunks that carry text
    total: float = 0.0
    n_tokens: int = 0

    @property
    def ok(self) -> bool:
        return self.status == 200 and not self.error and self.n_tokens > 0


@dataclass(frozen=True)
class Server:
    name: str
    host: str
    port: int
    path: str

    @classmethod
    def of(cls, text: str) -> Server:
        name, _, url = text.partition("=")
        parts = urlsplit(url or name)
        if parts.scheme != "http" or not parts.hostname:
            raise argparse.ArgumentTypeError(f"'{text}' is not NAME=http://HOST:PORT")
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(name if url else parts.netloc, parts.hostname, parts.port or 80, path)


@contextlib.asynccontextmanager
async def request(
    server: Server, method: str, path: str, body: object = None, key: str | None = None
) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
    """Status and lines of one HTTP/1.1 exchange on a connection of its own."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    try:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {server.path}{path} HTTP/1.1\r\nHost: {server.host}:{server.port}\r\nConnection: close\r\n"
        if key:
            head += f"Authorization: Bearer {key}\r\n"
        if data:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        writer.write(head.encode() + b"\r\n" + data)
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        chunked = False
        while (line := await reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            chunked |= name.lower() == b"transfer-encoding" and b"chunked" in value.lower()
        yield status, _lines(reader, chunked)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _lines(reader: asyncio.StreamReader, chunked: bool) -> AsyncIterator[bytes]:
    left = b""
    while True:
        if chunked:
            size = int((await reader.readline()).split(b";")[0] or b"0", 16)
            data = await reader.readexactly(size) if size else b""
            await reader.readline()
        else:
            data = await reader.read(1 << 16)
        if not data:
            break
        *whole, left = (left + data).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
    if left:
        yield left


async def model_of(server: Server, args: argparse.Namespace) -> str:
    """The first that the server names."""
    if args.model:
        return args.model
    async with request(server, "GET", "/v1/models", key=args.api_key) as (_, lines):
        found = json.loads("".join([line.decode() async for line in lines]))
    return found["data"][0]["id"]


async def ask(server: Server, what: Ask, model: str, args: argparse.Namespace) -> Answer:
    answer = Answer(what.user, time.perf_counter())
    body: dict[str, object] = {
        "model": model, "max_tokens": what.n_tokens, "stream": True, "temperature": 0, "ignore_eos": True,
        "stream_options": {"include_usage": True}, "user": what.user,
    }  # fmt: skip
    if args.chat:
        path = "/v1/chat/completions"
        body["messages"] = [{"role": "user", "content": what.prompt}]
    else:
        path = "/v1/completions"
        body["prompt"] = what.prompt
    try:
        async with request(server, "POST", path, body, args.api_key) as (status, lines):
            answer.status = status
            async for line in lines:
                if status != 200:
                    answer.error += line.decode("utf-8", "replace")[:200]
                elif line.startswith(b"data: {"):
                    _take(answer, json.loads(line[6:]))
    except (OSError, EOFError, ValueError, IndexError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.total = time.perf_counter() - answer.asked
    return answer


def _take(answer: Answer, chunk: dict[str, object]) -> None:
    if chunk.get("error"):
        answer.error = str(chunk["error"])[:200]
    if usage := chunk.get("usage"):
        answer.n_tokens = usage["completion_tokens"]  # type: ignore[index]
    for choice in chunk.get("choices") or ():  # type: ignore[attr-defined]
        delta = choice.get("delta") or choice
        if delta.get("text") or delta.get("content") or delta.get("reasoning_content"):
            answer.times.append(time.perf_counter() - answer.asked)


def asks(args: argparse.Namespace, seed: int) -> list[Ask]:
    draw = random.Random(seed)

    def text(n: int, source: random.Random) -> str | list[int]:
        if args.token_ids:
            return [source.randrange(*args.token_ids) for _ in range(n)]
        return " ".join(source.choice(_WORDS) for _ in range(n))

    part, n_shared = args.shared
    beginning = text(n_shared, random.Random(args.seed))
    rows = args.lengths
    out = []
    for i in range(args.requests):
        n_prompt, n_tokens, _ = draw.choices(rows, [row[2] for row in rows])[0]
        prompt = text(n_prompt, draw)
        if draw.random() < part:
            prompt = (
                [*beginning, *prompt]
                if isinstance(prompt, list) and isinstance(beginning, list)
                else f"{beginning} {prompt}"
            )
        out.append(Ask(prompt, n_tokens, f"user{i % args.users}"))
    return out


async def load(
    server: Server, todo: Sequence[Ask], args: argparse.Namespace, seed: int
) -> tuple[list[Answer], list[float], float]:
    """Returns the answers, the seconds of each look at /health, and the seconds of the whole."""
    model = await model_of(server, args)
    start = time.perf_counter()
    looks: list[float] = []
    watch = asyncio.ensure_future(_watch(server, looks)) if args.health else None
    answers: list[Answer] = []
    left = list(reversed(todo))

    async def client() -> None:
        while left and time.perf_counter() - start < args.seconds:
            answers.append(await ask(server, left.pop(), model, args))

    async def arrive(what: Ask) -> None:
        answers.append(await ask(server, what, model, args))

    if args.rate:
        draw = random.Random(seed)
        running = []
        while left and time.perf_counter() - start < args.seconds:
            running.append(asyncio.ensure_future(arrive(left.pop())))
            await asyncio.sleep(draw.expovariate(args.rate))
        await asyncio.gather(*running)
    else:
        await asyncio.gather(*(client() for _ in range(args.clients)))
    seconds = time.perf_counter() - start
    if watch is not None:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch
    return answers, looks, seconds


async def _watch(server: Server, looks: list[float]) -> None:
    while True:
        start = time.perf_counter()
        try:
            async with request(server, "GET", "/health") as (status, lines):
                async for _ in lines:
                    pass
            looks.append(time.perf_counter() - start if status == 200 else math.inf)
        except (OSError, EOFError, ValueError, IndexError):
            looks.append(math.inf)
        await asyncio.sleep(0.1)


def percentile(values: Sequence[float], p: float) -> float:
    """The nearest rank; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)]


def fairness(answers: Sequence[Answer]) -> float:
    """Jain's index of the tokens that each user had per second of waiting."""
    tokens: collections.Counter[str] = collections.Counter()
    seconds: collections.Counter[str] = collections.Counter()
    for a in answers:
        tokens[a.user] += a.n_tokens if a.ok else 0
        seconds[a.user] += a.total  # type: ignore[assignment]
    rates = [tokens[user] / max(seconds[user], 1e-9) for user in seconds]
    squares = len(rates) * sum(r * r for r in rates)
    return sum(rates) ** 2 / squares if squares else math.nan


@dataclass
class Report:
    server: str
    first_p50: float
    first_p99: float
    gap_p50: float
    gap_p99: float
    total_p50: float
    total_p99: float
    tokens_per_second: float
    fairness: float
    statuses: dict[str, int]
    health_p99: float
    health_worst: float


def report(
    server: Server, answers: Sequence[Answer], looks: Sequence[float], seconds: float
) -> Report:
    good = [a for a in answers if a.ok]
    first = [a.times[0] for a in good if a.times]  # an answer may be all control tokens
    gaps = [later - earlier for a in good for earlier, later in zip(a.times, a.times[1:])]
    total = [a.total for a in good]
    statuses = collections.Counter(
        str(a.status) if a.ok or a.status not in (0, 200) else f"{a.status} broken" for a in answers
    )
    return Report(
        server.name,
        *(percentile(v, p) for v in (first, gaps, total) for p in (50, 99)),
        sum(a.n_tokens for a in good) / max(seconds, 1e-9),
        fairness(answers),
        dict(statuses),
        percentile(looks, 99),
        max(looks, default=math.nan),
    )


def show(reports: Sequence[Report]) -> None:
    print(
        "| server | first token p50 | p99 | gap p50 | p99 | total p50 | p99 | tok/s | fairness | answers | /health p99 | worst |"
    )
    print("|---|" + "--:|" * 11)
    for r in reports:
        times = [r.first_p50, r.first_p99, r.gap_p50, r.gap_p99, r.total_p50, r.total_p99]
        cells = [_seconds(t) for t in times]
        cells += [f"{r.tokens_per_second:.1f}", f"{r.fairness:.3f}"]
        cells.append(", ".join(f"{n} x {s}" for s, n in sorted(r.statuses.items())))
        cells += [_seconds(r.health_p99), _seconds(r.health_worst)]
        print(f"| {r.server} | " + " | ".join(cells) + " |")
    ours = reports[0]
    for other in reports[1:]:
        print(
            f"{ours.server} against {other.server}: {ours.tokens_per_second / other.tokens_per_second:.2f}x its tokens per "
            f"second, {ours.first_p99 / other.first_p99:.2f}x its p99 to the first token, {ours.gap_p99 / other.gap_p99:.2f}x "
            "its p99 gap"
        )


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value * 1e3:.0f} ms"


def _lengths(text: str) -> list[tuple[int, int, float]]:
    rows = []
    for row in text.split(","):
        prompt, tokens, *weight = row.split(":")
        rows.append((int(prompt), int(tokens), float(weight[0]) if weight else 1.0))
    return rows


def _pair(text: str) -> tuple[float, int]:
    part, _, n = text.partition(":")
    return float(part), int(n)


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    return int(low), int(high)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--server", action="append", type=Server.of, required=True, metavar="NAME=URL")
    add("--clients", type=int, default=8)
    add("--rate", type=float, default=0.0, help="arrivals per second, in place of --clients")
    add("--requests", type=int, default=64, help="of each round")
    add("--seconds", type=float, default=math.inf, help="nobody asks after that")
    add("--rounds", type=int, default=1)
    add("--lengths", type=_lengths, default=_lengths("64:32:3,256:64:1"))
    add("--shared", type=_pair, default=(0.0, 0), metavar="PART:TOKENS")
    add("--users", type=int, default=4)
    add("--token-ids", type=_range, metavar="LOW:HIGH")
    add("--chat", action="store_true")
    add("--health", action="store_true")
    add("--model", help="default: the first of /v1/models")
    add("--api-key")
    add("--seed", type=int, default=1)
    add("--json", type=Path, help="write the figures there as well")
    args = parser.parse_args(argv)
    if args.chat and args.token_ids:
        parser.error("--token-ids are prompts of completions, not of --chat")
    reports = []
    found: dict[str, tuple[list[Answer], list[float], float]] = {}
    for i in range(args.rounds):
        todo = asks(args, args.seed + i)
        for server in args.server:
            answers, looks, seconds = asyncio.run(load(server, todo, args, args.seed + i))
            before = found.get(server.name, ([], [], 0.0))
            found[server.name] = (before[0] + answers, before[1] + looks, before[2] + seconds)
    for server in args.server:
        answers, looks, seconds = found[server.name]
        reports.append(report(server, answers, looks, seconds))
        for error in sorted({f"{a.status} {a.error}" for a in answers if a.error})[:3]:
            print(f"{server.name}: {error}")
    show(reports)
    if args.json:
        args.json.write_text(json.dumps([asdict(r) for r in reports], indent=1) + "\n")


if __name__ == "__main__":
    main()
