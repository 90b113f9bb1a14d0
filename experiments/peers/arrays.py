"""k-means of scikit-learn and faiss on the CPU, with the same start and number of iterations."""

import importlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from peers import made_up

Case = Mapping[str, Any]
Contender = Callable[[int], dict[str, Any]]  # number of calls -> seconds and checks


def hello(device: str) -> dict[str, Any]:
    """What serves this side; libraries that are not installed are omitted."""
    versions = {}
    for name, module in (("scikit-learn", "sklearn"), ("faiss", "faiss")):
        try:
            versions[name] = importlib.import_module(module).__version__
        except ImportError:
            continue
    return {"device": "cpu", "versions": versions}


def prepare(case: Case) -> tuple[dict, dict[str, Callable[[], Contender]]]:
    """Facts about the case, and the contenders by name."""
    if case["kind"] != "kmeans":
        return {}, {}
    makers = {"scikit-learn": with_sklearn, "faiss": with_faiss}
    return {}, {name: lambda make=make: make(case) for name, make in makers.items()}


def with_sklearn(case: Case) -> Contender:
    """scikit-learn's k-means as a contender."""
    from sklearn.cluster import KMeans

    points, start = made_up.clustering(case)
    settings = dict(init=start, n_init=1, max_iter=case["iterations"], tol=0, algorithm="lloyd")
    return timed(lambda: KMeans(case["clusters"], **settings).fit(points).inertia_)


def with_faiss(case: Case) -> Contender:
    """faiss's k-means as a contender."""
    import faiss

    points, start = made_up.clustering(case)

    def fit() -> float:
        settings = dict(niter=case["iterations"], max_points_per_centroid=10**7)
        kmeans = faiss.Kmeans(points.shape[1], case["clusters"], **settings)
        kmeans.train(points, init_centroids=start)
        return kmeans.index.search(points, 1)[0].sum()

    return timed(fit)


def timed(fit: Callable[[], float]) -> Contender:
    """A contender that calls `fit`, which returns the sum of squared distances."""

    def run(calls: int) -> dict[str, float]:
        began = time.perf_counter()
        for _ in range(calls):
            inertia = fit()
        return {"seconds": time.perf_counter() - began, "inertia": float(inertia)}

    return run
