"""A Hugging Face folder (config.json, safetensors, tokenizer.json) as a Source.

Which tensors a model has, what they are called on both sides and how they change comes from the architecture
descriptions of the core.  Nothing in the folder is executed: no pickles, no remote code.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrun import _core
from hrun.errors import ModelFileError, UnsupportedModelError

from .embedding_part import (
    embedding_tensors,
    encoder_config,
    reranker_part,
    with_template_ends,
    without_head,
)
from .folder import PICKLE_SENTENCE, ModelFolder, json_type, shown
from .hf_config import HFConfig, read_config
from .hf_multipliers import constants, row_factors
from .hf_tokenizer import read_tokenizer
from .language_part import is_multimodal, language_config, language_tensors, text_class
from .quantized_checkpoint import Decoded, plain_weights
from .rwkv import rwkv_part
from .safetensors_file import SafetensorsFile, StoredTensor
from .source import Entry, Source, SourceTensor
from .transforms import CODED_ROWS, TRANSFORMS, Stored, Target, plain_shape, stacked
from .weight_names import plain_names
from .xielu import xielu_part

_CONFIG_LIMIT = 64 << 20  # bytes
_INDEX_LIMIT = 256 << 20

Floats = npt.NDArray[np.float32]

# Tensors that old checkpoints carry although they follow from the configuration.
_DERIVED = re.compile(r"\.rotary_emb\.inv_freq$|\.attention\.(?:masked_)?bias$")


def read_hf(path: Path) -> Source:
    """Opens and validates everything but the weights' values.  Raises ModelFileError, UnsupportedModelError."""
    folder = ModelFolder(path)
    if not folder.has("config.json"):
        if folder.has("adapter_config.json"):
            raise UnsupportedModelError(
                f"{path}: an adapter (LoRA), not a model; merge it into its model first (in PEFT: model.merge_and_unload())"
            )
        raise ModelFileError(f"{path}: not a model folder: config.json is missing")
    values = folder.read_json("config.json", _CONFIG_LIMIT)
    config_path = str(path / "config.json")
    architecture = _architecture(values, config_path)
    whole, values = values, language_config(values, config_path)
    values = without_head(encoder_config(values, architecture, config_path), architecture)
    config = read_config(config_path, values, architecture)
    notes: list[str] = []
    coded, files = _stored_tensors(folder, notes)
    if is_multimodal(whole):
        coded = language_tensors(coded, notes)
    roles = {rule.role: rule for rule in architecture.tensors}
    coded = plain_names(coded, roles["token_embd"].hf_name, path, notes)
    coded, embeds = embedding_tensors(folder, values, architecture, coded, notes)
    stored = plain_weights(coded, config.object, notes)
    vocabulary = read_tokenizer(
        folder, config.n_vocab, values, keeps_merges=architecture.name == "gemma4"
    )
    notes += vocabulary.notes
    stored = reranker_part(folder, architecture, stored, vocabulary.ids, embeds, values)
    stored, numbers = xielu_part(architecture, stored, config.n_layers, path)
    stored = rwkv_part(architecture, stored, config.keys, config.n_layers, path)
    sizes = {**config.sizes(), **embeds.sizes}
    tensors = _tensors(architecture, config, stored, sizes, path, notes)
    present = {tensor.name for tensor in tensors}
    name = _model_name(path)
    metadata = [
        Entry("general.architecture", "string", architecture.name),
        Entry("general.type", "string", "model"),
        Entry("general.name", "string", name),
        Entry(
            "general.size_label", "string", size_label(sum(tensor.n_values for tensor in tensors))
        ),
        *config.metadata(architecture.name),
        *numbers,
        *embeds.entries,
        *with_template_ends(vocabulary.entries, vocabulary.ends, embeds, architecture.causal),
    ]
    return Source(
        path=path,
        kind="Hugging Face folder",
        name=name,
        metadata=metadata,
        tensors=tensors,
        embedding=roles["token_embd"].gguf_name,
        head=head.gguf_name
        if (head := roles.get("output")) and head.gguf_name in present
        else None,
        files=[*files, *(p for n in folder.names() if (p := path / n).is_file())],
        notes=notes,
    )


