"""The compilation cache is on by default, where JAX's own settings do not say otherwise."""

import os
import subprocess
import sys

import pytest
from helpers.runs import TESTS

SCRIPT = """
import jax, jax.numpy as jnp
from ssl_jax.runtime import compilation
compilation.enable_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
"""


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, "home/ssl_jax/xla"),
        ({"JAX_COMPILATION_CACHE_DIR": "own"}, "own"),
        ({"JAX_ENABLE_COMPILATION_CACHE": "0"}, None),
    ],
)
def test_where_programs_are_kept(changes, place, tmp_path):
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("JAX_COMPILATION", "JAX_PERSISTENT"))
    }
    env |= {"PYTHONPATH": str(TESTS.parent), "XDG_CACHE_HOME": str(tmp_path / "home")}
    env |= {k: str(tmp_path / v) if k.endswith("DIR") else v for k, v in changes.items()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    kept = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert bool(kept) == bool(place)
    assert all(p.is_relative_to(tmp_path / (place or "")) for p in kept)
