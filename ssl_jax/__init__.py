"""Self-supervised learning by clustering and neighbourhoods, in JAX."""


def __getattr__(name):
    if name == "load_encoder":  # on demand: the rest of the package does not need it
        from ssl_jax.pretrained import load_encoder

        return load_encoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
