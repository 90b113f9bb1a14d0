"""The papers' sweeps by name, at the size of the digits, with what the papers report.

`python experiments/sweep.py --named=NAME` trains one, `python experiments/sweep.py --list` lists
them, and docs/sweeps.md has the results. Values are the papers' where a batch of digits allows
them; all networks have ten layers and most runs 40 epochs, so scores are not those of the recipes.
Reports marked "from memory" were not checked against the paper's text.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from sweep_grid import REFERENCE, Axis, Sweep
from sweep_tables import Claim

from ssl_jax.settings import defaults

__all__ = ["SWEEPS", "Named"]
SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Named:
    """A sweep of a paper.

    Attributes:
        sweep: the grid, at the size of the digits.
        source: the paper, and its figure or table.
        reports: what the paper says.
        claims: the same as orderings of cells.
    """

    sweep: Sweep
    source: str
    reports: str
    claims: Sequence[Claim] = ()


def _once(epochs: int, **evals: Any) -> dict[str, Any]:
    """Settings of a run on the digits that is scored and saved at its end only."""
    scored = {"knn": defaults.evaluator("knn"), "clustering": defaults.evaluator("clustering")}
    return {
        "epochs": epochs,
        "eval_epochs": epochs,
        "checkpoint_epochs": epochs,
        "model.depth": 10,
        "evals": scored | evals,
    }


def _conr(*axes: Axis) -> Sweep:
    """A sweep of CoNR's second stage: all cells of a seed share BYOL's 30 epochs."""
    return Sweep(
        "configs/conr.py:digits",
        axes,
        SEEDS,
        _once(60),
        reference={"positives.name": "instance"},
        share_epochs=30,
    )


def _swav(axis: Axis, **settings: Any) -> Sweep:
    evals = _once(40, linear=defaults.evaluator("linear"))
    return Sweep("configs/swav.py:digits", (axis,), SEEDS, evals | settings)


def _aggregation(*axes: Axis) -> Sweep:
    """A sweep of Local Aggregation, also scored by the nearest neighbour alone, as in the paper."""
    evals = _once(40, knn1=defaults.evaluator("knn", k=1) | {"name": "knn"})
    return Sweep("configs/local_aggregation.py:digits", axes, SEEDS, evals)


def _anchors(axis: Axis) -> Sweep:
    return Sweep("configs/anchor_neighbourhood.py:digits", (axis,), SEEDS, _once(40))


def _small_crops(count: int) -> dict[str, Any]:
    """The settings of `count` small crops: 6 of 8 pixels, of about half of a digit."""
    view = defaults.digits_view(count=count) | {"size": 6, "scale": (0.4, 0.7)}
    return {"augment.small": view}


def _labels(*labels: str) -> tuple[tuple[str, ...], ...]:
    """Cells of one axis."""
    return tuple((label,) for label in labels)


_GRAPHS = tuple((k1, k2) for k1 in ("5", "10", "20") for k2 in ("2", "5"))
_NEAREST = "knn1/top1"

SWEEPS = {
    "conr-keep": Named(
        _conr(Axis.of("positives.boundary.keep", 0.7, 0.8, 0.9, 1.0)),
        source="CoNR, figure 3a (CIFAR-10)",
        reports="fr(t0) of 0.7, 0.8 and 0.9 are about equal; 1, no filter, is noticeably worse.",
        claims=(
            Claim("0.7, 0.8, 0.9 are about equal", _labels("0.7", "0.8", "0.9")),
            Claim("0.7, 0.8, 0.9 above 1", _labels("0.7", "0.8", "0.9"), _labels("1")),
        ),
    ),
    "conr-graph": Named(
        _conr(Axis.of("positives.k1", 5, 10, 20), Axis.of("positives.k2", 2, 5)),
        source="CoNR, figure 3b (ImageNet-Dogs)",
        reports="All choices of k1 and k2 gain over the baseline, BYOL; larger ones gain more. "
        "(In a batch of 128 digits about 13 share a class.)",
        claims=(
            Claim("every graph above BYOL alone", _GRAPHS, _labels(REFERENCE)),
            Claim("k1, k2 = 20, 5 above 5, 2", (("20", "5"),), (("5", "2"),)),
        ),
    ),
    "swav-crops": Named(
        _swav(
            Axis(
                "crops",
                {"2": {}, "2 and 2 small": _small_crops(2), "2 and 4 small": _small_crops(4)},
            )
        ),
        source="SwAV, released results (ImageNet, 400 epochs)",
        reports="Linear 70.1 with two crops, 74.6 with two and six small ones.",
        claims=(
            Claim(
                "with small crops above without",
                _labels("2 and 2 small", "2 and 4 small"),
                _labels("2"),
                "linear/top1",
            ),
        ),
    ),
    "and-curriculum": Named(
        _anchors(Axis.of("method.curriculum", True, False)),
        source="AND, ablation (from memory)",
        reports="Adding anchors by rounds is better than taking all images at once.",
        claims=(Claim("by rounds above at once", _labels("True"), _labels("False"), "knn/top1"),),
    ),
    "and-neighbours": Named(
        _anchors(Axis.of("method.neighbours", 1, 5, 20)),
        source="AND, neighbourhood size (from memory)",
        reports="One neighbour is best; larger neighbourhoods are less consistent.",
        claims=(Claim("1 above 20", _labels("1"), _labels("20"), "knn/top1"),),
    ),
    "and-rounds": Named(
        _anchors(Axis.of("method.rounds", 1, 3, 4, 7)),
        source="AND and Super-AND, scores round by round",
        reports="kNN rises from round to round (Super-AND's log: 84.5, 87.4, 88.3, 89.1, 89.2). "
        "There every round takes 200 epochs; here the rounds share 40.",
        claims=(Claim("4 rounds above 1", _labels("4"), _labels("1"), "knn/top1"),),
    ),
    "la-close": Named(
        _aggregation(
            Axis.of("method.close", "clusters", "neighbours"), Axis.of("method.background", 512, 0)
        ),
        source="LA, ablation of C and B (from memory)",
        reports="Close neighbours from clusters are better than the nearest rows, and the nearest "
        "rows as background better than all rows (0).",
        claims=tuple(
            claim
            for score in (_NEAREST, "clustering/acc")
            for claim in (
                Claim(
                    "clusters above neighbours",
                    (("clusters", "512"),),
                    (("neighbours", "512"),),
                    score,
                ),
                Claim(
                    "512 above all, with clusters",
                    (("clusters", "512"),),
                    (("clusters", "0"),),
                    score,
                ),
            )
        ),
    ),
    "la-clusters": Named(
        _aggregation(
            Axis.of("method.clusters", 10, 30, 100), Axis.of("method.clusterings", 1, 3, 10)
        ),
        source="LA, ablation of m and H (from memory)",
        reports="More clusterings (H) are better than one; m is 30,000 of 1.28 million images.",
        claims=tuple(
            Claim("H = 10 above 1, with m = 30", (("30", "10"),), (("30", "1"),), score)
            for score in (_NEAREST, "clustering/acc")
        ),
    ),
    "swav-prototypes": Named(
        _swav(Axis.of("method.prototypes", 10, 32, 128, 512)),
        source="SwAV, number of prototypes (from memory), and its authors' answers",
        reports="Enough of them matter, about ten for each class; more change little.",
        claims=(
            Claim("128 above 10", _labels("128"), _labels("10"), "linear/top1"),
            Claim("128 and 512 are about equal", _labels("128", "512"), (), "linear/top1"),
        ),
    ),
    "swav-epsilon": Named(
        _swav(Axis.of("method.epsilon", 0.02, 0.05, 0.1, 0.5)),
        source="SwAV, section 3.1 (from memory)",
        reports="Epsilon is kept low (0.05): a large one makes all codes the same.",
        claims=(Claim("0.05 above 0.5", _labels("0.05"), _labels("0.5"), "linear/top1"),),
    ),
    "swav-queue": Named(
        _swav(Axis.of("method.queue_length", 0, 256, 1024), **{"method.queue_starts_epoch": 5.0}),
        source="SwAV, recipes of batch 256",
        reports="Small batches use a queue of 3,840; no score without it is published.",
    ),
    "la-background": Named(
        _aggregation(Axis.of("method.background", 64, 256, 1024, 0)),
        source="LA, ablation of B (from memory)",
        reports="4,096 nearest rows as background are better than all (0).",
        claims=(Claim("256 above all", _labels("256"), _labels("0"), _NEAREST),),
    ),
    "la-temperature": Named(
        _aggregation(Axis.of("method.temperature", 0.05, 0.07, 0.1, 0.2)),
        source="LA, section 3.2",
        reports="0.07, as in Instance Discrimination; no other value is reported.",
    ),
}