def size_label(n_values: int) -> str:
    """Parameters as GGUF files state them: 14M, 1.2B, 70B."""
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if n_values >= scale:
            number = n_values / scale
            return (
                f"{number:.0f}{unit}"
                if number >= 9.95 or unit == "M"
                else f"{number:.1f}{unit}".replace(".0", "")
            )
    return f"{max(1, round(n_values / 1e3))}K"


def _model_name(path: Path) -> str:
    """The folder's name; for a snapshot of the Hugging Face cache, the model's."""
    resolved = path.resolve()
    if resolved.parent.name == "snapshots" and resolved.parent.parent.name.startswith("models--"):
        return resolved.parent.parent.name.split("--")[-1]
    return resolved.name or "model"


def _architecture(values: dict[str, Any], path: str) -> Any:
    classes = values.get("architectures")
    if (
        not isinstance(classes, list)
        or not classes
        or not all(isinstance(name, str) for name in classes)
    ):
        raise ModelFileError(
            f"{path}: 'architectures' must be an array of class names, found {json_type(classes)}"
        )
    fitting = [a for a in _core.architectures() if classes[0] in a.hf_classes]
    if not fitting and (name := text_class(values)):
        fitting = [a for a in _core.architectures() if name in a.hf_classes]
    if fitting:
        # Nemotron H and Nomic's BERT have one class, but one architecture with experts and one
        # without.
        kinds = values.get("hybrid_override_pattern") or values.get("layers_block_type") or []
        has_experts = isinstance(kinds, (str, list)) and any(kind in kinds for kind in ("E", "moe"))
        has_experts = has_experts or bool(values.get("moe_every_n_layers"))
        with_experts = [a for a in fitting if any(rule.role == "router" for rule in a.tensors)]
        if has_experts and with_experts:
            return with_experts[0]
        return next((a for a in fitting if a not in with_experts), fitting[0])
    known = [name for architecture in _core.architectures() for name in architecture.hf_classes]
    near = difflib.get_close_matches(classes[0], known, 1, 0.75)
    raise UnsupportedModelError(
        f"{path}: architecture '{shown(classes[0])}' is not supported"
        + (f"; the nearest that is: {near[0]}" if near else "")
        + f"; supported are {', '.join(known)}"
    )


_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def _stored_tensors(
    folder: ModelFolder, notes: list[str]
) -> tuple[dict[str, StoredTensor], list[Path]]:
    """Every tensor of the folder with the file that holds it.  A single file comes before an index, as in transformers."""
    if folder.has(_SINGLE):
        path = folder.file(_SINGLE)
        file = SafetensorsFile(path, str(folder.path / _SINGLE))
        if folder.has(_INDEX):
            notes.append(f"{folder.path / _INDEX}: not read, as {_SINGLE} is there")
        return dict(file.tensors), [path]
    if folder.has(_INDEX):
        return _sharded(folder, _INDEX)
    others = [name for name in folder.names() if name.lower().endswith(".safetensors")]
    if not others and (pickles := folder.pickles()):
        raise UnsupportedModelError(f"{folder.path / pickles[0]}: {PICKLE_SENTENCE}")
    there = ", ".join(f"'{shown(name)}'" for name in others[:3])
    raise ModelFileError(
        f"{folder.path}: no weights: neither {_SINGLE} nor {_INDEX}"
        + (f"; there is {there}" if there else "")
    )


def _sharded(folder: ModelFolder, index_name: str) -> tuple[dict[str, StoredTensor], list[Path]]:
    index = folder.read_json(index_name, _INDEX_LIMIT)
    path = folder.path / index_name
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(
            f"{path}: 'weight_map' must be an object with one entry per tensor, found {json_type(weight_map)}"
        )
    shards: dict[str, SafetensorsFile] = {}
    stored: dict[str, StoredTensor] = {}
    paths = []
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or shard not in shards:
            resolved = folder.file(shard, named_by=index_name)
            if shard.lower().endswith((".bin", ".pt", ".pth")):
                raise UnsupportedModelError(f"{folder.path / shard}: {PICKLE_SENTENCE}")
            shards[shard] = SafetensorsFile(resolved, str(folder.path / shard))
            paths.append(resolved)
        if tensor not in shards[shard].tensors:
            raise ModelFileError(
                f"{path}: tensor '{shown(tensor)}' is not in '{shown(shard)}' as 'weight_map' says"
            )
        stored[tensor] = shards[shard].tensors[tensor]
    for shard, file in shards.items():
        for tensor in file.tensors:
            if weight_map.get(tensor) != shard:
                raise ModelFileError(
                    f"{folder.path / shard}: tensor '{shown(tensor)}' is not listed for this file in {index_name}"
                )
    return stored, paths


