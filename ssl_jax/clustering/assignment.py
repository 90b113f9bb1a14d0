"""Images into clusters: a method's own prototypes, k-means or HDBSCAN, or clusters made before.

encoder = ssl_jax.load_encoder("runs/swav")
clusters = assignment.assign(encoder, images)
images[clusters.labels == 3]
assignment.save("clusters.npz", clusters, encoder)
others = assignment.assign(encoder, other_images, use=assignment.load("clusters.npz"))
"""

import dataclasses
import math
import secrets
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssl_jax.clustering import density, how_many, saved
from ssl_jax.clustering.fingerprint import fingerprint
from ssl_jax.clustering.placement import ClusterAssignment, to_centroids, to_sample, to_saved
from ssl_jax.clustering.saved import SavedClusters
from ssl_jax.inference.pretrained import Encoder
from ssl_jax.ops.kmeans import kmeans
from ssl_jax.ops.vectors import unit
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError

AUTO = "auto"
ITERATIONS = 100
FEWEST = 10  # clusters to look at, if nobody says how many
MOST = 20


def save(path: str | Path, clusters: ClusterAssignment, encoder: Encoder) -> None:
    """Writes clusters to a .npz file, whole or not at all; an existing one is replaced.

    Args:
        path: the file.
        clusters: as `assign` returns them.
        encoder: that they were made with.

    Raises:
        SettingError: the file cannot be written, or it exists and holds something else.
    """
    path = user_path(path, "path")
    if path.suffix.lower() != ".npz":
        raise SettingError(f"path={path}: give a file that ends in .npz")
    if path.exists() and not saved.holds_clusters(path):
        raise SettingError(f"path={path} holds something else than clusters; give another name")
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(4)}-new")
    try:
        to_save(clusters, encoder).write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise SettingError(f"path={path} cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def to_save(clusters: ClusterAssignment, encoder: Encoder) -> SavedClusters:
    """Clusters as `save` writes them; `encoder` is the one that they were made with."""
    return SavedClusters(
        centroids=clusters.centroids,
        kind=clusters.kind,
        settings=clusters.settings,
        encoder=fingerprint(encoder, encoder.clustered),
        names=clusters.names,
        sample=clusters.sample,
    )


def load(path: str | Path) -> SavedClusters:
    """Reads clusters that `save` or the command wrote, for `assign`.

    Raises:
        SettingError: no such file, or it cannot be used.
    """
    return saved.read(user_path(path, "path"), f"path={path}")


def assign(
    encoder: Encoder,
    images: np.ndarray,
    *,
    clusters: int | str = 0,
    by: str = "",
    restarts: int = 10,
    seed: int = 0,
    use: SavedClusters | None = None,
) -> ClusterAssignment:
    """Assigns images [N, H, W, C] uint8, of any size, to clusters.

    Args:
        encoder: from `ssl_jax.load_encoder`.
        images: the images to assign.
        clusters: K of k-means; "auto" chooses it, see `how_many.search`.
        by: "own": each image goes to the prototype with its highest score, without Sinkhorn-Knopp,
            as SwAV's authors assign images; "kmeans": k-means on the embeddings of these images;
            "hdbscan": their dense regions, as many as there are, and outliers, see
            `density.dense_regions`; "": own if there are prototypes and `clusters` is 0, else
            kmeans.
        restarts: runs of k-means, of which the one with the lowest inertia counts.
        seed: seed of k-means, and of the rows that "auto" and "hdbscan" look at.
        use: clusters made before, from `load`; nothing else is chosen then. One image is enough.

    Raises:
        ValueError: the encoder has no prototypes, the number of clusters is missing or does not
            fit, or the images cannot be used.
        SettingError: the clusters to use were made with another encoder.
    """
    if use:
        if clusters or by:
            raise ValueError("use: these clusters are made already; leave clusters and by out")
        use.check_encoder(fingerprint(encoder, encoder.clustered), "use")
        return to_saved(encoder(images, encoder.clustered), use)
    by = choice(encoder, clusters, by)
    check(by, clusters, len(images))
    features = encoder(images, encoder.clustered)
    if clusters == AUTO:
        clusters = how_many.search(unit(features), seed=seed).chosen
    assert isinstance(clusters, int)
    return of_features(encoder, features, by, clusters, restarts=restarts, seed=seed)


def choice(encoder: Encoder, clusters: int | str, by: str) -> str:
    """Resolves `by` to "own", "kmeans" or "hdbscan"; see `assign`.

    Raises:
        ValueError: another value, "own" without prototypes, or a number of clusters where it is not
            free.
    """
    if by not in ("", "own", "kmeans", "hdbscan"):
        raise ValueError(f"by={by!r}: choose own, kmeans or hdbscan")
    if by == "hdbscan" and clusters:
        raise ValueError(
            f"clusters={clusters}: hdbscan makes as many clusters as there are dense regions; "
            "leave clusters out or choose kmeans"
        )
    prototypes = encoder.prototypes
    if by == "own" and prototypes is None:
        raise ValueError(
            "by='own': this encoder has no prototypes; choose kmeans, with a number of clusters"
        )
    if by == "own" and prototypes is not None and clusters:
        raise ValueError(
            f"clusters={clusters}: the encoder has {len(prototypes)} clusters of its own; "
            "leave clusters out or choose kmeans"
        )
    return by or ("own" if prototypes is not None and not clusters else "kmeans")


def few_clusters(images: int) -> int:
    """A number of clusters to look at: 10 to 20, by the number of images; fewer below 20 images."""
    wanted = round(math.sqrt(images / 2))
    return max(2, min(max(wanted, FEWEST), MOST, images // 2))


def check(by: str, clusters: int | str, images: int) -> None:
    """Checks the numbers of images and clusters.

    Raises:
        ValueError: no images, or a number of clusters that k-means cannot make of them.
    """
    if not images:
        raise ValueError("there are no images")
    if by == "hdbscan" and images < density.FEWEST:
        raise ValueError(
            f"by='hdbscan': needs at least {density.FEWEST} images, there are {images}; choose "
            "kmeans, with a number of clusters"
        )
    if clusters == AUTO and images < how_many.FEWEST:
        raise ValueError(
            f"clusters={clusters}: needs at least {how_many.FEWEST} images, there are {images}; "
            "give a number"
        )
    if clusters == AUTO or by == "hdbscan":
        return
    if not isinstance(clusters, int):
        raise ValueError(f"clusters={clusters!r}: give a number, or {AUTO}")
    if by == "kmeans" and not clusters:
        raise ValueError("clusters=0: k-means needs a number of clusters")
    if by == "kmeans" and images == 1:
        raise ValueError(
            f"clusters={clusters}: there is only one image, k-means needs two; use the clusters of "
            "an earlier call (--use=NAME.npz)"
        )
    if by == "kmeans" and not 2 <= clusters <= images:
        raise ValueError(f"clusters={clusters}: between 2 and the {images:,} images")


def of_features(
    encoder: Encoder,
    features: np.ndarray | jax.Array,
    by: str,
    clusters: int = 0,
    *,
    restarts: int = 10,
    seed: int = 0,
) -> ClusterAssignment:
    """`assign` for precomputed features [N, D], without checks.

    Raises:
        ValueError: "hdbscan" sees outliers only.
    """
    points = unit(features)
    if by == "own":
        prototypes: Any = encoder.prototypes  # checked before
        return dataclasses.replace(to_centroids(points, prototypes), kind=by)
    if by == "hdbscan":
        centroids, sample = density.dense_regions(points, seed)
        settings = density.settings_for(len(points)) | dict(seed=seed)
        return dataclasses.replace(to_sample(points, centroids, sample), settings=settings)
    clustering = kmeans(
        jax.random.key(seed),
        points,
        clusters,
        iterations=ITERATIONS,
        restarts=restarts,
        metric="cosine",
    )
    settings = dict(clusters=clusters, restarts=restarts, iterations=ITERATIONS, seed=seed)
    return dataclasses.replace(to_centroids(points, clustering.centroids), settings=settings)
