"""Reads a checkpoint's settings for embeddings: pooling, projections, classes; and gives encoders'
configurations the names of decoders'.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrun.errors import ModelFileError, UnsupportedModelError

from .folder import ModelFolder, shown
from .safetensors_file import SafetensorsFile, StoredTensor
from .source import Entry
from .transforms import Stored

_CONFIG_LIMIT = 64 << 20  # bytes
_CLASSIFIER = "ForSequenceClassification"
_MEAN, _CLS, _LAST, _RANK = 1, 2, 3, 4  # <architecture>.pooling_type
# Tensors beside an encoder that predict masked words, or what follows from the configuration.
_LEFT_OUT = re.compile(
    r"cls\.(?:predictions|seq_relationship)\.|lm_head\.|decoder\.|embeddings\.position_ids$|vocab_"
)
_RERANKER = re.compile(r"qwen3-reranker", re.IGNORECASE)
# The prompt of Qwen's rerankers, from their documentation.
_RERANK_TEMPLATE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web search query, '
    "retrieve relevant passages that answer the query\n<Query>: {query}\n<Document>: {document}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)

_DISTILBERT = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
}

Tensors = dict[str, StoredTensor]


@dataclass
class EmbeddingPart:
    """entries: metadata.  sizes: lengths by the names of Dim.  pooled: is it a model for embeddings?"""

    entries: list[Entry] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    pooled: bool = False


def is_classifier(values: dict[str, Any]) -> bool:
    return str(values["architectures"][0]).endswith(_CLASSIFIER)


def without_head(values: dict[str, Any], architecture: Any) -> dict[str, Any]:
    """config.json of a decoder that gives vectors or scores: it has no head that predicts tokens, whatever it says."""
    name = str(values["architectures"][0])
    if not architecture.causal or not name.endswith(("Model", _CLASSIFIER)):
        return values
    return {**values, "tie_word_embeddings": True}


def encoder_config(values: dict[str, Any], architecture: Any, path: str) -> dict[str, Any]:
    """config.json with the keys of encoders under the names that decoders have for the same."""
    if architecture.causal:
        return values
    out = dict(values)
    if offset := position_offset(values):
        positions = values.get("max_position_embeddings")
        if not isinstance(positions, int) or positions <= offset:
            raise ModelFileError(
                f"{path}: 'max_position_embeddings' is {shown(repr(positions))}, must be more than {offset}: "
                "positions begin after the padding's"
            )
        out["max_position_embeddings"] = positions - offset
    if values.get("model_type") == "distilbert":
        out["layer_norm_eps"] = 1e-12  # whatever the configuration says
        for theirs, ours in _DISTILBERT.items():
            if values.get(theirs) is not None:
                out[ours] = values[theirs]
    for old in ("global_rope_theta", "rotary_emb_base"):
        if values.get(old) is not None:
            out.setdefault("rope_theta", values[old])
    if values.get("global_rope_theta") is not None and values.get("rope_parameters") is None:
        local = values.get("local_rope_theta") or values["global_rope_theta"]
        out["rope_parameters"] = {
            "full_attention": {"rope_type": "default", "rope_theta": values["global_rope_theta"]},
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        }
    if architecture.name.startswith("nomic-bert"):
        trained = values.get("max_trained_positions", 2048 if "n_positions" in values else None)
        if isinstance(trained, int) and isinstance(values.get("n_positions"), int):
            out["n_positions"] = min(trained, values["n_positions"])
        if values.get("activation_function") == "swiglu":
            out["activation_function"] = "silu"
    if architecture.name == "nomic-bert-moe":
        _nomic_experts(out, path)
    if architecture.name == "jina-bert-v2":
        _jina(out, path)
    if architecture.name == "modern-bert":
        out["sliding_window_pattern"] = _full_layer_period(values, path)
        out.pop("layer_types", None)
    if architecture.name == "gemma-embedding":
        if values.get("use_bidirectional_attention") is not True:
            raise UnsupportedModelError(
                f"{path}: 'use_bidirectional_attention' is not true; Gemma3TextModel is supported as EmbeddingGemma"
            )
        del out["use_bidirectional_attention"]
    return out


def _nomic_experts(values: dict[str, Any], path: str) -> None:
    """Says which layers have experts as Jamba's configuration does, and refuses what nobody publishes."""
    for key in ("num_shared_experts", "expert_choice_router"):
        if values.get(key):
            raise UnsupportedModelError(
                f"{path}: '{key}' is {shown(repr(values[key]))}, which hrun does not support"
            )
    values["expert_layer_period"] = values["moe_every_n_layers"]
    values["expert_layer_offset"] = 1
    if values.get("n_positions") == values.get("max_trained_positions") == 2048:
        values["n_positions"] = 512  # what nomic-embed-text-v2-moe was trained for


