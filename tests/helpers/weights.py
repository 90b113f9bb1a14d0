"""Encoders and PyTorch, for tests of weight files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.inference.embed import embed
from ssl_jax.models import torch_weights


def everything(encoder, images):
    """All features of an encoder, from one pass."""
    settings = dict(size=encoder.size, mean=encoder.mean, std=encoder.std)
    return {
        name: np.asarray(x)
        for name, x in embed(
            encoder.method, encoder.state, images, encoder.names, **settings
        ).items()
    }


def torchs():
    """PyTorch and torchvision, or the test is skipped."""
    reason = "needs PyTorch and torchvision, which are optional: pip install torch torchvision"
    return pytest.importorskip("torch", reason=reason), pytest.importorskip(
        "torchvision", reason=reason
    )


def random_tensors(network, channels=3):
    """Weights of a ResNet by torchvision's names, with features of about 1."""
    shapes = jax.eval_shape(
        lambda key: network.init(key, jnp.zeros((1, 32, 32, channels)), train=False),
        jax.random.key(0),
    )
    empty = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    rng = np.random.default_rng(0)
    tensors = {}
    for name, x in torch_weights.to_torch(empty).items():
        drawn = rng.standard_normal(x.shape)
        if name.endswith("running_var"):
            drawn = 1 + 0.5 * np.tanh(drawn)
        elif x.ndim == 1:
            drawn = 0.1 * drawn + 0.5 * name.endswith("weight")
        else:
            drawn *= np.sqrt(2 / np.prod(x.shape[1:]))
        tensors[name] = drawn.astype(np.float32)
    return tensors
