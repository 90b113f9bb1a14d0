"""What is recomputed between steps: clusterings and neighbourhoods of the whole training set."""

from typing import Any

import jax

from ssl_jax.data.rng import REFRESH, key_for
from ssl_jax.inference.scorer import features
from ssl_jax.interface import TrainState, no_progress
from ssl_jax.stages import Stage


def due(stage: Stage, step: int, *, anew: bool = False) -> bool:
    """Whether the method or its positives want a refresh before the batch of `step`.

    Args:
        stage: the stage of `step`.
        step: the step about to run.
        anew: positives are refreshed whether or not they want it.
    """
    return stage.method.refresh_at(step) or _positives_due(stage, step, anew)


def _positives_due(stage: Stage, step: int, anew: bool) -> bool:
    positives = stage.method.positives
    return bool(positives) and (anew or positives.refresh_at(step))


def refresh(
    stage: Stage,
    state: TrainState,
    images: Any,
    shardings: Any,
    step: int,
    key: jax.Array,
    report=no_progress,
    *,
    anew: bool = False,
) -> tuple[TrainState, dict[str, float] | None]:
    """Refreshes the method and its positives, where they want it, before the batch of `step`.

    Args:
        stage: the stage of `step`.
        state: the train state before `step`.
        images: [N, H, W, C], all training images.
        shardings: the layout of the state.
        step: the step about to run.
        key: of the run.
        report: takes progress lines.
        anew: positives are refreshed whether or not they want it.

    Returns:
        the state, and metrics as {"refresh/name": value}, None if there are none.
    """
    method = stage.method
    method_due = method.refresh_at(step)
    positives_due = _positives_due(stage, step, anew)
    if not method_due and not positives_due:
        return state, None

    def embed(name: str, state: TrainState = state) -> jax.Array:
        return features(stage, state, images, (name,), report)[name]

    method_key, positives_key = jax.random.split(key_for(key, REFRESH, step))
    metrics = {}
    if method_due:
        state, values = method.refresh(state, embed, method_key, report)
        metrics.update(values)
    if positives_due:
        positives_state, values = method.positives.refresh(state.positives, embed, positives_key)
        state = state.replace(positives=positives_state)
        metrics.update(values)
    values = {f"refresh/{name}": float(value) for name, value in metrics.items()}
    return jax.device_put(state, shardings), values or None