def _jina(values: dict[str, Any], path: str) -> None:
    for key, supported in (("position_embedding_type", "alibi"), ("feed_forward_type", "geglu")):
        if values.pop(key, None) != supported:
            raise UnsupportedModelError(
                f"{path}: '{key}' is not '{supported}', the only one that hrun supports for Jina's BERT"
            )


def position_offset(values: dict[str, Any]) -> int:
    """Rows of the table of positions before the first text's: those models count from behind the padding token's id."""
    if values.get("model_type") not in ("xlm-roberta", "roberta", "camembert"):
        return 0
    padding = values.get("pad_token_id", 1)
    return 1 + padding if isinstance(padding, int) and 0 <= padding < 2**31 else 0


def _full_layer_period(values: dict[str, Any], path: str) -> int:
    """Every n-th layer, the first among them, sees the whole text."""
    kinds, n_layers = values.get("layer_types"), values.get("num_hidden_layers")
    if kinds is None:
        period = values.get("global_attn_every_n_layers", 3)
        if not isinstance(period, int) or isinstance(period, bool) or not 0 < period < 2**31:
            raise ModelFileError(
                f"{path}: 'global_attn_every_n_layers' is {shown(repr(period))}, must be a number of layers"
            )
        return period
    for period in range(1, (n_layers if isinstance(n_layers, int) else 0) + 1):
        if kinds == [
            "sliding_attention" if layer % period else "full_attention"
            for layer in range(n_layers)  # type: ignore[arg-type]
        ]:
            return period
    raise UnsupportedModelError(
        f"{path}: 'layer_types': the layers that see the whole text follow no period from the first on"
    )


def embedding_tensors(
    folder: ModelFolder,
    values: dict[str, Any],
    architecture: Any,
    stored: Tensors,
    notes: list[str],
) -> tuple[Tensors, EmbeddingPart]:
    """The tensors without those that embeddings do not need, with the projections beside the model; and what follows."""
    part = EmbeddingPart()
    pooling, projections = _modules(folder)
    if not architecture.causal:
        prefix = architecture.name
        part.entries.append(Entry(f"{prefix}.attention.causal", "bool", False))
        stored = _encoder_tensors(values, stored, notes)
        part.sizes["position_offset"] = position_offset(values)
        if types := stored.get("embeddings.token_type_embeddings.weight"):
            part.sizes["token_types"] = types.shape[0]
        if types or architecture.name == "bert":  # DistilBERT has none
            n_types = part.sizes.get("token_types", 1)
            part.entries.append(Entry("tokenizer.ggml.token_type_count", "u32", n_types))
        for i, name in enumerate(projections):
            stored = {**stored, **_projection(folder, name, i + 2)}
        if first := stored.get("2_Dense.linear.weight"):
            part.sizes["dense"] = first.shape[0]
        if is_classifier(values):
            part.entries += _class_entries(values, architecture.name)
            pooling = _RANK
        for name in ("score.weight", "classifier.out_proj.weight", "classifier.weight"):
            if name in stored:
                part.sizes["classes"] = stored[name].shape[0]
    elif projections:
        notes.append(
            f"{len(projections)} projections of sentence-transformers left out: hrun has none for '{architecture.name}'"
        )
    if pooling is not None:
        part.entries.append(Entry(f"{architecture.name}.pooling_type", "u32", pooling))
        part.pooled = True
    return stored, part


