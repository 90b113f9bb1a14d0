"""Self-supervised learning by clustering and neighbourhoods, in JAX."""

__version__ = "0.1.0"


def __getattr__(name):
    if name == "load_encoder":  # on demand: the rest of the package does not need it
        from ssl_jax.inference.pretrained import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
