"""Compiler options for the CPU, and JAX's compilation cache, which the commands turn on."""

import hashlib
import os
import platform
from pathlib import Path

import jax


def convolution_options() -> dict[str, str] | None:
    """Compiler options for programs full of convolutions; None, XLA's defaults, on a GPU or TPU.

    XLA's CPU compiler gives most convolutions to YNNPACK, whose kernel gradients take 1.2 to 12
    times as long as those of the Eigen code that they replace (docs/performance.md). Matrix
    products stay with YNNPACK.
    """
    if jax.default_backend() != "cpu":
        return None
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}


def enable_cache() -> None:
    """Caches compiled programs in ~/.cache/ssl_jax/xla (or under $XDG_CACHE_HOME).

    JAX's own settings win: JAX_COMPILATION_CACHE_DIR names another folder,
    JAX_ENABLE_COMPILATION_CACHE=false turns the cache off. Each kind of processor has a folder of
    its own, since CPU programs are not portable. If the folder cannot be written, there is no
    cache.
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
    """The architecture, and a hash of the processor's feature flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"
