"""Figures in one style: arrays or records in, a matplotlib `Figure` out; no display is needed.

figures.neighbour_grid(images, queries, neighbours, similarity,
labels=labels).savefig("neighbours.png")
"""

from ssl_jax.figures.attention import attention_dynamics
from ssl_jax.figures.cluster_counts import how_many
from ssl_jax.figures.codes import prototypes
from ssl_jax.figures.context import neighbour_comparison
from ssl_jax.figures.curves import purity_curves, training_curves
from ssl_jax.figures.density import densities
from ssl_jax.figures.discovery import rounds
from ssl_jax.figures.maps import class_map, tsne
from ssl_jax.figures.neighbours import neighbour_grid

__all__ = [
    "attention_dynamics",
    "class_map",
    "densities",
    "how_many",
    "neighbour_comparison",
    "neighbour_grid",
    "prototypes",
    "purity_curves",
    "rounds",
    "training_curves",
    "tsne",
]
