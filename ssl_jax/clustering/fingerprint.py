"""What the clusters of an encoder depend on: its weights, and how it sees images."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from ssl_jax.inference.pretrained import Encoder


def fingerprint(encoder: Encoder, feature: str) -> dict[str, Any]:
    """The facts that a feature of an encoder depends on, as JSON.

    A run and the weight file that it was exported to have the same ones.

    Args:
        encoder: the encoder.
        feature: the name of the feature.

    Returns:
        "feature", "weights" (a hash of all arrays that the feature is computed from), "size" and
        "channels" of images, "mean", "std", "range" and "crop".
    """
    return dict(
        feature=feature,
        weights=_hash(encoder, feature),
        size=int(encoder.size),
        channels=int(encoder.channels),
        mean=[float(x) for x in encoder.mean],
        std=[float(x) for x in encoder.std],
        range=[float(x) for x in encoder.range],
        crop=float(encoder.crop),
    )


def differences(saved: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two fingerprints, such as "size 32 instead of 8"; empty: nothing."""
    words = []
    if saved["weights"] != here["weights"]:
        words.append("other weights")
    for name in here:
        if name != "weights" and saved[name] != here[name]:
            words.append(f"{name} {_shown(here[name])} instead of {_shown(saved[name])}")
    return ", ".join(words)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "(" + ", ".join(f"{x:g}" for x in value) + ")" if value else "()"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _hash(encoder: Encoder, feature: str) -> str:
    """A hash of the arrays that a feature is computed from, whatever they are called."""
    digests = []
    for leaf in _arrays_read(encoder, feature):
        array = np.asarray(leaf)
        digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
        digests.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:32]


def _arrays_read(encoder: Encoder, feature: str) -> list[Any]:
    """The arrays of the encoder's state that a feature is computed from.

    Banks, queues and the state of the optimiser are not among them.
    """
    leaves, tree = jax.tree.flatten(encoder.state)

    def compute(leaves: list[Any], images: jax.Array) -> jax.Array:
        return encoder.method.features(tree.unflatten(leaves), images, (feature,))[feature]

    image = jax.ShapeDtypeStruct((1, encoder.size, encoder.size, encoder.channels), jnp.float32)
    program = jax.make_jaxpr(compute)(leaves, image).jaxpr
    needed = {x for x in program.outvars if not isinstance(x, Literal)}
    for equation in reversed(program.eqns):
        if needed.intersection(equation.outvars):
            needed.update(x for x in equation.invars if not isinstance(x, Literal))
    return [leaf for leaf, x in zip(leaves, program.invars) if x in needed]