def _encoder_tensors(values: dict[str, Any], stored: Tensors, notes: list[str]) -> Tensors:
    classifies = is_classifier(values)
    masked = str(values["architectures"][0]).endswith("ForMaskedLM")

    def is_left_out(name: str) -> bool:
        return (
            _LEFT_OUT.match(name) is not None
            or (name.startswith("pooler.") and not classifies)
            or (masked and name.startswith("head."))
        )

    old = {".gamma": ".weight", ".beta": ".bias"}  # of TensorFlow's checkpoints
    kept: Tensors = {}
    for name, tensor in stored.items():
        for before, after in old.items():
            name = name.removesuffix(before) + after if name.endswith(before) else name
        if not is_left_out(name):
            kept[name] = tensor
    if left_out := len(stored) - len(kept):
        notes.append(f"{left_out} tensors left out that predict words, not vectors")
    return kept


def _class_entries(values: dict[str, Any], architecture: str) -> list[Entry]:
    labels = values.get("id2label")
    out = []
    if isinstance(labels, dict) and all(
        isinstance(k, str) and k.isdecimal() and isinstance(v, str) for k, v in labels.items()
    ):
        names = [labels[key] for key in sorted(labels, key=int)]
        out.append(Entry(f"{architecture}.classifier.output_labels", "array<string>", names))
    kind = {"mean": _MEAN, "cls": _CLS}.get(str(values.get("classifier_pooling")))
    if kind is not None:
        out.append(Entry(f"{architecture}.classifier.pooling_type", "u32", kind))
    return out


def _modules(folder: ModelFolder) -> tuple[int | None, list[str]]:
    """Reads sentence-transformers' modules.json: the pooling type, and the folders of dense
    projections in their order.
    """
    if not folder.has("modules.json"):
        return None, []
    path = folder.path / "modules.json"
    try:
        modules = json.loads(folder.read_text("modules.json", _CONFIG_LIMIT))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: not JSON: {error}") from None
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise ModelFileError(f"{path}: expected an array of objects")
    pooling, projections = None, []
    for module in modules:
        kind, name = str(module.get("type")), module.get("path")
        if kind.endswith(".Pooling"):
            pooling = _pooling(_inside(folder, name, path))
        elif kind.endswith(".Dense"):
            _inside(folder, name, path)
            projections.append(str(name))
    return pooling, projections


def _inside(folder: ModelFolder, name: object, path: Path) -> ModelFolder:
    if not isinstance(name, str) or not re.fullmatch(r"[\w-]{1,64}", name, re.ASCII):
        raise ModelFileError(
            f"{path}: 'path' must be the name of a folder, found {shown(repr(name))}"
        )
    return ModelFolder(folder.path / name)


def _pooling(module: ModelFolder) -> int:
    config = module.read_json("config.json", _CONFIG_LIMIT)
    named = {"mean": _MEAN, "cls": _CLS, "lasttoken": _LAST}
    flags = {
        "pooling_mode_mean_tokens": _MEAN,
        "pooling_mode_cls_token": _CLS,
        "pooling_mode_lasttoken": _LAST,
    }
    on = [kind for key, kind in flags.items() if config.get(key) is True]
    if not on and config.get("pooling_mode") in named:
        on = [named[config["pooling_mode"]]]
    if len(on) != 1:
        raise UnsupportedModelError(
            f"{module.path / 'config.json'}: must ask for one of mean, cls and lasttoken as pooling"
        )
    return on[0]


