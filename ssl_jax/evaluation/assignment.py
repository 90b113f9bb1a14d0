"""The method's own clusters scored against labels: SwAV's prototypes, an image at the nearest (Caron et al. 2020)."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ssl_jax import interface
from ssl_jax.evaluation import metrics
from ssl_jax.interface import no_progress


@dataclasses.dataclass(frozen=True)
class OwnClusters(interface.Evaluator):
    """Hungarian accuracy, NMI and ARI of the arg max over the feature `scores`, of all images trained on.

    Sinkhorn-Knopp balances codes over a batch while training; an image by itself goes to its nearest prototype. There
    are about ten prototypes a class as a rule: the one-to-one accuracy then counts a cluster a class, so NMI says more.

    Yields also `used`, the share of the K clusters (of the images, where they are fewer) that hold an image, labelled
    or not, and `largest`, the share of the images in the largest one.
    """

    needs = ("scores",)

    def run(self, splits, state, report=no_progress):
        scores, labels = jnp.asarray(splits["trained"].features["scores"]), splits["trained"].labels
        found = np.asarray(jnp.argmax(scores, axis=1))
        yield "acc", metrics.clustering_accuracy(labels, found)
        yield "nmi", metrics.normalized_mutual_info(labels, found)
        yield "ari", metrics.adjusted_rand_index(labels, found)
        sizes = np.bincount(found, minlength=scores.shape[1])
        yield "used", float((sizes > 0).sum() / min(scores.shape))
        yield "largest", float(sizes.max() / len(found))


Evaluator = OwnClusters
