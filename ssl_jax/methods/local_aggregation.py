"""Local Aggregation for unsupervised visual embeddings (Zhuang et al. 2019, arXiv 1903.12355)."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ssl_jax import interface
from ssl_jax.interface import Aux, Batch, Embed, RunFacts, TrainState, laid_out, no_progress
from ssl_jax.methods.common import collapse, features, memory_bank
from ssl_jax.models.network import Network
from ssl_jax.ops.collapse import evenness, spread
from ssl_jax.ops.kmeans import KMeans, kmeans, random_rows
from ssl_jax.ops.losses import aggregation_nll, close_probability
from ssl_jax.ops.memory import init_bank, update_bank
from ssl_jax.ops.mesh import COLUMNS, ROWS, padded_rows
from ssl_jax.ops.neighbours import cluster_mates, nearest
from ssl_jax.ops.types import Numbers
from ssl_jax.settings import ranges

CLOSE = ("clusters", "neighbours")


class AggregationState(struct.PyTreeNode):
    """The memory bank and which of its rows are close, padded; use the first N rows or columns.

    `bank` [N padded, D] as in Instance Discrimination. `labels` [H, N padded] int32: each row's
    clusters, if close means clusters. `neighbours` [N padded, k] int32: the rows nearest to each
    row, if close means neighbours. `normaliser`: Z of a warm-up by NCE.
    """

    bank: jax.Array = laid_out(ROWS)
    labels: jax.Array | None = laid_out(COLUMNS)
    neighbours: jax.Array | None = laid_out(ROWS)
    normaliser: jax.Array = struct.field(kw_only=True)


@dataclasses.dataclass(frozen=True)
class LocalAggregation(interface.Method):
    """Each image moves toward its close neighbours, on the scale set by its background neighbours.

    Background neighbours are the bank rows nearest to the feature; close ones are those among them
    that share a cluster with the image in at least one of H k-means clusterings of the bank. A
    random bank has no meaningful neighbourhoods, so training starts with Instance Discrimination, a
    stage with `objective="softmax"` ("nce" in the paper's ImageNet runs). The clusterings are made
    before the first step of the aggregation and renewed at regular intervals.

    k-means is as in the released code (20 iterations from random rows, distances of unit vectors),
    but a cluster that runs empty takes the farthest row. Unlike in the released PyTorch port,
    clusters exist before the first step, each row is weighted by its own background, and the last
    partial batch of an epoch is dropped.

    Attributes:
        network: set by `train.build`; the head's output is the embedding.
        objective: the loss: "aggregation"; or, for the warm-up, "softmax", "nce" or "sampled" as in
            Instance Discrimination.
        background: number of background neighbours, k; 0 for all rows (the published ablation).
        close: which rows are close neighbours: "clusters", those in the image's clusters; or
            "neighbours", the `close_neighbours` bank rows nearest to the image's row (ours; in the
            paper's ablation this is the nearest neighbours' set).
        clusters: number of clusters in each clustering, m.
        clusterings: number of clusterings, H.
        close_neighbours: number of close neighbours with close="neighbours", the image counted.
        kmeans_iterations: k-means iterations of each clustering.
        refresh_epochs: epochs between two sets of clusterings.
        refresh_steps: steps between two sets of clusterings; 0 uses `refresh_epochs`.
        samples: noise rows of a warm-up by "nce" or "sampled".
        normaliser: normalising constant Z of "nce"; 0 estimates it on the first batch.
        temperature: temperature that divides the similarities.
        momentum: share of the old row that stays in the bank.
    """

    network: Network
    objective: str = "aggregation"
    background: int = 4096
    close: str = "clusters"
    clusters: int = 30_000
    clusterings: int = 10
    close_neighbours: int = 10
    kmeans_iterations: int = 20
    refresh_epochs: float = 1.0
    refresh_steps: int = 0
    samples: int = 4096
    normaliser: float = 0.0
    temperature: float = 0.07
    momentum: float = 0.5
    facts: RunFacts = RunFacts()

    def __post_init__(self):
        memory_bank.check(
            self.objective,
            self.samples,
            temperature=self.temperature,
            momentum=self.momentum,
            normaliser=self.normaliser,
            others=("aggregation",),
        )
        if self.close not in CLOSE:
            raise ValueError(f"close={self.close!r}: choose {' or '.join(CLOSE)}")
        ranges.count(0, background=self.background, clusters=self.clusters)
        ranges.count(0, refresh_steps=self.refresh_steps, close_neighbours=self.close_neighbours)
        ranges.positive(refresh_epochs=self.refresh_epochs)
        ranges.between(0, ranges.EPOCHS, refresh_epochs=self.refresh_epochs)
        ranges.count(1, ranges.MANY, clusterings=self.clusterings)
        ranges.count(1, 10**6, kmeans_iterations=self.kmeans_iterations)

    def check(self, facts: RunFacts) -> None:
        """Raises ValueError if there are too few images for noise, background or clusters."""
        memory_bank.check_samples(self.objective, self.samples, facts.examples)
        images = f"the {facts.examples} training images"
        if self.background > facts.examples:
            raise ValueError(f"background={self.background}: between 0 (all) and {images}")
        if self.close == "clusters" and not 2 <= self.clusters <= facts.examples:
            raise ValueError(f"clusters={self.clusters}: between 2 and {images}")
        if self.close == "neighbours" and not 1 <= self.close_neighbours <= facts.examples:
            raise ValueError(f"close_neighbours={self.close_neighbours}: between 1 and {images}")

    def init(self, key: PRNGKeyArray, batch: Batch) -> tuple[dict[str, Any], Any, AggregationState]:
        """Network and bank; clusters or neighbours stay zero until the first refresh."""
        if len(batch.views) != 1:
            raise ValueError(
                f"local aggregation takes one view of an image, not {len(batch.views)}"
            )
        network_key, bank_key = jax.random.split(key)
        variables = self.network.init(network_key, batch.views, train=False)
        rows = padded_rows(self.facts.examples)
        by_cluster = self.close == "clusters"
        state = AggregationState(
            bank=init_bank(bank_key, rows, self.network.head.dim),
            labels=jnp.zeros((self.clusterings, rows), jnp.int32) if by_cluster else None,
            neighbours=None if by_cluster else jnp.zeros((rows, self.close_neighbours), jnp.int32),
            normaliser=jnp.float32(self.normaliser),
        )
        return {"network": variables["params"]}, variables["batch_stats"], state

    def loss(
        self, state: TrainState, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Aux]:
        """Minus the log of the close neighbours' share of the background, or the warm-up's loss."""
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        embedding, updated = self.network.apply(
            variables, batch.views, train=True, mutable="batch_stats"
        )
        bank = state.method.bank[: self.facts.examples]
        normaliser = state.method.normaliser
        embedded = jax.lax.stop_gradient(embedding[0])
        metrics = {"spread": spread(embedded)}
        if self.objective == "aggregation":
            close = self._close(state.method, batch.index)
            p, count = close_probability(
                embedding[0],
                bank,
                close,
                background=self.background,
                temperature=self.temperature,
            )
            loss = aggregation_nll(p)
            metrics["nothing_close"] = jnp.mean(p < 1e-6, dtype=jnp.float32)
            metrics["close"] = jnp.mean(count, dtype=jnp.float32)
        else:
            loss, normaliser = memory_bank.instance_loss(
                self.objective,
                embedding[0],
                bank,
                batch.index,
                key,
                temperature=self.temperature,
                samples=self.samples,
                normaliser=normaliser,
            )
        return loss, Aux(updated["batch_stats"], (embedded, normaliser), metrics)

    def _close(self, state: AggregationState, index: Int[Numbers, " B"]) -> Bool[Array, "B N"]:
        """The rows that are close to the images `index`."""
        examples = self.facts.examples
        if state.labels is not None:
            return cluster_mates(state.labels[:, :examples], index)
        assert state.neighbours is not None
        neighbours = state.neighbours[index]
        rows = jnp.broadcast_to(jnp.arange(len(index))[:, None], neighbours.shape)
        return jnp.zeros((len(index), examples), bool).at[rows, neighbours].set(True)

    def post_step(self, state: TrainState, aux: Aux, batch: Batch) -> TrainState:
        """Moves the bank rows of the batch toward this step's embeddings."""
        embedded, normaliser = aux.carry
        bank = update_bank(state.method.bank, batch.index, embedded, momentum=self.momentum)
        return state.replace(method=state.method.replace(bank=bank, normaliser=normaliser))

    def refresh_at(self, step: int) -> bool:
        """At the aggregation's first step, then every `refresh_epochs` or `refresh_steps`."""
        by_epochs = max(round(self.refresh_epochs * self.facts.steps_per_epoch), 1)
        every = self.refresh_steps or by_epochs
        return self.objective == "aggregation" and (step - self.facts.first_step) % every == 0

    def refresh(
        self,
        state: TrainState,
        embed: Embed,
        key: PRNGKeyArray,
        report: Callable[[str], None] = no_progress,
    ) -> tuple[TrainState, dict[str, Any]]:
        """H clusterings of the bank, or the nearest neighbours in it."""
        bank = state.method.bank
        examples = self.facts.examples
        padding = len(bank) - examples
        if self.close == "neighbours":
            neighbours = _neighbours(bank, examples, self.close_neighbours)
            padded = jnp.pad(neighbours, ((0, padding), (0, 0)))
            return state.replace(method=state.method.replace(neighbours=padded)), {}
        labels = []
        sizes = []
        for h in range(self.clusterings):
            report(f"clustering {h + 1} of {self.clusterings}")
            clustering = _cluster(
                jax.random.fold_in(key, h), bank, examples, self.clusters, self.kmeans_iterations
            )
            labels.append(jnp.pad(clustering.labels, (0, padding)))
            sizes.append(jnp.bincount(clustering.labels, length=self.clusters))
            jax.block_until_ready(labels)
        sizes = jnp.stack(sizes)
        values = {
            "cluster_size_min": sizes.min(),
            "cluster_size_median": jnp.median(sizes),
            "cluster_size_max": sizes.max(),
            "clusters_used": jnp.mean(jax.vmap(evenness)(sizes)),
        }
        return state.replace(method=state.method.replace(labels=jnp.stack(labels))), values

    def diagnose(self, metrics: Mapping[str, float]) -> str | None:
        """Warns of images without close neighbours, or of embeddings that are all the same."""
        if metrics.get("nothing_close", 0.0) > 0.5 and not collapse.same_embeddings(metrics):
            return collapse.sentence(
                f"{metrics['nothing_close']:.0%} of the images have no close neighbour in their "
                "background, so they learn nothing",
                "a longer warm-up (stages.warmup.until_epoch), a larger method.background, or "
                "fewer method.clusters",
            )
        return collapse.warning(
            metrics,
            "more method.clusters, a larger method.background, or a lower optim.learning_rate",
        )

    def features(
        self, state: TrainState, images: Float[Numbers, "B H W C"], names: tuple[str, ...]
    ) -> dict[str, Float[Array, "B ..."]]:
        """The network's features."""
        return features.chosen(
            self.network, state.params["network"], state.batch_stats, images, names
        )


def _clustered(
    key: PRNGKeyArray, bank: jax.Array, examples: int, clusters: int, iterations: int
) -> KMeans:
    points = bank[:examples]
    start, rest = jax.random.split(key)
    init = random_rows(start, points, clusters)
    return kmeans(rest, points, clusters, iterations=iterations, metric="euclidean", init=init)


def _nearest(bank: jax.Array, examples: int, k: int) -> jax.Array:
    return nearest(bank[:examples], bank[:examples], k)[1]


_cluster = jax.jit(_clustered, static_argnums=(2, 3, 4))
_neighbours = jax.jit(_nearest, static_argnums=(1, 2))

Method = LocalAggregation
