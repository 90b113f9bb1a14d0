"""Stricter than production: two CPU devices, no silent broadcasting, warnings are errors (pyproject.toml)."""

import os
import shutil
import tempfile
from pathlib import Path

# One compilation cache for all workers and subprocesses of this test run.
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
CACHE = Path(tempfile.gettempdir()) / f"ssl_jax-tests-{RUN}"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# Before JAX starts: less optimisation (faster compilation), and threads enough for the virtual devices.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
os.environ.setdefault("NPROC", "16")
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import pytest

import ssl_jax.methods

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_rank_promotion", "raise")

# A method of the tests' own, found by its file's name like any other.
ssl_jax.methods.__path__.append(str(Path(__file__).parent / "plugins"))

GOLDEN = Path(__file__).parent / "golden"


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def golden():
    """Loads one file of published numbers: golden("lars")["swav__after__weight"]."""
    return lambda name: np.load(GOLDEN / f"{name}.npz")


@pytest.fixture
def key():
    return jax.random.key(0)