def _projection(folder: ModelFolder, name: str, number: int) -> Tensors:
    module = ModelFolder(folder.path / name)
    config = module.read_json("config.json", _CONFIG_LIMIT)
    activation = str(config.get("activation_function", "torch.nn.modules.linear.Identity"))
    if config.get("bias") is True or not activation.endswith(".Identity"):
        raise UnsupportedModelError(
            f"{module.path / 'config.json'}: a projection with a bias, or with an activation function, is not supported"
        )
    shown_path = str(module.path / "model.safetensors")
    file = SafetensorsFile(module.file("model.safetensors"), shown_path)
    return {f"{number}_Dense.{key}": tensor for key, tensor in file.tensors.items()}


# ---- Qwen's rerankers: a decoder whose answers "yes" and "no" are the scores


@dataclass(frozen=True)
class PickedRows:
    """Some rows of a matrix, in this order."""

    source: Stored
    picked: tuple[int, ...]
    name: str = "score.weight"

    @property
    def shown_path(self) -> str:
        return self.source.shown_path

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.picked), self.source.shape[1])

    @property
    def format(self) -> str:
        return self.source.format

    def rows(self, first: int, last: int, cols: int) -> npt.NDArray[np.float32]:
        return np.concatenate(
            [self.source.rows(row, row + 1, cols) for row in self.picked[first:last]]
        )


def reranker_part(
    folder: ModelFolder,
    architecture: Any,
    stored: dict[str, Stored],
    tokens: dict[str, int],
    part: EmbeddingPart,
    values: dict[str, Any],
) -> dict[str, Stored]:
    """The tensors with the rows of the answers, where it is such a model; or with the head that the checkpoint has in their place."""
    if architecture.causal and is_classifier(values):
        head = stored.get("score.weight")
        if head is None or len(head.shape) != 2:
            raise ModelFileError(f"{folder.path}: tensor 'score.weight' is missing")
        part.sizes["classes"] = head.shape[0]
        part.entries.append(Entry(f"{architecture.name}.pooling_type", "u32", _RANK))
        part.entries += _class_entries(values, architecture.name)
        if _says_reranker(folder):
            part.entries += _template_entries()
        return stored
    if architecture.name != "qwen3" or not _says_reranker(folder):
        return stored
    head = stored.get("lm_head.weight", stored.get("model.embed_tokens.weight"))
    answers = [tokens.get(text) for text in ("yes", "no")]
    if head is None or len(head.shape) != 2 or None in answers:
        raise ModelFileError(f"{folder.path}: a reranker without the tokens 'yes' and 'no'")
    prefix = architecture.name
    part.sizes["classes"] = 2
    part.entries += [
        Entry(f"{prefix}.pooling_type", "u32", _RANK),
        Entry(f"{prefix}.classifier.output_labels", "array<string>", ["yes", "no"]),
        *_template_entries(),
    ]
    picked = PickedRows(head, tuple(n for n in answers if n is not None))
    return {**stored, picked.name: picked}


def _template_entries() -> list[Entry]:
    return [
        Entry("tokenizer.chat_template.rerank", "string", _RERANK_TEMPLATE),
        Entry("tokenizer.chat_templates", "array<string>", ["rerank"]),
    ]


def _says_reranker(folder: ModelFolder) -> bool:
    if _RERANKER.search(folder.path.resolve().name):
        return True
    if not folder.has("README.md"):
        return False
    return bool(
        re.search(r"^# qwen3-reranker", folder.read_text("README.md", _CONFIG_LIMIT), re.I | re.M)
    )


def with_template_ends(
    entries: list[Entry], ends: tuple[int | None, int | None], part: EmbeddingPart, causal: bool
) -> list[Entry]:
    """Sets the tokens that stand before and after a text, for models whose vectors were trained
    with them there.
    """
    if causal and not part.pooled:
        return entries
    out = list(entries)
    for key, number in zip(("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"), ends):
        if number is None:
            continue
        own = Entry(key, "u32", number)
        out = [own if e.key == key else e for e in out]
        if own not in out:
            out.append(own)
    return out
