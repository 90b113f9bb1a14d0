"""What a run looked at over training, from the heat maps in its folder."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssl_jax import figures
from ssl_jax.reporting.pictures import Picture, picture
from ssl_jax.reporting.record import Record
from ssl_jax.runs import attention_files
from ssl_jax.runs.attention_files import Recorded

_COLUMNS = 6
_Records = Sequence[Mapping[str, Any]]


def attention(run: Record) -> Picture:
    """Heat maps of fixed images over training."""
    drawn, text = figure(run)
    alt = f"Heat maps of some training images over the epochs of {run.name}"
    return picture(drawn, alt, text, "png")


def figure(run: Record) -> tuple[Any, str]:
    """The figure of a run, and its caption.

    Raises:
        SettingError: the run recorded no heat maps, or a file is damaged.
    """
    recorded = attention_files.read(run.folder)
    shown = columns(recorded.steps, run.records)
    drawn = figures.attention_dynamics(
        recorded.pictures,
        [recorded.heat[i] for i in shown],
        recorded.cosine[shown],
        [title(recorded.steps[i], run.records) for i in shown],
        names=[f"image {row}" for row in recorded.rows],
        proportions=recorded.proportions,
    )
    return drawn, caption(recorded)


def caption(recorded: Recorded) -> str:
    """What the figure shows, in words."""
    target = "its row of the memory bank" if recorded.bank else "its mean over 16 random views"
    height, width = recorded.heat[-1].shape[1:]
    return (
        f"Grad-CAM of the cosine between an image's embedding and {target}, over the {height} x "
        f"{width} places of {recorded.maps}, for {len(recorded.rows)} training images drawn at "
        "random; below each map the cosine. Every map is scaled by its own maximum; one is black "
        "where no place raises the cosine."
    )


def columns(steps: Sequence[int], records: _Records, most: int = _COLUMNS) -> list[int]:
    """Which of the recorded `steps` to show: the first, and the end of each round if there are any.

    Evenly thinned to `most`, with the first and the last.
    """
    rounds = [round_at(step, records) for step in steps]
    shown = list(range(len(steps)))
    if any(rounds):
        ends = [i for i in shown if i + 1 == len(steps) or rounds[i + 1] != rounds[i]]
        shown = sorted({0, *ends})
    if len(shown) > most:
        shown = [shown[i] for i in np.linspace(0, len(shown) - 1, most).round().astype(int)]
    return shown


def title(step: int, records: _Records) -> str:
    """The heading of a column: the epoch, and the round if the run has any."""
    epoch = epoch_at(step, records)
    text = f"epoch {epoch:.3g}" if epoch else "untrained"
    if any("refresh/round" in record for record in records):
        return f"round {round_at(step, records)}\n{text}"
    return text


def epoch_at(step: int, records: _Records) -> float:
    """The epoch at `step`, from any record of a later step than 0."""
    known = next((record for record in records if record["step"]), None)
    return step * known["epoch"] / known["step"] if known else 0.0


def round_at(step: int, records: _Records) -> int:
    """The round of Anchor Neighbourhood Discovery that the batch before `step` belonged to."""
    begun = [r for r in records if "refresh/round" in r and r["step"] < step]
    return int(begun[-1]["refresh/round"]) if begun else 0
