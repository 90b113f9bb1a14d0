"""Warnings about collapsed training: the symptom, and what to try."""

from collections.abc import Mapping

COLLAPSED = 0.1  # spread at which the mean cosine of two rows is 0.99


def sentence(sign: str, remedies: str) -> str:
    """One line with the symptom and what to try in a new folder."""
    return f"{sign}. In a new folder try {remedies}"


def same_embeddings(metrics: Mapping[str, float]) -> str:
    """The symptom, if `spread` shows that all embeddings are nearly the same; otherwise ""."""
    if metrics["spread"] > COLLAPSED:
        return ""
    return f"the embeddings have collapsed (spread {metrics['spread']:.3f} of 1)"


def warning(metrics: Mapping[str, float], remedies: str) -> str | None:
    """One line if the embeddings collapsed to a point or into less than half of the clusters.

    Args:
        metrics: means with `spread`, and `clusters_used` (`evenness`) if the positives cluster.
        remedies: what to try; completes "In a new folder try".
    """
    if sign := same_embeddings(metrics):
        return sentence(sign, remedies)
    if metrics.get("clusters_used", 1.0) < 0.5:
        sign = f"the embeddings fall into {metrics['clusters_used']:.0%} of the clusters"
        return sentence(sign, f"a later second stage, fewer positives.k, {remedies}")
    return None
