"""A conversation on its way: every chat interface makes one of its request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hrun.runtime import ChatPrompt
from hrun.serve.answers import Answers
from hrun.serve.choice import Choice, Parser, PlainParser
from hrun.serve.drawing import asks_of, max_tokens_of, stops_of
from hrun.serve.errors import ApiError
from hrun.serve.prompt import chat_prompt
from hrun.serve.schemas import ChatRequest
from hrun.serve.service import Service, template_variables


@dataclass(frozen=True)
class Conversation:
    """What the model reads, and how its answer is to be read."""

    prompt: ChatPrompt
    make_parser: Callable[[], Parser]


async def converse(service: Service, body: ChatRequest) -> Conversation:
    """The prompt of the messages."""
    if body.chat_template is not None and not service.options.trust_request_chat_template:
        raise ApiError(
            400,
            "a request's own chat_template is not taken (--trust-request-chat-template)",
            param="chat_template",
        )
    variables = template_variables(service.options, body.chat_template_kwargs)
    if body.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", body.reasoning_effort)
    variables["add_generation_prompt"] = body.add_generation_prompt
    prompt = await service.in_thread(
        chat_prompt,
        service,
        body.messages,
        variables,
        continue_last=body.continue_final_message,
        template=body.chat_template,
    )
    return Conversation(prompt, PlainParser)


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
    )
    choices = [
        Choice(
            service.runtime.tokenizer,
            stops=stops,
            include_stop=body.include_stop_str_in_output,
            show_control=not body.skip_special_tokens,
            strip_space=service.runtime.tokenizer.adds_space and not body.continue_final_message,
            parser=conversation.make_parser(),
        )
        for _ in asks
    ]
    return Answers(service, asks, choices)
