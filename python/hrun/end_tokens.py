"""Finds the tokens that end a generation: DESIGN.md has the table and the origin of each rule."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# Marks of the end of a turn, the likelier first: the converter takes the first that a vocabulary has as its EOT.
END_OF_TURN = (
    "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<|endofturn|>", "[|endofturn|]", "<turn|>",
    "<|END_OF_TURN_TOKEN|>", "<end_of_utterance>", "[e~[", "[EOT]", "<EOT>", "_<EOT>", "▁<EOT>",
)  # fmt: skip
# These tokens end texts, messages, and answers in the channels of gpt-oss and Solar.
_OTHER_ENDS = (
    "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "[EOS]", "<｜end▁of▁sentence｜>", "<|tool_response>",
    "<|return|>", "<|call|>", "<|calls|>", "<|flush|>",
)  # fmt: skip
# Padding, repository and file marks of models that fill in code: what follows is another file.
_NEXT_FILE = (
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
    "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
)  # fmt: skip
# Converters have named only one of these, or stored them with the type of ordinary text: a text alone is enough.
END_NAMES = frozenset((*END_OF_TURN, *_OTHER_ENDS, *_NEXT_FILE))
# HTML that ends struck-out text, in many vocabularies: an end only where it is stored as a control token.
_END_IF_CONTROL = "</s>"
# Closes a message.  In vocabularies with channels only these others close the answer.
_CHANNEL_END = "<|end|>"
_CHANNEL_MODELS = frozenset({"<|return|>", "<|call|>", "<|calls|>", "<|flush|>"})
# Metadata that names an end: tokenizer.ggml.*_token_id, and a list for all that an architecture's configuration names.
END_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")
END_LIST = "tokenizer.ggml.eos_token_ids"


def closes_channels_only(token: str, names: Iterable[str]) -> bool:
    """Is this the end of a message that is not the last, in a vocabulary with these names?"""
    return token == _CHANNEL_END and not _CHANNEL_MODELS.isdisjoint(names)


def is_end_by_name(token: str, is_control: bool) -> bool:
    return token in END_NAMES or (is_control and token == _END_IF_CONTROL)


def end_ids(
    tokens: Sequence[str], is_control: Sequence[bool], named: Iterable[int]
) -> frozenset[int]:
    """Every id that ends a generation; ``named`` are those that the file names."""
    ends = set(named)
    ends |= {i for i, token in enumerate(tokens) if is_end_by_name(token, is_control[i])}
    names = {tokens[i] for i in ends}
    return frozenset(i for i in ends if not closes_channels_only(tokens[i], names))
