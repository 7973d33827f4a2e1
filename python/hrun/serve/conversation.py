"""A conversation on its way: every chat interface makes one of its request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hrun.grammar import Grammar
from hrun.prompts import ChatPrompt
from hrun.serve.answers import Answers
from hrun.serve.choice import Choice, Parser
from hrun.serve.drawing import asks_of, max_tokens_of, stops_of
from hrun.serve.errors import ApiError, bad
from hrun.serve.prompt import chat_prompt, check
from hrun.serve.schemas import ChatRequest
from hrun.serve.service import Service, template_variables
from hrun.serve.structured import checked, grammar_asked, ready
from hrun.serve.tools.dialect import Dialect
from hrun.serve.tools.formats import HERMES, reads_tools
from hrun.serve.tools.grammar import AnswerGrammar
from hrun.serve.tools.request import Tools, tools_of, with_preamble


@dataclass(frozen=True)
class Asked:
    """The prompt that the model reads, and the rules for what an answer to it may hold."""

    prompt: ChatPrompt
    dialect: Dialect
    tools: Tools
    thinking: bool  # the prompt has opened the tag


@dataclass(frozen=True)
class Conversation:
    """The prompt that the model reads, and the parser that reads its answer."""

    prompt: ChatPrompt
    make_parser: Callable[[], Parser]
    grammar: Grammar | None = None


async def converse(
    service: Service, body: ChatRequest, wished_budget: int | None = None
) -> Conversation:
    """A conversation that is to be answered.  ``wished_budget``: tokens of thoughts, where that can
    be kept.  Raises ApiError, ChatTemplateError.
    """
    asked = await read(service, body)
    make = partial(asked.dialect.parser, service.tags, asked.tools, asked.thinking)
    grammar = await service.in_thread(_grammar, service, body, asked, wished_budget)
    return Conversation(asked.prompt, make, grammar)


async def read(service: Service, body: ChatRequest) -> Asked:
    """The prompt of the messages.  Raises ApiError, ChatTemplateError."""
    options = service.options
    if body.chat_template is not None and not options.trust_request_chat_template:
        raise bad(
            "a request's own chat_template is not taken (--trust-request-chat-template)",
            param="chat_template",
        )
    if body.continue_final_message and "add_generation_prompt" in body.model_fields_set:
        if body.add_generation_prompt:
            raise bad(
                "add_generation_prompt and continue_final_message exclude each other",
                param="add_generation_prompt",
            )
    tools = tools_of(body.tools, body.tool_choice, body.parallel_tool_calls, options.max_tools)
    template = body.chat_template or service.chat_template
    dialect = service.dialect if body.chat_template is None else Dialect(template, options)
    messages = body.messages
    variables = template_variables(options, body.chat_template_kwargs)
    if body.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", body.reasoning_effort)
        if body.reasoning_effort in ("none", "minimal"):
            variables.setdefault("enable_thinking", False)
    variables["add_generation_prompt"] = body.add_generation_prompt
    if tools:
        if dialect.row is None and options.strict_tools:
            raise bad("the model's chat template does not say how tools are called", param="tools")
        if reads_tools(template):
            variables["tools"] = tools.offered
        else:
            check(messages)
            messages = with_preamble(messages, tools)
    prompt = await service.in_thread(
        chat_prompt,
        service,
        messages,
        variables,
        continue_last=body.continue_final_message,
        template=body.chat_template,
    )
    return Asked(prompt, dialect, tools, dialect.opened_by(prompt.text))


def _grammar(
    service: Service, body: ChatRequest, read: Asked, wished_budget: int | None
) -> Grammar | None:
    """Returns the grammar that binds the answer.  Call it in a thread.  Raises ApiError."""
    asked = grammar_asked(service, body)
    dialect, tools, thinking = read.dialect, read.tools, read.thinking
    row = dialect.row or HERMES
    ends = service.runtime.tokenizer.end_ids
    budget = _budget(service, body.thinking_token_budget, read)
    if wished_budget is not None:
        with contextlib.suppress(ApiError):
            budget = _budget(service, wished_budget, read)
    writer = AnswerGrammar(row, dialect.reasoning, service.control_ids, ends, budget)
    if tools and (tools.required or tools.strict):
        if asked is not None:
            raise bad("tools that must be called exclude response_format", param="response_format")
        field = "tool_choice" if tools.required else "tools"
        calls = checked(field, lambda: writer.of_calls(tools, thinking))
        return ready(service, field, calls)
    if asked is None:
        if budget is None:
            return None
        field = "thinking_token_budget"
        bound = writer.of_calls(tools, thinking) if tools else writer.of_words(thinking)
        return ready(service, field, bound)
    whole = checked("response_format", lambda: writer.of_answer(asked, thinking))
    return ready(service, "response_format", whole)


def _budget(service: Service, n: int | None, read: Asked) -> tuple[int, int] | None:
    """Returns the tokens that thoughts may have, and the token that ends them.  Raises ApiError."""
    tags = read.dialect.reasoning
    if n is None:
        return None
    ids = service.runtime.tokenizer.encode(tags.end, parse_special=True) if tags else []
    if len(ids) != 1:
        why = "the model knows no thoughts" if tags is None else f"'{tags.end}' is not one token"
        raise bad(f"thinking_token_budget cannot be kept: {why}", param="thinking_token_budget")
    if read.tools and not read.thinking:
        raise bad(
            "thinking_token_budget beside tools needs a prompt that begins the thoughts",
            param="thinking_token_budget",
        )
    return n, ids[0]


def answers_of(
    service: Service,
    conversation: Conversation,
    body: ChatRequest,
    *,
    n: int,
    key: str,
    clamp: bool = False,
) -> Answers:
    """The answers, in the engine from now on."""
    stops = stops_of(service, body)
    top_logprobs = (body.top_logprobs or 0) if body.logprobs else -1
    asks = asks_of(
        service,
        body,
        [conversation.prompt.ids],
        n=n,
        key=key,
        max_tokens=max_tokens_of(body),
        top_logprobs=top_logprobs,
        clamp=clamp,
        grammar=conversation.grammar,
    )
    first_space = service.runtime.tokenizer.adds_space and conversation.grammar is None
    choices = [
        Choice(
            service.runtime.tokenizer,
            stops=stops,
            include_stop=body.include_stop_str_in_output,
            show_control=not body.skip_special_tokens,
            strip_space=first_space and not body.continue_final_message,
            parser=conversation.make_parser(),
        )
        for _ in asks
    ]
    return Answers(service, asks, choices)
