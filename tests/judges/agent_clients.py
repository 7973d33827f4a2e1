"""Tries the server with litellm and langchain-openai: texts, streams, tools that must be called,
answers of a schema, errors.

Run by agent_clients.sh, in an environment of its own, against a server that runs: python agent_clients.py http://127.0.0.1:8080
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib.metadata import version
from typing import Annotated, Any, Literal

import litellm
import openai
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

MESSAGES = [{"role": "user", "content": "Say hi."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}  # fmt: skip


class Pet(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=30)
    names: list[Literal["Ada", "Bob"]] = Field(min_length=1, max_length=2)


def judge_litellm(url: str, name: str) -> None:
    """Asks by litellm's OpenAI route."""
    ask: dict[str, Any] = {
        "model": f"openai/{name}", "api_base": url + "/v1", "api_key": "none", "messages": MESSAGES, "max_tokens": 16, "seed": 1,
        "num_retries": 0,
    }  # fmt: skip
    whole = litellm.completion(**ask)
    text = whole.choices[0].message.content
    assert whole.choices[0].finish_reason in ("stop", "length") and whole.usage.completion_tokens
    chunks = list(litellm.completion(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
    assert any(getattr(c, "usage", None) for c in chunks)
    rebuilt = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert rebuilt.choices[0].message.content == text

    async def many() -> None:
        answers = await asyncio.gather(*(litellm.acompletion(**ask) for _ in range(8)))
        assert {a.choices[0].message.content for a in answers} == {text}  # beside others as alone

    asyncio.run(many())
    called = litellm.completion(
        **{**ask, "max_tokens": 120},
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    call = called.choices[0].message.tool_calls[0]
    assert call.function.name == "get_weather", call
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Rome", "Oslo") and 1 <= arguments["days"] <= 7
    assert called.choices[0].finish_reason == "tool_calls"
    formed = litellm.completion(**{**ask, "max_tokens": 120}, response_format=Pet)
    Pet.model_validate_json(formed.choices[0].message.content)
    try:
        litellm.completion(**{**ask, "temperature": -3})
    except litellm.BadRequestError:
        pass
    else:
        raise AssertionError("a temperature of -3")


@tool
def get_weather(city: Literal["Rome", "Oslo"], days: Annotated[int, Field(ge=1, le=7)]) -> str:
    """The weather of a city."""
    return f"{city} {days}"


def judge_langchain(url: str, name: str) -> None:
    """Asks by ChatOpenAI."""
    chat = ChatOpenAI(
        base_url=url + "/v1", api_key="none", model=name, max_retries=0, seed=1, max_tokens=120
    )
    messages = [SystemMessage("Be short."), HumanMessage("Say hi.")]
    whole = chat.invoke(messages)
    assert whole.usage_metadata["output_tokens"]
    pieces = list(chat.stream(messages))
    assert "".join(p.content for p in pieces) == whole.content
    batch = chat.batch([messages] * 6)
    assert {b.content for b in batch} == {whole.content}
    bound = chat.bind_tools([get_weather], tool_choice="get_weather")
    called = bound.invoke("Weather?")
    (call, *_) = called.tool_calls
    assert call["name"] == "get_weather" and call["args"]["city"] in ("Rome", "Oslo"), call
    streamed = None
    for piece in bound.stream("Weather?"):
        streamed = piece if streamed is None else streamed + piece
    assert streamed.tool_calls[0]["args"] == call["args"]
    # The tool's result goes back.
    answered = [
        HumanMessage("Weather?"),
        called,
        ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]),
    ]
    assert isinstance(chat.invoke(answered).content, str)
    for method in ("json_schema", "function_calling"):
        pet = chat.with_structured_output(Pet, method=method).invoke("A pet?")
        assert isinstance(pet, Pet), (method, pet)
    mode = chat.bind(response_format={"type": "json_object"}, max_tokens=400)
    try:
        assert isinstance(json.loads(mode.invoke("JSON, please.").content), dict)
    except openai.LengthFinishReasonError:
        pass  # what the client says of an object that a small model does not end


def main(url: str) -> None:
    """Asks by both, and says what was checked."""
    litellm.telemetry = False
    name = openai.OpenAI(base_url=url + "/v1", api_key="none").models.list().data[0].id
    judge_litellm(url, name)
    judge_langchain(url, name)
    print(
        f"litellm {version('litellm')} and langchain-openai {version('langchain-openai')}: as OpenAI's own service"
    )


if __name__ == "__main__":
    main(sys.argv[1])
