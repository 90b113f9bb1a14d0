"""Signs of collapse in the records of a run: spread, prototypes and clusters in use."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

SIGNS = {  # name of a metric -> what the progress bar and reports call it
    "spread": "spread",
    "prototypes_used": "prototypes in use",
    "clusters_used": "clusters in use",
}


def shown_signs(metrics: Mapping[str, float]) -> dict[str, str]:
    """Spread, and the share of prototypes or clusters in use, as far as they are known.

    Prototypes are counted in a batch, of as many as it can use. The share of clusters is effective:
    k of K equal clusters are k / K, and nearly empty ones hardly count.

    Args:
        metrics: by name, without "train/" or "refresh/".

    Returns:
        values as text, by the labels of `SIGNS`.
    """
    known = {name: label for name, label in SIGNS.items() if name in metrics}
    return {
        label: f"{metrics[name]:.2f}" if name == "spread" else f"{metrics[name]:.0%}"
        for name, label in known.items()
    }


def short(record: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of training steps and refreshes in a record, without "train/" and "refresh/"."""
    return {
        name.partition("/")[2]: value
        for name, value in record.items()
        if name.startswith(("train/", "refresh/"))
    }


def means(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means of what was logged in the last epoch: metrics by name ("loss").

    Metrics of refreshes are those of the last refresh, unless training steps log the same.
    """
    logged = [record for record in records if "train/loss" in record and "epoch" in record]
    if not logged:
        return {}
    start = logged[-1]["epoch"] - 1
    values: dict[str, list[float]] = {}
    for record in logged:
        if record["epoch"] > start:
            for name, value in short(record).items():
                values.setdefault(name, []).append(value)
    refreshes = [record for record in records if "refresh" in record]
    refreshed = short(refreshes[-1]) if refreshes else {}
    return refreshed | {name: math.fsum(x) / len(x) for name, x in values.items()}
