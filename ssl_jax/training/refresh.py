"""What is renewed between steps: clusterings and neighbourhoods of the whole training set."""

import jax

from ssl_jax.data.rng import REFRESH, key_for
from ssl_jax.inference.scorer import features
from ssl_jax.interface import no_progress
from ssl_jax.stages import Stage


def due(stage: Stage, step: int, *, anew=False) -> bool:
    """Whether the method or its positives ask for it before the batch of `step`; `anew`: see `refresh`."""
    positives = stage.method.positives
    return stage.method.refresh_at(step) or bool(positives) and (anew or positives.refresh_at(step))


def refresh(stage: Stage, state, images, shardings, step: int, key, report=no_progress, *, anew=False):
    """Clustering or discovery before the batch of `step`, where the method or its positives ask for it.

    `report` takes progress lines. `anew`: positives are refreshed whatever they ask for.

    Returns:
        the state, and what was found as {"refresh/name": value}, or None where nothing was.
    """
    method, positives = stage.method, stage.method.positives
    of_method = method.refresh_at(step)
    of_positives = bool(positives) and (anew or positives.refresh_at(step))
    if not of_method and not of_positives:
        return state, None
    clean = lambda name, state=state: features(stage, state, images, (name,), report)[name]
    method_key, positives_key = jax.random.split(key_for(key, REFRESH, step))
    found = {}
    if of_method:
        state, values = method.refresh(state, clean, method_key, report)
        found.update(values)
    if of_positives:
        pos_state, values = positives.refresh(state.positives, clean, positives_key)
        state = state.replace(positives=pos_state)
        found.update(values)
    values = {f"refresh/{k}": float(v) for k, v in found.items()}
    return jax.device_put(state, shardings), values or None
