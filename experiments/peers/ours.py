"""What ssl_jax does in each case."""

import time

import jax
import jax.numpy as jnp
from peers import made_up

from ssl_jax.evaluation.knn import weighted_knn
from ssl_jax.ops.kmeans import kmeans
from ssl_jax.ops.sinkhorn import sinkhorn


def hello(device):
    if device != "auto":
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(device, device))
    return {"device": jax.default_backend(), "name": jax.devices()[0].device_kind, "versions": {"jax": jax.__version__}}


def prepare(case):
    if case["kind"] == "step":
        from peers.our_step import step  # kernels need nothing of the loop

        return step(case)
    return {"sinkhorn": codes, "knn": neighbours, "kmeans": clusters}[case["kind"]](case)


def called(function, check):
    """A contender that waits for each call of `function`."""

    def run(calls):
        began = time.perf_counter()
        for _ in range(calls):
            found = jax.block_until_ready(function())
        return {"seconds": time.perf_counter() - began, **check(found)}

    return run


def codes(case):
    scores, function = jnp.asarray(made_up.scores(case["rows"], case["prototypes"], case["dead"])), jax.jit(sinkhorn)
    check = lambda found: {"finite": bool(jnp.isfinite(found).all())}
    return {}, {"ours": lambda: called(lambda: function(scores), check)}


def neighbours(case):
    *rows, wanted = (jnp.asarray(x) for x in made_up.neighbours(case))
    function = lambda: weighted_knn(*rows, k=case["k"], classes=case["classes"])
    check = lambda found: {"top1": float((found.argmax(1) == wanted).mean())}
    return {}, {"ours": lambda: called(function, check)}


def clusters(case):
    points, start = (jnp.asarray(x) for x in made_up.clustering(case))
    settings = dict(iterations=case["iterations"], metric="euclidean", init=start)
    function = lambda: kmeans(jax.random.key(0), points, case["clusters"], **settings)

    def check(found):
        return {"inertia": float(((points - found.centroids[found.labels]) ** 2).sum())}

    return {}, {"ours": lambda: called(function, check)}
