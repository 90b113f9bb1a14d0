"""Encoders and PyTorch, for tests of weight files."""

import numpy as np
import pytest

from ssl_jax.inference.embed import embed


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
