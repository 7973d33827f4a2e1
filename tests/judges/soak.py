"""Loads a server for minutes and watches its memory and /health: neither may grow.

Usage: soak.py [-m MODEL] [--seconds 600] [--clients 8] [--url URL --pid PID]     (without a URL it starts hrun-serve itself)
Clients ask for chats, completions, streams that they leave, JSON, tools, embeddings of nothing and wrong bodies, each with a
prompt of its own.  Prints the resident memory in the course of time; exit code 1 where the second half of the run has grown by
more than 2 % (or 4 MiB), where a request failed by other than 400, 429 or 501, or /health took longer than the limit.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}}  # fmt: skip
EXPECTED = {200, 400, 429, 501}


class Load:
    """Clients of one server, and what they met."""

    def __init__(self, port: int, wait: float) -> None:
        self.port, self.wait = port, wait
        self.ends = threading.Event()
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []
        self.health: list[float] = []

    def client(self, number: int) -> None:
        """Asks until the end."""
        rng = random.Random(number)
        while not self.ends.is_set():
            try:
                self._ask(rng)
            except OSError as error:
                self.faults.append(f"client {number}: {error!r}")
            self.ends.wait(self.wait * rng.random())

    def _ask(self, rng: random.Random) -> None:
        words = " ".join(
            rng.choices(
                ["sea", "land", "wind", "ship", "night", "and", "the"], k=rng.randrange(1, 120)
            )
        )
        body: dict[str, Any] = {"max_tokens": rng.randrange(1, 60), "seed": rng.randrange(99)}
        path, leaves = "/v1/chat/completions", False
        kind = rng.randrange(8)
        if kind == 0:
            path, body["prompt"] = "/v1/completions", words
        elif kind == 7:
            path, body = "/v1/completions", {"prompt": [words, 3]}
        else:
            body["messages"] = [{"role": "user", "content": words}]
            body |= [
                {}, {"stream": True}, {"stream": True}, {"json_schema": {"type": "object", "properties": {words[:9]: {"type": "integer"}}, "additionalProperties": False}},
                {"tools": [TOOL], "stream": True}, {"logprobs": True, "top_logprobs": 3},
            ][kind - 1]  # fmt: skip
            leaves = kind == 2
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", path, json.dumps(body), headers)
            response = connection.getresponse()
            self.statuses[response.status] += 1
            if response.status not in EXPECTED:
                self.faults.append(f"{response.status}: {response.read()[:200]!r}")
            elif leaves:
                response.read(rng.randrange(1, 2000))
            else:
                text = response.read()
                if body.get("stream") and response.status == 200 and b'"error"' in text:
                    self.faults.append(repr(text[-300:]))
        finally:
            connection.close()

    def watch(self) -> None:
        """Asks for /health, over and over."""
        while not self.ends.is_set():
            start = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            connection.request("GET", "/health")
            if connection.getresponse().status != 200:
                self.faults.append("/health refuses")
            connection.close()
            self.health.append(time.monotonic() - start)
            self.ends.wait(0.1)


def resident(pid: int) -> float:
    """Returns the MiB of a process and its children."""
    total = 0
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit():
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(folder.name) == pid or int(fields[1]) == pid:
                    total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return total / 2**20


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("-m", "--model")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument(
        "--wait", type=float, default=0.5, help="seconds between a client's requests at most"
    )
    parser.add_argument(
        "--health-ms", type=float, default=1000, help="limit of /health's 99th percentile"
    )
    parser.add_argument("--server", default="", help="more flags for hrun-serve, by blanks")
    parser.add_argument("--url-port", type=int, help="of a server that runs already")
    parser.add_argument("--pid", type=int, help="of that server")
    flags = parser.parse_args()
    process = None
    port, pid = flags.url_port, flags.pid
    if port is None:
        command = [sys.executable, "-m", "hrun.serve", "--port", "0", *flags.server.split()]
        command += ["-m", flags.model] if flags.model else []
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        line = process.stderr.readline()
        port, pid = int(line.rsplit(":", 1)[1]), process.pid
        threading.Thread(target=process.stderr.read, daemon=True).start()
    load = Load(port, flags.wait)
    threads = [threading.Thread(target=load.client, args=(i,)) for i in range(flags.clients)]
    threads.append(threading.Thread(target=load.watch))
    memory: list[float] = []
    start = time.monotonic()
    try:
        for thread in threads:
            thread.start()
        while time.monotonic() < start + flags.seconds and not load.faults:
            time.sleep(min(5.0, flags.seconds / 40))
            memory.append(resident(pid))
            if len(memory) % 12 == 0:
                print(f"{time.monotonic() - start:5.0f} s: {memory[-1]:.1f} MiB, {sum(load.statuses.values())} requests", flush=True)  # fmt: skip
    finally:
        load.ends.set()
        for thread in threads:
            thread.join()
        if process is not None:
            process.terminate()
            process.wait(60)
    quarter = len(memory) // 4
    # The first quarter fills caches and pools.
    early, late = (
        statistics.mean(memory[2 * quarter - 3 : 2 * quarter + 3]),
        statistics.mean(memory[-6:]),
    )
    health = sorted(load.health)
    p99 = 1e3 * health[int(0.99 * (len(health) - 1))]
    print(f"requests by status: {dict(load.statuses)}")
    print(
        f"memory: {memory[0]:.1f} MiB at first, {early:.1f} at half time, {late:.1f} at the end, at most {max(memory):.1f}"
    )
    print(f"/health: p99 {p99:.1f} ms, worst {1e3 * health[-1]:.1f} ms of {len(health)}")
    print("\n".join(load.faults[:10]) or "no faults")
    grown = late > early + max(0.02 * early, 4.0)
    return 1 if load.faults or grown or p99 > flags.health_ms else 0


if __name__ == "__main__":
    sys.exit(main())
