"""Stricter than production: two CPU devices, no silent broadcasting, warnings are errors.

SSL_JAX_TEST_DEVICES sets another number of devices.

SSL_JAX_TEST_PLATFORM names another platform than the CPU, as JAX_PLATFORMS does ("": the best that
JAX has); see experiments/gpu/golden.py.
"""

import gc
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

# One compilation cache for all workers and subprocesses of this test run, which inherit the
# variable.
FIRST = "SSL_JAX_TEST_CACHE" not in os.environ
if FIRST:
    os.environ["SSL_JAX_TEST_CACHE"] = tempfile.mkdtemp(prefix="ssl_jax-tests-")
CACHE = os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["SSL_JAX_TEST_CACHE"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

PLATFORM = os.environ.get("SSL_JAX_TEST_PLATFORM", "cpu")
os.environ["JAX_PLATFORMS"] = PLATFORM

# Before JAX starts: less optimisation (faster compilation), and threads enough for the virtual
# devices.
FLAGS = ["--xla_backend_optimization_level=0"]
if version("jax").startswith("0.10."):  # gone since; half of the compilation time
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
if PLATFORM == "cpu":
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
os.environ.setdefault("NPROC", "16")
# Most of the time goes into tracing, lowering and compiling: no line numbers in programs, fewer
# garbage collections.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
gc.set_threshold(50_000, 20, 20)

import helpers.typecheck  # noqa: F401, the hook reads it by name
import jax
import numpy as np
import pytest
from jaxtyping import install_import_hook

# Shapes and types of arguments and results are checked where these rooms annotate them.
TYPED = ("ops", "positives", "evaluation", "methods", "inference.pretrained")
install_import_hook([f"ssl_jax.{room}" for room in TYPED], "helpers.typecheck.checked")

jax.config.update("jax_num_cpu_devices", int(os.environ.get("SSL_JAX_TEST_DEVICES", "2")))
jax.config.update("jax_numpy_rank_promotion", "raise")

# Workers take a file at a time, so that its fixtures are made once; the longest come first, and all
# end together.
LONGEST = (
    "test_run",
    "test_contract",
    "test_hosts",
    "test_bank_scale",
    "test_resume",
    "test_stream",
    "test_conr",
    "test_whole",
    "test_old_runs",
    "test_targets",
    "test_signals",
    "test_other_images",
    "test_ranges",
    "test_report",
)
GOLDEN = Path(__file__).parent / "golden"


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "golden: held to published numbers (those that use the fixture of this name)"
    )


def pytest_collection_modifyitems(items):
    for item in items:
        if "golden" in item.fixturenames:
            item.add_marker("golden")
    rank = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


def pytest_unconfigure():
    if FIRST:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def golden():
    """Loads one file of published numbers: golden("lars")["swav__after__weight"]."""

    def load(name):
        with np.load(GOLDEN / f"{name}.npz") as numbers:
            return dict(numbers)

    return load


@pytest.fixture
def key():
    return jax.random.key(0)
