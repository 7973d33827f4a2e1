"""Clients that read long streams at once, and the texts that one engine gives them."""

from __future__ import annotations

import threading
from typing import Any

from hrun import Runtime, demo_model_path
from live import Live

N_CTX = 1024
PATH = demo_model_path()  # large enough to be caught at work
BODY: dict[str, Any] = {"max_tokens": 600, "ignore_eos": True, "temperature": 1.0, "stream": True}


def prompt(i: int) -> list[int]:
    return [i + 300] * (5 + 7 * i)


def expected(n: int) -> list[str]:
    with Runtime(PATH, n_ctx=N_CTX, kv_tokens=16 * N_CTX, n_threads=1) as runtime:
        with Live(runtime, keep=True) as live:
            clients = [Client(live, i) for i in range(n)]
            for client in clients:
                client.join()
            return [client.text for client in clients]


class Client(threading.Thread):
    def __init__(self, live: Live, i: int, **body: Any) -> None:
        super().__init__(daemon=True)
        self.live, self.body = live, BODY | {"prompt": prompt(i), "seed": i} | body
        self.text = ""
        self.end: Any = None
        self.start()

    def run(self) -> None:
        with self.live.open_stream("/v1/completions", self.body) as stream:
            assert stream.response.status == 200, stream.response.read()
            for event in stream:
                if event == "[DONE]":
                    self.end = event
                elif "error" in event:
                    self.end = event
                    return
                else:
                    self.text += event["choices"][0]["text"]


def scaled_under_load(
    server: Live, replicas: Any, numbers: tuple[int, ...], until: Any
) -> list[int]:
    """Returns the statuses of requests that went on while the number of replicas changed."""
    statuses: list[int] = []
    ends = threading.Event()

    def ask(i: int) -> None:
        while not ends.is_set():
            body = BODY | {"prompt": prompt(i), "seed": i, "stream": False, "max_tokens": 100}
            statuses.append(server.post("/v1/completions", body).status)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        for n in numbers:
            replicas.scale(n, n)
            until(lambda n=n: replicas.n_replicas == n, f"{n} replicas")
            ends.wait(1.0)
    finally:
        ends.set()
        for thread in threads:
            thread.join()
    return statuses
