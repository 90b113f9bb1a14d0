"""Stricter than production: two CPU devices, no silent broadcasting, warnings are errors (pyproject.toml)."""

import os

# Before JAX starts: less optimisation (faster compilation), and threads enough for the virtual devices.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
os.environ.setdefault("NPROC", "16")
os.environ["JAX_PLATFORMS"] = "cpu"

from pathlib import Path

import jax
import numpy as np
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden():
    """Loads one file of published numbers: golden("lars")["swav__after__weight"]."""
    return lambda name: np.load(GOLDEN / f"{name}.npz")


@pytest.fixture
def key():
    return jax.random.key(0)