def _tensors(
    architecture: Any,
    config: HFConfig,
    stored: dict[str, Stored],
    sizes: dict[str, int],
    path: Path,
    notes: list[str],
) -> list[SourceTensor]:
    """The tensors of the description, in its order, each checked for its shape; unknown ones are refused."""
    out: list[SourceTensor] = []
    used: set[str] = set()
    of_model = sizes

    def add(rule: Any, layer: int | None, sizes: dict[str, int]) -> None:
        gguf_name = rule.gguf_name.replace("{}", str(layer), 1)
        if not rule.hf_name:
            factors = config.rope.scaling.factors if config.rope is not None else None
            made_up = constants(config.object, architecture.name, rule.role, sizes)
            if factors is not None and rule.role in factors:
                made_up = factors[rule.role]
            if made_up is not None:
                out.append(_computed(gguf_name, made_up))
            return
        choices = [
            (
                [n.replace("{}", str(part)) for part in range(sizes[rule.slices])]
                if "{}" in n
                else [n],
                transform or rule.transform,
            )
            for n, _, transform in (
                (name if layer is None else name.replace("{}", str(layer), 1)).partition("@")
                for name in rule.hf_name.split("|")
            )
        ]
        there = [c for c in choices if c[0][0] in stored]
        names, transform = next(
            (c for c in there if len(there) > 1 and _fits(rule, c[1], stored[c[0][0]], sizes)),
            (there or choices)[0],
        )
        if rule.role == "output" and config.tied:
            if names[0] in stored:
                used.add(names[0])
                notes.append(
                    f"'{names[0]}' left out: the head is tied to the embedding ('tie_word_embeddings')"
                )
            return
        if not (rule.required or _asked_for(rule, config, names[0] in stored)):
            return  # if the file has it all the same, it is refused below
        if missing := next((name for name in names if name not in stored), None):
            raise ModelFileError(f"{path}: tensor '{missing}' is missing")
        used.update(names)
        parts = [stored[name] for name in names]
        made = _tensor(rule, transform, gguf_name, parts, sizes)
        multiplied_by = row_factors(config.object, architecture.name, rule.role, sizes, made.rows)
        out.append(made if multiplied_by is None else _multiplied(made, multiplied_by))

    for rule in architecture.tensors:
        if not rule.per_layer:
            add(rule, None, of_model)
    for layer in range(config.n_layers):
        of_layer = {**sizes, **config.sizes(layer)}
        for rule in architecture.tensors:
            if rule.per_layer and config.in_layer(rule.where, layer):
                add(rule, layer, of_layer)
    left = [
        name
        for name in stored
        if name not in used and not _DERIVED.search(name) and not _beyond(name, config)
    ]
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise UnsupportedModelError(
            f"{stored[left[0]].shown_path}: tensor '{shown(left[0])}'{more} has no place in the "
            f"architecture '{architecture.name}' with {config.n_layers} layers"
        )
    skipped = sum(name not in used and _beyond(name, config) for name in stored)
    if skipped:
        notes.append(
            f"{skipped} tensors of layers beyond the {config.n_layers} of the model (for predicting several tokens at once) left out"
        )
    return out


_LAYER = re.compile(r"^model\.layers\.(\d+)\.")
_NEXT = re.compile(r"^(?:model\.)?mtp\.")  # as Qwen and EXAONE name those layers


def _beyond(name: str, config: HFConfig) -> bool:
    """Layers after the last, for predicting further tokens, that config.json counts apart."""
    if _NEXT.match(name):
        return True
    found = _LAYER.search(name)
    extra = config.object.integer("num_nextn_predict_layers", default=0, low=0)
    return found is not None and config.n_layers <= int(found[1]) < config.n_layers + extra


def _asked_for(rule: Any, config: HFConfig, is_there: bool) -> bool:
    """Does the configuration ask for this tensor, which the architecture leaves open?"""
    if rule.role == "output":
        return config.tied is False or is_there
    return config.object.boolean(rule.hf_if, False) if rule.hf_if else is_there


