"""Names of weights without what wrappers put before them: torch.compile, FSDP, data parallelism, PEFT, models of several kinds.

The embedding tells: its name in the checkpoint is another beginning and the same end.
"""

from __future__ import annotations

import re
from pathlib import Path

from hrun.errors import ModelFileError, UnsupportedModelError

from .folder import shown
from .safetensors_file import StoredTensor

# Steps that PyTorch's wrappers add anywhere in a name; no architecture has a module of such a name.
_WRAPPERS = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_ADAPTER = re.compile(r"\.(?:lora_[A-Za-z_]+|base_layer|modules_to_save)\.")
_HEAD = "lm_head."  # beside the decoder, not in it
_SHOWN_NAMES = 3


def plain_names(
    stored: dict[str, StoredTensor], embedding: str, path: Path, notes: list[str]
) -> dict[str, StoredTensor]:
    """The tensors by the names that the architecture has for them.

    ``embedding``: the names that its embedding may have, as ``a|b``.  Raises ModelFileError where it is not there or there
    are several, UnsupportedModelError for an adapter that was not merged.
    """
    if adapter := next((name for name in stored if _ADAPTER.search(name)), None):
        raise UnsupportedModelError(
            f"{stored[adapter].shown_path}: tensor '{shown(adapter)}' belongs to an adapter that was not merged into the "
            "model; merge it first (in PEFT: model.merge_and_unload())"
        )
    stored = _renamed(stored, {name: _WRAPPERS.sub("", name) for name in stored}, notes)
    wanted = embedding.split("|")
    if any(name in stored for name in wanted):
        return stored
    # 'model.embed_tokens.weight': the root is 'model.', the end is what every checkpoint has.
    root, _, end = wanted[0].partition(".")
    root += "."
    found = [name for name in stored if name == end or name.endswith("." + end)]
    if len(found) != 1:
        names = found or list(stored)
        more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
        listed = ", ".join(f"'{shown(name)}'" for name in names[:_SHOWN_NAMES])
        raise ModelFileError(
            f"{path}: tensor '{wanted[0]}' is missing; {'it could be any of' if found else 'found were'} "
            f"{listed or 'none'}{more}"
        )
    prefix = found[0].removesuffix(end)
    outer = prefix.removesuffix(root) if prefix.endswith(root) else None

    def plain(name: str) -> str:
        if name.startswith(prefix) and (prefix or not name.startswith(_HEAD)):
            return root + name[len(prefix) :]
        return name[len(outer) :] if outer and name.startswith(outer) else name

    return _renamed(stored, {name: plain(name) for name in stored}, notes)


def _renamed(
    stored: dict[str, StoredTensor], names: dict[str, str], notes: list[str]
) -> dict[str, StoredTensor]:
    changed = [(old, new) for old, new in names.items() if old != new]
    if not changed:
        return stored
    out: dict[str, StoredTensor] = {}
    for old, tensor in stored.items():
        if (new := names[old]) in out:
            raise ModelFileError(
                f"{tensor.shown_path}: tensors '{shown(out[new].name)}' and '{shown(tensor.name)}' are both '{shown(new)}'"
            )
        out[new] = tensor
    old, new = changed[0]
    notes.append(
        f"{len(changed)} tensors have names of a wrapper, like '{shown(old)}', which is read as '{shown(new)}'"
    )
    return out
