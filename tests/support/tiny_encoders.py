"""Tiny random encoders, made by transformers: the oracle for vectors and scores of texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from encoder_references import Reference, write_jina, write_nomic_moe
from tiny_hf import tokenizer_json

N_VOCAB = 320
_SIZES = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.15,
}
_GEMMA = {
    "num_key_value_heads": 2,
    "num_hidden_layers": 7,
    "head_dim": 32,
    "sliding_window": 32,
    "query_pre_attn_scalar": 32,
    "use_bidirectional_attention": True,
}
_MODERN = {"local_attention": 16, "num_hidden_layers": 4, "cls_token_id": 1, "sep_token_id": 2}
_DISTILBERT = {"dim": 64, "hidden_dim": 96, "n_layers": 3, "n_heads": 4}
TEXT = [
    "the quick brown fox jumps over the lazy dog, and then it's 1234 times as quick again",
    "it was the best of times, it was the worst of times; we'll see what the times will be",
    "Über den Wolken — naïve café façade, Straße und Größe",
    "Ελληνικά γράμματα και русские буквы и українська мова",
    "日本語の文章と中文句子以及한국어 문장도 있습니다",
    "हिन्दी पाठ और বাংলা লেখা ภาษาไทย tiếng Việt עברית العربية",
]


@dataclass(frozen=True)
class TinyEncoder:
    """architecture: its name in hrun.  config: the class of transformers' configuration, and changes to the sizes above.

    model: transformers' class.  tokenizer: "words" (WordPiece), "pieces" (Unigram) or "bytes".  reference: writes the
    checkpoint of a model that transformers lacks.
    """

    architecture: str
    model: str
    config: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str = "words"
    reference: Callable[[Path, int], Reference] | None = None


ENCODERS: dict[str, TinyEncoder] = {
    "bert": TinyEncoder("bert", "BertModel", "BertConfig"),
    "bert, masked words": TinyEncoder("bert", "BertForMaskedLM", "BertConfig"),
    "bert, scores": TinyEncoder(
        "bert", "BertForSequenceClassification", "BertConfig", {"num_labels": 1}
    ),
    "xlm-roberta": TinyEncoder(
        "bert",
        "XLMRobertaModel",
        "XLMRobertaConfig",
        {
            "pad_token_id": 1,
            "bos_token_id": 0,
            "max_position_embeddings": 258,
            "type_vocab_size": 1,
        },
        "pieces",
    ),
    "xlm-roberta, scores": TinyEncoder(
        "bert",
        "XLMRobertaForSequenceClassification",
        "XLMRobertaConfig",
        {
            "pad_token_id": 1,
            "bos_token_id": 0,
            "max_position_embeddings": 258,
            "type_vocab_size": 1,
            "num_labels": 1,
        },
        "pieces",
    ),
    "distilbert": TinyEncoder("bert", "DistilBertModel", "DistilBertConfig", _DISTILBERT),
    "distilbert, masked words": TinyEncoder(
        "bert", "DistilBertForMaskedLM", "DistilBertConfig", _DISTILBERT
    ),
    "nomic": TinyEncoder("nomic-bert", "NomicBertModel", "NomicBertConfig"),
    "nomic, experts": TinyEncoder(
        "nomic-bert-moe", "", "", tokenizer="pieces", reference=write_nomic_moe
    ),
    "jina 2": TinyEncoder("jina-bert-v2", "", "", reference=write_jina),
    "modern": TinyEncoder("modern-bert", "ModernBertModel", "ModernBertConfig", _MODERN, "bytes"),
    "modern, silu": TinyEncoder(
        "modern-bert",
        "ModernBertModel",
        "ModernBertConfig",
        {**_MODERN, "hidden_activation": "silu"},
        "bytes",
    ),
    "modern, scores": TinyEncoder(
        "modern-bert",
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        {**_MODERN, "num_labels": 3, "classifier_pooling": "mean"},
        "bytes",
    ),
    "embedding gemma": TinyEncoder(
        "gemma-embedding", "Gemma3TextModel", "Gemma3TextConfig", _GEMMA, "bytes"
    ),
}


def word_tokenizer(n_vocab: int = N_VOCAB, lowercase: bool = True) -> str:
    """A WordPiece tokenizer.json as BERT's, with [CLS] and [SEP] around a text."""
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=n_vocab, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer.to_str()


def piece_tokenizer(n_vocab: int = N_VOCAB) -> str:
    """A Unigram tokenizer.json as XLM-RoBERTa's, with <s> and </s> around a text."""
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=n_vocab, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer.to_str()


