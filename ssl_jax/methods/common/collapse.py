"""What methods say of a training that has collapsed: the sign, and what to try."""

COLLAPSED = 0.1  # a spread below this: the mean cosine of two rows is above 0.99


def sentence(sign: str, remedies: str) -> str:
    """One line: the sign, and what to try in a new folder."""
    return f"{sign}. In a new folder try {remedies}"


def same_embeddings(metrics) -> str:
    """The sign that all embeddings are the same, where `metrics`, means with `spread`, show it; else nothing."""
    if metrics["spread"] > COLLAPSED:
        return ""
    return f"the embeddings have collapsed (spread {metrics['spread']:.3f} of 1)"


def warning(metrics, remedies: str) -> str | None:
    """One line where embeddings have collapsed, to one point or to less than half of the clusters; else None.

    Args:
        metrics: means with `spread`, and `clusters_used` (`evenness`) where positives cluster.
        remedies: what to try, after "In a new folder try".
    """
    if sign := same_embeddings(metrics):
        return sentence(sign, remedies)
    if metrics.get("clusters_used", 1.0) < 0.5:
        sign = f"the embeddings fall into {metrics['clusters_used']:.0%} of the clusters"
        return sentence(sign, f"a later second stage, fewer positives.k, {remedies}")
    return None
