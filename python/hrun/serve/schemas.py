"""The fields of requests, checked by pydantic; field names are those of OpenAI, vLLM and
llama-server.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from hrun.serve.errors import ApiError, bad

Number = float | int
Tokens = list[StrictInt]


class Body(BaseModel):
    """A request's JSON object.  Fields that nobody knows are kept apart in ``model_extra``."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: StrictStr | None = None
    user: StrictStr | None = None


class StreamOptions(BaseModel):
    """Options for the way a stream is written."""

    model_config = ConfigDict(extra="ignore")
    include_usage: StrictBool = False
    continuous_usage_stats: StrictBool = False


class Drawing(Body):
    """Options for the way tokens are drawn, and for the end of an answer."""

    n: StrictInt | None = Field(None, ge=1)
    seed: StrictInt | None = None
    stop: StrictStr | list[StrictStr] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: StrictInt | None = None
    min_p: Number | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    repeat_penalty: Number | None = None
    repetition_penalty: Number | None = None
    repeat_last_n: StrictInt | None = None
    logit_bias: dict[str, Number] | None = None
    max_tokens: StrictInt | None = None
    n_predict: StrictInt | None = None
    ignore_eos: StrictBool = False
    stop_token_ids: Tokens | None = None
    include_stop_str_in_output: StrictBool = False
    skip_special_tokens: StrictBool = True
    priority: StrictInt = Field(0, ge=-1000, le=1000)
    cache_salt: StrictStr | None = Field(None, max_length=256)
    return_token_ids: StrictBool = False
    timings_per_token: StrictBool = False
    structured_outputs: dict[str, Any] | None = None
    grammar: StrictStr | None = None
    json_schema: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class ChatRequest(Drawing):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: StrictInt | None = None
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: StrictStr | dict[str, Any] | None = None
    parallel_tool_calls: StrictBool | None = None
    reasoning_effort: StrictStr | None = None
    include_reasoning: StrictBool = True
    thinking_token_budget: StrictInt | None = Field(None, ge=0, le=1 << 30)
    add_generation_prompt: StrictBool = True
    continue_final_message: StrictBool = False
    chat_template: StrictStr | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(Drawing):
    """POST /v1/completions."""

    prompt: StrictStr | list[StrictStr] | Tokens | list[Tokens]
    best_of: StrictInt | None = Field(None, ge=1)
    echo: StrictBool | None = None
    logprobs: StrictInt | StrictBool | None = None
    suffix: StrictStr | None = None
    return_tokens_as_token_ids: StrictBool = False
    parse_special: StrictBool = True


class EmbeddingsRequest(Body):
    """POST /v1/embeddings."""

    input: StrictStr | list[StrictStr] | Tokens | list[Tokens]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: StrictInt | None = Field(None, ge=1)


class RerankRequest(Body):
    """POST /v1/rerank, as Jina and Cohere have it."""

    query: StrictStr
    documents: list[StrictStr | dict[str, Any]] = Field(min_length=1)
    top_n: StrictInt | None = Field(None, ge=1)
    return_documents: StrictBool = False
    instruction: StrictStr | None = None


class TokenizeRequest(Body):
    """POST /tokenize: of a text (``content`` is llama-server's name, ``prompt`` vLLM's) or of messages."""

    content: StrictStr | None = None
    prompt: StrictStr | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special: StrictBool | None = None
    add_special_tokens: StrictBool | None = None
    add_generation_prompt: StrictBool = True
    continue_final_message: StrictBool = False
    parse_special: StrictBool = True
    with_pieces: StrictBool = False
    return_token_strs: StrictBool = False


class DetokenizeRequest(Body):
    """POST /detokenize."""

    tokens: Tokens


def several(given: Any) -> list[Any]:
    """Texts or lists of token ids; one alone as a list of one."""
    many = isinstance(given, list) and (not given or not isinstance(given[0], int))
    return given if many else [given]


B = TypeVar("B", bound=BaseModel)


def parsed(kind: type[B], value: Any) -> B:
    """The JSON value as a request.  Raises ApiError 400 that names the field."""
    if not isinstance(value, dict):
        raise bad(f"the body must be a JSON object, got {type(value).__name__}")
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _first(error) from None


def _first(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ""
    for part in first["loc"]:
        if isinstance(part, int):
            param += f"[{part}]"
        elif not param:
            param = str(part)
        elif part.isidentifier() and part not in ("str", "int", "bool", "float", "dict"):
            param += f".{part}"
    message = f"{param}: {first['msg']}" if param else first["msg"]
    return bad(message[:500], param=param or None)


_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")  # of a pair that UTF-16 has for one character


def loads(data: bytes) -> Any:
    """JSON as the standard has it.  Half a character, which programs that cut UTF-16 send, becomes
    U+FFFD.  Raises ApiError 400.
    """

    def refuse(name: str) -> Any:
        raise bad(f"the body holds {name}, which is no JSON")

    try:
        value = json.loads(data.decode("utf-8"), parse_constant=refuse)
        return _whole(value) if _ESCAPED_HALF.search(data) else value
    except UnicodeDecodeError as error:
        raise bad(f"the body is not UTF-8: byte {error.start}") from None
    except RecursionError:
        raise bad("the body is nested too deeply") from None
    except ValueError as error:
        raise bad(f"the body is no JSON: {str(error)[:200]}") from None


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value