def _computed(name: str, values: Floats) -> SourceTensor:
    return SourceTensor(
        name,
        (values.size,),
        "f32",
        lambda first, last: values.reshape(1, -1)[first:last],
        origin="computed from config.json",
        kept=True,
    )


def _multiplied(tensor: SourceTensor, factors: Floats) -> SourceTensor:
    read = tensor.read_rows
    return replace(
        tensor,
        read_rows=lambda first, last: read(first, last) * factors[first:last, None],
        read_bytes=None,
    )


# Small tensors on which much depends: they stay F32.
_KEPT = (
    "router",
    "shared_router",
    "position_embd",
    "token_types",
    "class_dense",
    "class_output",
    "delta_conv",
    "delta_step",
    "delta_beta",
    "delta_beta_step",
    "shortconv_taps",
    "ssm_conv",
    "ssm_rate",
    "ssm_skip",
    "altup_router",
    "altup_predict",
    "altup_correct",
)
# Larger ones of that kind: they stay as they are stored, in 16 bits where they have so many.
_KEPT_AS_STORED = (
    "per_layer_model_proj",
    "altup_proj",
    "altup_unembd",
    "laurel_left",
    "laurel_right",
    "wkv_decay_in",
    "wkv_decay_out",
    "wkv_rate_in",
    "wkv_rate_out",
    "wkv_first_in",
    "wkv_first_out",
    "wkv_gate_in",
    "wkv_gate_out",
)


def _target(rule: Any, sizes: dict[str, int]) -> Target:
    vector, sliced = rule.rows == "one", rule.slices != "one"
    return Target(sizes[rule.rows], sizes[rule.cols], sizes[rule.slices], sliced, vector, sizes)


def _fits(rule: Any, transform: str, stored: Stored, sizes: dict[str, int]) -> bool:
    return transform in TRANSFORMS and stored.shape == TRANSFORMS[transform][0](
        _target(rule, sizes)
    )


def _tensor(
    rule: Any, transform: str, gguf_name: str, parts: list[Stored], sizes: dict[str, int]
) -> SourceTensor:
    if transform not in TRANSFORMS:
        raise UnsupportedModelError(
            f"tensor '{shown(parts[0].name)}': unknown transform '{transform}' in the architecture description"
        )
    shape_of, make = TRANSFORMS[transform]
    whole = _target(rule, sizes)
    rows, slices, sliced, vector = whole.rows, whole.slices, whole.sliced, whole.vector
    part = replace(whole, slices=1, sliced=False) if len(parts) > 1 else whole
    expected = shape_of(part)
    for stored in parts:
        squeezed = vector and not sliced and len(stored.shape) > 1 and stored.shape[0] == 1
        shape = stored.shape[1:] if squeezed else stored.shape
        if shape != expected and not (
            len(parts) == 1 and sliced and slices == 1 and shape == expected[1:]
        ):
            raise ModelFileError(
                f"{stored.shown_path}: tensor '{shown(stored.name)}' has shape {list(stored.shape)}, "
                f"config.json asks for {list(expected)}"
            )
    made = [make(stored, part) for stored in parts]
    read = made[0][0] if len(made) == 1 else stacked([reader for reader, _ in made], rows)
    step = made[0][1]
    shape_written = tuple(reversed(plain_shape(whole)))
    if transform == "fourth":
        shape_written = (whole.cols, 1, 1, slices)
    read_blocks = _blocks(parts[0], transform, slices) if len(parts) == 1 else None
    return SourceTensor(
        gguf_name,
        shape_written,
        parts[0].format,
        read,
        row_step=step,
        read_bytes=read_blocks,
        origin=f"{parts[0].shown_path}: {shown(parts[0].name)}",
        kept=vector or rule.role in _KEPT or rule.role in _KEPT_AS_STORED,
        kept_as=parts[0].format
        if rule.role in _KEPT_AS_STORED and parts[0].format in ("f16", "bf16")
        else "f32",
        native=read_blocks is not None,
    )


def _blocks(
    stored: Stored, transform: str, slices: int
) -> Callable[[], npt.NDArray[np.uint8]] | None:
    """The reader of the tensor's own blocks, where it has such as GGUF knows."""
    rows = CODED_ROWS.get(transform)
    if rows is None or not isinstance(stored, Decoded) or stored.blocks is None:
        return None
    blocks = stored.blocks
    return lambda: np.concatenate([blocks(i)[rows].reshape(-1) for i in range(slices)])
