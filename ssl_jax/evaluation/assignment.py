"""Scores of the method's clusters, such as SwAV's prototypes (Caron et al. 2020)."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax.numpy as jnp
import numpy as np

from ssl_jax import interface
from ssl_jax.evaluation import metrics
from ssl_jax.interface import Split, TrainState, no_progress


@dataclasses.dataclass(frozen=True)
class OwnClusters(interface.Evaluator):
    """Hungarian accuracy, NMI and ARI of the arg max over `scores`, for all images trained on.

    Sinkhorn-Knopp balances codes over a batch during training; here each image goes to its nearest
    prototype. There are usually about ten prototypes per class: the one-to-one accuracy then
    matches only one cluster to each class, so NMI says more.

    Also yields `used`, the share of the K clusters (or of the images, if they are fewer) that hold
    an image, labelled or not, and `largest`, the share of the images in the largest cluster.
    """

    @property
    def needs(self) -> tuple[str, ...]:
        return ("scores",)

    def run(
        self,
        splits: Mapping[str, Split],
        state: TrainState | None,
        report: Callable[[str], None] = no_progress,
    ) -> Iterator[tuple[str, float]]:
        labels = splits["trained"].labels
        scores = jnp.asarray(splits["trained"].features["scores"])
        clusters = np.asarray(jnp.argmax(scores, axis=1))
        yield "acc", metrics.clustering_accuracy(labels, clusters)
        yield "nmi", metrics.normalized_mutual_info(labels, clusters)
        yield "ari", metrics.adjusted_rand_index(labels, clusters)
        sizes = np.bincount(clusters, minlength=scores.shape[1])
        yield "used", float((sizes > 0).sum() / min(scores.shape))
        yield "largest", float(sizes.max() / len(clusters))


Evaluator = OwnClusters
