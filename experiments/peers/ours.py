"""ssl_jax's side of each case."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from peers import made_up

from ssl_jax.evaluation.knn import weighted_knn
from ssl_jax.ops.kmeans import KMeans, kmeans
from ssl_jax.ops.sinkhorn import sinkhorn

Case = Mapping[str, Any]
Contender = Callable[[int], dict[str, Any]]  # number of calls -> seconds and checks
Prepared = tuple[dict[str, Any], dict[str, Callable[[], Contender]]]


def hello(device: str) -> dict[str, Any]:
    """Device and versions, after choosing the platform."""
    if device != "auto":
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(device, device))
    return {
        "device": jax.default_backend(),
        "name": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__},
    }


def prepare(case: Case) -> Prepared:
    """Facts about the case, and the contenders by name."""
    if case["kind"] == "step":
        from peers.our_step import step  # kernels need nothing of the loop

        return step(case)
    return {"sinkhorn": codes, "knn": neighbours, "kmeans": clusters}[case["kind"]](case)


def called(function: Callable[[], Any], check: Callable[[Any], dict[str, Any]]) -> Contender:
    """A contender that waits for each call of `function`."""

    def run(calls: int) -> dict[str, Any]:
        began = time.perf_counter()
        for _ in range(calls):
            result = jax.block_until_ready(function())
        return {"seconds": time.perf_counter() - began, **check(result)}

    return run


def codes(case: Case) -> Prepared:
    """Sinkhorn-Knopp."""
    scores = jnp.asarray(made_up.scores(case["rows"], case["prototypes"], case["dead"]))
    function = jax.jit(sinkhorn)

    def check(codes: jax.Array) -> dict[str, Any]:
        return {"finite": bool(jnp.isfinite(codes).all())}

    return {}, {"ours": lambda: called(lambda: function(scores), check)}


def neighbours(case: Case) -> Prepared:
    """Weighted kNN."""
    arrays = (jnp.asarray(x) for x in made_up.neighbours(case))
    bank, bank_labels, queries, labels = arrays

    def function() -> jax.Array:
        return weighted_knn(bank, bank_labels, queries, k=case["k"], classes=case["classes"])

    def check(scores: jax.Array) -> dict[str, Any]:
        return {"top1": float((scores.argmax(1) == labels).mean())}

    return {}, {"ours": lambda: called(function, check)}


def clusters(case: Case) -> Prepared:
    """k-means."""
    points, start = (jnp.asarray(x) for x in made_up.clustering(case))
    settings = dict(iterations=case["iterations"], metric="euclidean", init=start)

    def function() -> KMeans:
        return kmeans(jax.random.key(0), points, case["clusters"], **settings)

    def check(result: KMeans) -> dict[str, Any]:
        return {"inertia": float(((points - result.centroids[result.labels]) ** 2).sum())}

    return {}, {"ours": lambda: called(function, check)}
