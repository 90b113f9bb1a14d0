"""k-means of scikit-learn and faiss, from the same rows and for as many iterations. Always on the CPU."""

import importlib
import time

from peers import made_up


def hello(device):
    versions = {}
    for name, module in (("scikit-learn", "sklearn"), ("faiss", "faiss")):
        try:
            versions[name] = importlib.import_module(module).__version__
        except ImportError:
            continue
    return {"device": "cpu", "versions": versions}


def prepare(case):
    if case["kind"] != "kmeans":
        return {}, {}
    makers = {"scikit-learn": with_sklearn, "faiss": with_faiss}
    return {}, {name: lambda make=make: make(case) for name, make in makers.items()}


def with_sklearn(case):
    from sklearn.cluster import KMeans

    points, start = made_up.clustering(case)
    settings = dict(init=start, n_init=1, max_iter=case["iterations"], tol=0, algorithm="lloyd")
    return timed(lambda: KMeans(case["clusters"], **settings).fit(points).inertia_)


def with_faiss(case):
    import faiss

    points, start = made_up.clustering(case)

    def fit():
        settings = dict(niter=case["iterations"], max_points_per_centroid=10**7)
        found = faiss.Kmeans(points.shape[1], case["clusters"], **settings)
        found.train(points, init_centroids=start)
        return found.index.search(points, 1)[0].sum()

    return timed(fit)


def timed(fit):
    """A contender that calls `fit`, which returns the sum of squared distances."""

    def run(calls):
        began = time.perf_counter()
        for _ in range(calls):
            inertia = fit()
        return {"seconds": time.perf_counter() - began, "inertia": float(inertia)}

    return run
