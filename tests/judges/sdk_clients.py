"""Tries the server with OpenAI's and Anthropic's own clients.

Every chunk must be of the clients' types, without unknown fields except our own.

Run by sdk_clients.sh, in an environment of its own, against a server that runs: python sdk_clients.py http://127.0.0.1:8080
One of the two alone: python sdk_clients.py http://127.0.0.1:8080 openai
"""

from __future__ import annotations

import json
import sys
from urllib.request import urlopen

from pydantic import BaseModel

# Beside OpenAI's fields: vLLM's, llama-server's and DeepSeek's, which their clients look for.
OURS = {"timings", "stop_reason", "reasoning_content", "token_ids", "prompt_token_ids", "seed"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def check(value: object, where: str = "") -> None:
    """Checks that the SDK knows every field, and that every value has its type."""
    if isinstance(value, BaseModel):
        unknown = set(value.model_extra or {}) - OURS
        assert not unknown, f"{where}: {unknown}"
        type(value).model_validate(value.model_dump(), strict=False)
        for name in type(value).model_fields:
            check(getattr(value, name, None), f"{where}.{name}")
    elif isinstance(value, list):
        for item in value:
            check(item, where + "[]")


def judge_openai(url: str) -> None:
    """Asks for everything by OpenAI's client."""
    import openai

    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    ask = {"model": model, "messages": [{"role": "user", "content": "Say hi."}], "max_tokens": 16}
    whole = client.chat.completions.create(
        **ask, seed=1, logprobs=True, top_logprobs=2, tools=[TOOL]
    )
    check(whole, "chat")
    text = whole.choices[0].message.content or ""
    stream = client.chat.completions.create(
        **ask, seed=1, stream=True, stream_options={"include_usage": True}, tools=[TOOL]
    )
    joined, n = "", 0
    for chunk in stream:
        check(chunk, "chunk")
        n += 1
        if chunk.choices:
            joined += chunk.choices[0].delta.content or ""
        else:
            assert chunk.usage is not None and chunk.usage.completion_tokens
    assert joined == text, (joined, text)
    completion = client.completions.create(
        model=model, prompt="Once", max_tokens=8, logprobs=2, n=2
    )
    check(completion, "completion")
    echoed = client.completions.create(
        model=model, prompt="Once", max_tokens=1, logprobs=1, echo=True
    )
    # OpenAI's service says null of the first token, whatever its client's types say.
    assert echoed.choices[0].logprobs.token_logprobs[0] is None
    for piece in client.completions.create(model=model, prompt="Once", max_tokens=8, stream=True):
        if piece.choices[0].finish_reason:  # null before, as OpenAI's service has it
            check(piece, "completion chunk")
    response = client.responses.create(model=model, input="Say hi.", max_output_tokens=16)
    check(response.usage, "response.usage")
    assert isinstance(response.output_text, str)
    kinds = {
        event.type
        for event in client.responses.create(
            model=model, input="Say hi.", max_output_tokens=16, stream=True
        )
    }
    assert {"response.created", "response.output_text.delta"} <= kinds
    for wrong, error in (
        ({"temperature": -3}, openai.BadRequestError),
        ({"model": "none-such"}, openai.NotFoundError),
        ({"max_tokens": 10**7}, openai.BadRequestError),
    ):
        try:
            client.chat.completions.create(**(ask | wrong))
        except error as caught:
            assert caught.request_id
        else:
            raise AssertionError(wrong)
    print(json.dumps({"openai": openai.__version__, "chunks": n}))


def judge_anthropic(url: str) -> None:
    """Asks for everything by Anthropic's client."""
    import anthropic

    with urlopen(url + "/v1/models") as answer:
        model = json.load(answer)["data"][0]["id"]
    claude = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    message = claude.messages.create(
        model=model, max_tokens=16, messages=[{"role": "user", "content": "Say hi."}]
    )
    check(message, "message")
    with claude.messages.stream(
        model=model, max_tokens=16, messages=[{"role": "user", "content": "Say hi."}]
    ) as events:
        assert "".join(events.text_stream) == events.get_final_message().content[0].text
    count = claude.messages.count_tokens(
        model=model, messages=[{"role": "user", "content": "Say hi."}]
    )
    assert count.input_tokens > 0
    print(json.dumps({"anthropic": anthropic.__version__}))


JUDGES = {"openai": judge_openai, "anthropic": judge_anthropic}


def main(url: str, *names: str) -> None:
    """Asks by the clients of these names, else by all."""
    for name in names or JUDGES:
        JUDGES[name](url)


if __name__ == "__main__":
    main(*sys.argv[1:])
