"""The fingerprint names everything that decides an answer apart from the request."""

from __future__ import annotations

import hashlib

import hrun
from hrun.cli.hub import parts_of
from hrun.runtime import Runtime

_SAMPLES = 64  # of a file
_SAMPLE_BYTES = 1 << 16


def fingerprint(runtime: Runtime) -> str:
    """``fp_`` and a hash of all that decides an answer beside the request: hrun, weights, cache format, device.

    Of the model's files the sizes and 64 samples each are hashed, not every byte.
    """
    model = runtime.model
    state: dict[str, object] = {
        "hrun": hrun.__version__,
        "device": model.description.split(",")[0] if "cuda" in model.description.lower() else "cpu",
        "cache": runtime.cache_formats,
        "rotation": runtime.rotation,
        "pre_tokenizer": runtime.pre_tokenizer,
    }
    digest = hashlib.blake2b(repr(sorted(state.items())).encode(), digest_size=8)
    for part in parts_of(runtime.model_path.name):
        path = runtime.model_path.with_name(part)
        size = path.stat().st_size
        digest.update(str(size).encode())
        with path.open("rb") as file:
            for i in range(_SAMPLES):
                file.seek(max(size - _SAMPLE_BYTES, 0) * i // (_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return "fp_" + digest.hexdigest()
