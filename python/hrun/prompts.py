"""Turns texts and messages into token ids: the part of a model that needs none of its weights."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hrun._core import GGUFFile
from hrun.arguments import checked_ids, checked_sampling
from hrun.errors import ArgumentError, ChatTemplateError
from hrun.messages import check_messages, mapped, unused_character
from hrun.tokenizer import Tokenizer

if TYPE_CHECKING:
    from hrun.chat_template import ChatTemplate

Prompt = str | Sequence[int]
_OWN_VARIABLES = {"self", "messages", "bos_token", "eos_token"}  # that a template has from here


@dataclass(frozen=True)
class ChatPrompt:
    """A conversation as the model reads it."""

    text: str
    ids: list[int]


class Prompts:
    """A model's file as far as prompts go: tokenizer, chat template, recommended sampling.

    Raises ModelFileError, UnsupportedModelError.
    """

    n_vocab: int  # rows of the model's head, to which ids are checked

    def __init__(self, model_path: Path, pre_tokenizer: str | None = None) -> None:
        self.model_path = model_path
        file = GGUFFile(str(model_path))
        file.require_first_part()
        metadata = file.metadata
        self.tokenizer = Tokenizer(metadata, str(model_path), pre_tokenizer)
        self.pre_tokenizer = pre_tokenizer
        self._name = metadata.get("general.name")
        self._sampling = _recommended_sampling(metadata)
        self._template: ChatTemplate | None = None

    @property
    def name(self) -> str:
        """The model's name from its metadata, else its file's."""
        return self._name if isinstance(self._name, str) and self._name else self.model_path.stem

    @property
    def recommended_sampling(self) -> dict[str, float]:
        """The sampling parameters that the model's file recommends (general.sampling.*), by hrun's names."""
        return dict(self._sampling)

    # ---- text and tokens

    def tokenize(
        self, text: str, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        """Token ids; see :meth:`Tokenizer.encode`."""
        return self.tokenizer.encode(text, add_special, parse_special)

    def detokenize(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of token ids; see :meth:`Tokenizer.decode`."""
        return self.tokenizer.decode(checked_ids("ids", ids, self.tokenizer.n_vocab), skip_special)

    def embedding_ids(self, text: Prompt) -> list[int]:
        """Token ids of what is embedded: text with the special tokens that the model wants around it."""
        if not isinstance(text, str):
            return self.prompt_ids(text)
        ids = self.tokenizer.encode(text, add_special=True)
        return ids or self.prompt_ids(text)

    def prompt_ids(self, prompt: Prompt, parse_special: bool = False) -> list[int]:
        """Token ids of what :meth:`generate` continues: text with BOS where the model wants it, ids as they are."""
        tokenizer = self.tokenizer
        if isinstance(prompt, str):
            ids = self._with_bos(tokenizer.encode(prompt, parse_special=parse_special))
        else:
            ids = checked_ids("prompt", prompt, self.n_vocab)
        if not ids:
            if tokenizer.bos_id is None:
                raise ArgumentError("prompt is empty, and the model has no token to begin with")
            ids = [tokenizer.bos_id]
        return ids

    def chat_tokens(
        self,
        messages: Sequence[Mapping[str, Any]],
        template_variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The prompt of :meth:`chat` as token ids, with BOS where the model wants it and never twice."""
        return self.chat_prompt(messages, template_variables).ids

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        template_variables: Mapping[str, Any] | None = None,
        *,
        continue_last: bool = False,
        template: ChatTemplate | None = None,
    ) -> ChatPrompt:
        """The prompt of :meth:`chat`, as text and as token ids.

        With ``continue_last`` it ends where the content of the last message ends, so that the model goes on with it.
        ``template``: in place of the model's own.
        Raises ChatTemplateError, ArgumentError.
        """
        check_messages(messages)
        tokenizer = self.tokenizer
        template = template or self._own_template()
        guard = unused_character(messages, template.source)
        guarded = [mapped(message, lambda s: tokenizer.guard(s, guard)) for message in messages]
        variables = dict(template_variables or {})
        if taken := sorted(_OWN_VARIABLES & variables.keys()):
            raise ArgumentError(f"the template's variable '{taken[0]}' is not for callers to set")
        end = ""
        if continue_last:
            last = dict(guarded[-1])
            if not isinstance(last.get("content"), str):
                raise ArgumentError("the last message has no text that could be continued")
            end = unused_character([*messages, guard], template.source)
            last["content"] += end
            guarded[-1] = last
            variables["add_generation_prompt"] = False
        text = template.render(
            guarded,
            bos_token="" if tokenizer.bos_id is None else tokenizer.tokens[tokenizer.bos_id],
            eos_token="" if tokenizer.eos_id is None else tokenizer.tokens[tokenizer.eos_id],
            **variables,
        )
        if end:
            if end not in text:
                raise ChatTemplateError("leaves out the last message, which was to be continued")
            text = text[: text.rindex(end)]
        ids = self._with_bos(tokenizer.encode_guarded(text, guard))
        if not ids:
            raise ChatTemplateError("made an empty prompt of the messages")
        return ChatPrompt(text.replace(guard, ""), ids)

    def _own_template(self) -> ChatTemplate:
        if self._template is None:
            source = self.tokenizer.chat_template
            if source is None:
                raise ChatTemplateError(
                    f"{self.model_path} has none (tokenizer.chat_template); generate() continues plain text"
                )
            from hrun.chat_template import ChatTemplate

            self._template = ChatTemplate(source)
        return self._template

    def close(self) -> None:
        """Ends the process that renders the template."""
        if self._template is not None:
            self._template.close()

    def _with_bos(self, ids: list[int]) -> list[int]:
        bos = self.tokenizer.bos_id
        if bos is None or not self.tokenizer.adds_bos or ids[:1] == [bos]:
            return ids
        return [bos, *ids]


_RECOMMENDED = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
}


def _recommended_sampling(metadata: Mapping[str, Any]) -> dict[str, float]:
    """Returns the settings that the file recommends; a value that no sampler takes is no
    recommendation.
    """
    found = {}
    for key, name in _RECOMMENDED.items():
        with contextlib.suppress(ArgumentError):
            value = metadata.get(f"general.sampling.{key}")
            if value is not None:
                found.update(checked_sampling({name: value}))
    return found
