"""How programs are compiled: options for the CPU, and JAX's compilation cache, on by default in the commands."""

import hashlib
import os
import platform
from pathlib import Path

import jax


def convolution_options() -> dict | None:
    """Compiler options for programs full of convolutions; None, XLA's defaults, on a GPU or TPU.

    XLA's CPU compiler gives most convolutions to YNNPACK, whose kernel gradients take 1.2 to 12 times as long as
    those of the Eigen code that they replace (docs/performance.md). Matrix products stay with it.
    """
    if jax.default_backend() != "cpu":
        return None
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def enable_cache() -> None:
    """Keeps compiled programs in ~/.cache/ssl_jax/xla (or under $XDG_CACHE_HOME).

    JAX's own settings win: JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=false
    turns it off. Each kind of processor has a folder of its own, since CPU programs do not travel. Where nothing can be
    written, programs are compiled anew.
    """
    if jax.config.jax_compilation_cache_dir:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "ssl_jax" / "xla" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _processor() -> str:
    """The architecture, and a hash of what the processor says it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        able = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        able = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(able.encode()).hexdigest()[:8]}"
