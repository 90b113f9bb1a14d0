"""One line at the end of a run: whether it learnt, from what is on record, and what to try."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ssl_jax.runs.scores import FEATURES, LARGEST_CLASS, Scores, score_label
from ssl_jax.settings.text import counted

_DECIDING = (
    "classifier/top1",
    "knn/top1",
    "knn_live/top1",
    "linear/top1",
    "probe/top1",
    "augmented/top1",
)
_NEAR_CHANCE = 0.9  # of ln K, above which SwAV's loss is named
_UNTRAINED = 0.98  # of the loss of an untrained network, above which a bank's loss is named
_UNIFORM = 0.9  # entropy of the codes over ln K
_SHARP = 0.5
_FEWEST = 2  # prototypes
_POINT = 0.1  # spread at which embeddings are nearly one point
_TRAINED = FEATURES["eval"]


def verdict(
    rows: Mapping[str, Scores],
    metrics: Mapping[str, float],
    settings: Mapping[str, Any],
    *,
    tests: int = 0,
    stored: int = 0,
    standing: str | None = None,
) -> str:
    """The verdict on a finished run, in one line; empty if nothing is known.

    The first rule that applies opens the line:

    1. The collapse monitor's warning still stands: that warning, which names what to try.
    2. There is an accuracy of the trained encoder (its own classifier, kNN, else a linear
       classifier). It is better than another if it is higher by more than two standard errors of
       the difference of two independent shares of `tests` images; anything less is called no
       better, or not clearly better. The largest class, the untrained encoder (or the one before
       this run) and raw pixels are compared in this order, and the first that is not beaten is
       named. "learnt" stands only where at least one encoder
       was beaten, and every row on record.
    3. Otherwise there are no scores to judge by, and loss and spread are reported as they are.

    A loss near its value at chance is added to 2 and 3:

    - `loss_over_ln_k` of at least 0.9: SwAV's loss near ln K, where a prediction says nothing of a
      code. Whether codes are nearly uniform, say little or are sharp, follows from their entropy.
    - `loss_over_chance` of at least 0.98: Instance Discrimination's loss as of an untrained
      network.

    What to try is named by settings that the run has.

    Args:
        rows: scores by kind of features, as `scores.latest_scores` returns them.
        metrics: means over the last epoch, see `in_use.means`.
        settings: all settings of the run, as plain dicts.
        tests: number of labelled test images.
        stored: side in pixels that images are stored at.
        standing: the collapse monitor's warning, if it still stands.
    """
    if standing:
        return standing
    remedies = []
    name = next((name for name in _DECIDING if name in rows.get(_TRAINED, {})), "")
    if name:
        can_improve, text = _compared(rows, name, tests)
        if can_improve:
            remedies += ["more epochs", *_larger_views(settings, stored)]
    elif "loss" in metrics:
        text = _unlabelled(metrics)
    else:
        return ""
    if chance := _near_chance(metrics):
        text += f"; {chance}"
        remedies = [*_sharper_codes(metrics, settings), *(remedies or ["more epochs"])]
    if remedies:
        text += f". In a new folder try {_listed(remedies)}"
    return f"verdict: {text}"


def _compared(rows: Mapping[str, Scores], name: str, tests: int) -> tuple[bool, str]:
    """Whether to try for a better score, as another row is no worse; and a sentence on all rows."""
    score = rows[_TRAINED][name]
    order = (LARGEST_CLASS, "untrained", "adopted", "pixels")
    others = {
        key: rows[FEATURES[key]][name] for key in order if name in rows.get(FEATURES[key], {})
    }
    unbeaten = [key for key, other in others.items() if not _better(score, other, tests)]
    texts = {
        LARGEST_CLASS: "no better than always naming the largest class",
        "untrained": "no better than the untrained encoder",
        "adopted": "no better than the encoder before this run",
        "pixels": "no better than raw pixels",
    }
    if unbeaten and score > others[unbeaten[0]]:
        clearly = f"not clearly better, on {counted(tests, 'test image')}, than"
        texts = {key: text.replace("no better than", clearly) for key, text in texts.items()}
    encoders = {"untrained", "adopted"} & others.keys()
    if not unbeaten and encoders:
        opening = "learnt"
    elif unbeaten == ["pixels"] and encoders:
        opening = f"better than before training, but {texts['pixels']}"
    elif unbeaten:
        opening = texts[unbeaten[0]]
    elif others:
        opening = f"better than {' and '.join(FEATURES[key] for key in others)}"
    else:
        opening = "nothing to compare with"
    numbers = ", ".join(f"{FEATURES[key]} {other:.4f}" for key, other in others.items())
    text = f"{opening}: {score_label(name)} {score:.4f}"
    can_improve = score < 1.0
    return bool(unbeaten) and can_improve, text + (f" ({numbers})" if numbers else "")


def _better(score: float, other: float, tests: int) -> bool:
    """Whether `score` exceeds `other` by two standard errors, for shares of `tests` images."""
    variance = score * (1 - score) + other * (1 - other)
    return score - other > 2 * math.sqrt(variance / max(tests, 1))


def _unlabelled(metrics: Mapping[str, float]) -> str:
    """Loss and spread of a run without scores."""
    text = f"no scores to judge by: loss {metrics['loss']:.4f}"
    if "spread" not in metrics:
        return text
    spread = metrics["spread"]
    state = "nearly one point" if spread < _POINT else "0 is one point, 1 is evenly spread"
    return f"{text}, spread of the embeddings {spread:.2f} ({state})"


def _near_chance(metrics: Mapping[str, float]) -> str:
    """A sentence on a loss near chance; empty for others."""
    share = metrics.get("loss_over_ln_k", 0.0)
    if share >= _NEAR_CHANCE:
        text = f"the loss is {share:.2f} times ln K, its value at chance"
        entropy = metrics.get("code_entropy")
        if entropy is None:
            return text
        if entropy >= _UNIFORM:
            state = "codes are nearly uniform"
        elif entropy > _SHARP:
            state = "codes say little"
        else:
            state = "codes are sharp, but views do not predict each other's"
        return f"{text}: {state} (entropy {entropy:.2f} of the maximum)"
    share = metrics.get("loss_over_chance", 0.0)
    if share >= _UNTRAINED:
        return f"the loss is {share:.2f} times an untrained network's: images are not told apart"
    return ""


def _sharper_codes(metrics: Mapping[str, float], settings: Mapping[str, Any]) -> list[str]:
    """What to try against codes with little information, of the settings that the method has."""
    if metrics.get("loss_over_ln_k", 0.0) < _NEAR_CHANCE:
        return ["another optim.learning_rate"]
    method = settings["method"]
    remedies = []
    if "epsilon" in method and metrics.get("code_entropy", 1.0) > _SHARP:
        remedies.append(f"a lower method.epsilon (now {method['epsilon']:g})")
    if "prototypes" in method and method["prototypes"] != _FEWEST:
        remedies.append(f"fewer method.prototypes (now {method['prototypes'] or '0: automatic'})")
    return remedies


def _larger_views(settings: Mapping[str, Any], stored: int) -> list[str]:
    """Larger views, if images are stored larger than the largest."""
    name, view = max(settings["augment"].items(), key=lambda item: item[1]["size"])
    if view["size"] >= stored:
        return []
    return [f"larger views (augment.{name}.size={view['size']}, images have {stored})"]


def _listed(remedies: Sequence[str]) -> str:
    *first, last = remedies
    return f"{', '.join(first)} or {last}" if first else last