def tokenizer_of(kind: str) -> str:
    makers = {"words": word_tokenizer, "pieces": piece_tokenizer, "bytes": tokenizer_json}
    return makers[kind](N_VOCAB)


def write_encoder(
    name: str, folder: Path, *, pooling: str | None = None, dense: bool = False, **changes: Any
) -> Any:
    """Writes the folder and returns the model, float32.

    pooling: sentence-transformers' "mean", "cls" or "lasttoken".  dense: with two projections behind it, whose weights are
    the attribute `projections` of the model.
    """
    import torch
    import transformers

    tiny = ENCODERS[name]
    if tiny.reference is not None:
        made = tiny.reference(folder, N_VOCAB)
        (folder / "tokenizer.json").write_text(tokenizer_of(tiny.tokenizer), encoding="utf-8")
        return made
    torch.manual_seed(0)
    config = getattr(transformers, tiny.config)(**{**_SIZES, **tiny.changes, **changes})
    model = getattr(transformers, tiny.model)(config).float().eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if value.ndim == 1:  # norms of 1 and biases of 0 would hide mistakes
                value.add_(0.3 * torch.randn_like(value))
            elif "embeddings" in key:
                value.add_(0.3 * torch.randn_like(value))
    model.save_pretrained(folder)
    if (
        tiny.architecture == "gemma-embedding"
    ):  # its configuration halves the window whenever it is read
        path = folder / "config.json"
        values = json.loads(path.read_text())
        path.write_text(json.dumps({**values, "sliding_window": _GEMMA["sliding_window"]}))
    (folder / "tokenizer.json").write_text(tokenizer_of(tiny.tokenizer), encoding="utf-8")
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    ]
    if pooling is not None:
        modules.append(_module(folder, 1, "Pooling", {f"pooling_mode_{pooling}": True}))
    if dense:
        from safetensors.torch import save_file

        width = model.config.hidden_size
        model.projections = [torch.randn(2 * width, width), torch.randn(width, 2 * width)]
        for i, weight in enumerate(model.projections):
            kind = {
                "in_features": weight.shape[1],
                "out_features": weight.shape[0],
                "bias": False,
                "activation_function": "torch.nn.modules.linear.Identity",
            }
            modules.append(_module(folder, i + 2, "Dense", kind))
            save_file({"linear.weight": weight}, folder / f"{i + 2}_Dense" / "model.safetensors")
    if len(modules) > 1:
        (folder / "modules.json").write_text(json.dumps(modules))
    return model


def _module(folder: Path, number: int, kind: str, config: dict[str, Any]) -> dict[str, Any]:
    path = folder / f"{number}_{kind}"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return {
        "idx": number,
        "name": str(number),
        "path": path.name,
        "type": f"sentence_transformers.models.{kind}",
    }


def write_plain_bert(
    folder: Path, *, pooling: str = "mean_tokens", classes: int = 0, seed: int = 0
) -> Path:
    """A random BERT by numpy alone; with `classes` one that scores pairs.  Returns the folder."""
    import numpy as np

    from tiny_hf import write_safetensors

    embd, ff, layers, context = 64, 96, 2, 128
    rng = np.random.default_rng(seed)

    def random(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.2).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": random(N_VOCAB, embd),
        "embeddings.position_embeddings.weight": random(context, embd),
        "embeddings.token_type_embeddings.weight": random(2, embd),
    }

    def linear(name: str, rows: int, cols: int) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = random(rows, cols), random(rows)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = 1 + random(embd), random(embd)

    norm("embeddings.LayerNorm")
    for i in range(layers):
        p = f"encoder.layer.{i}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{p}attention.{part}", embd, embd)
        norm(f"{p}attention.output.LayerNorm")
        linear(f"{p}intermediate.dense", ff, embd)
        linear(f"{p}output.dense", embd, ff)
        norm(f"{p}output.LayerNorm")
    linear("pooler.dense", embd, embd)
    if classes:
        linear("classifier", classes, embd)
        weights = {n if n.startswith("classifier") else f"bert.{n}": w for n, w in weights.items()}
    folder.mkdir(parents=True)
    write_safetensors(folder / "model.safetensors", weights, "F32")
    config = {
        "architectures": ["BertForSequenceClassification" if classes else "BertModel"],
        "model_type": "bert",
        "hidden_size": embd,
        "intermediate_size": ff,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "max_position_embeddings": context,
        "vocab_size": N_VOCAB,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
        "type_vocab_size": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(word_tokenizer(), encoding="utf-8")
    module = _module(folder, 1, "Pooling", {f"pooling_mode_{pooling}": True})
    (folder / "modules.json").write_text(json.dumps([module]))
    return folder
