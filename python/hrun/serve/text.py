"""Tokens and templates, without a draw."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hrun.prompts import ChatPrompt
from hrun.serve.conversation import read
from hrun.serve.endpoint import body_of, json_response
from hrun.serve.errors import bad
from hrun.serve.prompt import chat_prompt
from hrun.serve.schemas import ChatRequest, DetokenizeRequest, TokenizeRequest, parsed
from hrun.serve.service import Service, template_variables


async def tokenize(request: Request) -> Response:
    """POST /tokenize, in llama-server's shape and vLLM's."""
    service: Service = request.app.state.service
    body = parsed(TokenizeRequest, await body_of(request))
    ids = await service.in_thread(_ids, service, body)
    tokenizer = service.runtime.tokenizer
    out: dict[str, Any] = {
        "tokens": ids,
        "count": len(ids),
        "max_model_len": service.runtime.n_ctx,
    }
    if body.with_pieces:
        out["tokens"] = [{"id": t, "piece": _piece(tokenizer.token_bytes(t))} for t in ids]
    if body.return_token_strs:
        out["token_strs"] = [tokenizer.tokens[t] for t in ids]
    return json_response(out)


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)


def _ids(service: Service, body: TokenizeRequest) -> list[int]:
    if body.messages is not None:
        variables = template_variables(service.options, body.chat_template_kwargs)
        variables |= {"tools": body.tools, "add_generation_prompt": body.add_generation_prompt}
        return chat_prompt(
            service, body.messages, variables, continue_last=body.continue_final_message
        ).ids
    text = body.content if body.content is not None else body.prompt
    if text is None:
        raise bad("content is missing", param="content")
    # llama-server adds BOS only when asked, vLLM unless told not to.
    add = body.add_special if body.add_special is not None else body.add_special_tokens
    add = body.content is None if add is None else add
    return service.runtime.tokenize(text, add, body.parse_special)


async def detokenize(request: Request) -> Response:
    """POST /detokenize."""
    service: Service = request.app.state.service
    body = parsed(DetokenizeRequest, await body_of(request))
    text = await service.in_thread(service.runtime.detokenize, body.tokens)
    return json_response({"content": text, "prompt": text})


async def apply_template(request: Request) -> Response:
    """POST /apply-template: the prompt of a conversation as text."""
    service: Service = request.app.state.service
    prompt = await _prompt(request, service)
    return json_response({"prompt": prompt.text})


async def input_tokens(request: Request) -> Response:
    """POST /v1/chat/completions/input_tokens: how long the prompt of a conversation is."""
    service: Service = request.app.state.service
    prompt = await _prompt(request, service)
    return json_response({"object": "response.input_tokens", "input_tokens": len(prompt.ids)})


async def _prompt(request: Request, service: Service) -> ChatPrompt:
    body = parsed(ChatRequest, await body_of(request))
    return (await read(service, body)).prompt


async def tokenizer_info(request: Request) -> Response:
    """GET /tokenizer_info: what lm-evaluation-harness asks for a remote tokenizer."""
    service: Service = request.app.state.service
    tokenizer = service.runtime.tokenizer

    def name(token: int | None) -> str | None:
        return None if token is None else tokenizer.tokens[token]

    return json_response({
        "tokenizer_class": "hrun",
        "bos_token": name(tokenizer.bos_id),
        "eos_token": name(tokenizer.eos_id),
        "unk_token": name(tokenizer.unknown_id),
        "pad_token": None,
        "add_bos_token": tokenizer.adds_bos,
        "add_eos_token": tokenizer.adds_eos,
        "vocab_size": tokenizer.n_vocab,
        "model_max_length": service.runtime.n_ctx,
        "chat_template": tokenizer.chat_template,
    })  # fmt: skip
