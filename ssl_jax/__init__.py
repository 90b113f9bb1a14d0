"""Self-supervised learning by clustering and neighbourhoods, in JAX."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load_encoder":  # imported on demand: it is slow, and few modules need it
        from ssl_jax.inference.pretrained import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
