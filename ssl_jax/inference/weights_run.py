"""A weight file in place of a run: what scores, clusters, features and reports read of one."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssl_jax.build import Plan
from ssl_jax.data import datasets
from ssl_jax.data.augment import View
from ssl_jax.data.source import Source, stand_in
from ssl_jax.inference import snippets
from ssl_jax.inference.pretrained import Encoder, Pretrained, of_file
from ssl_jax.interface import RunFacts, TrainState
from ssl_jax.models.network import Network
from ssl_jax.models.weight_files import WeightsError
from ssl_jax.runs.restore import Run, open_run
from ssl_jax.settings import eval_settings
from ssl_jax.settings.resolve import SettingError, fill
from ssl_jax.settings.text import printable
from ssl_jax.settings.whole_config import completed, run_settings
from ssl_jax.stages import Stage

CROP = 0.875  # pictures are stored this much larger than the encoder needs: 256 pixels for 224
_LARGEST_CUT = 0.5  # a smaller crop does not make stored pictures larger still
_METHOD = "simsiam"  # completes the settings; it is neither built for training nor shown


@dataclasses.dataclass(frozen=True)
class FixedNetwork:
    """A network with the weights of a file, as the method of a run that only computes features."""

    network: Network

    def features(
        self, state: TrainState, images: jax.Array, names: Sequence[str]
    ) -> dict[str, jax.Array]:
        """Features of clean images; see `Pretrained`."""
        prototypes = {name: x for name, x in state.params.items() if name != "network"}
        if "prototypes" in prototypes:
            prototypes["scores"] = prototypes.pop("prototypes")
        weights = {
            "params": state.params["network"],
            "batch_stats": state.batch_stats["network"],
            "prototypes": prototypes,
        }
        return Pretrained(self.network).features(weights, images, names)


def open_encoder(
    workdir: str | None,
    checkpoint: str | int,
    weights: Path | None,
    config: Mapping[str, Any],
    given: Mapping[str, Any],
    image: Mapping[str, Any],
) -> tuple[Run, dict[str, Any]]:
    """The run in `workdir`, or `weights` in place of one; and all settings of the command.

    Args:
        workdir: a run folder; ignored with `weights`.
        checkpoint: of the run: "latest", "best", or a step.
        weights: a weight file.
        config: of the command: of the run, or of `restore.config_of_weights`.
        given: its overrides by full name ("data.size", "evals.knn.k").
        image: what is given of the images that `weights` takes ("size", ..., "prefix").

    Raises:
        SettingError: a run or file that cannot be used.
    """
    if weights is not None:
        return open_weights(weights, config, given, **image)
    assert workdir is not None  # `command_line.with_run` asks for one of the two
    return open_run(workdir, jax.sharding.get_mesh(), checkpoint), completed(config)


def open_weights(
    path: Path, config: Mapping[str, Any], given: Mapping[str, Any], **image: Any
) -> tuple[Run, dict[str, Any]]:
    """A weight file as a `Run`, and complete settings that suit its encoder.

    Unless they are given, pictures are stored at the side that the encoder sees divided by its
    crop, or by 0.875 if it sees all of them; evaluators of the embedding take the backbone if the
    file has no head.

    Args:
        path: the file.
        config: of `restore.config_of_weights`, with overrides.
        given: those overrides by full name.
        **image: `size`, `mean`, `std`, `range`, `crop` and `prefix`, see `load_encoder`.

    Raises:
        SettingError: a file or settings that cannot be used.
    """
    for name, setting in (("crop", "evals.crop"), ("range", "data.range")):
        if setting in given:
            value = image.setdefault(name, given[setting])
            if value != given[setting]:
                raise SettingError(
                    f"--{name}={_text(value)} and --config.{setting}={_text(given[setting])} differ"
                )
    try:
        encoder = of_file(path, **image, prefix_flag="--prefix")
    except WeightsError as error:
        raise SettingError(f"--weights: {error}") from error
    settings = _settings_for(encoder, config, given)
    state = _train_state(encoder)
    name = printable(path.name)
    plan = Plan(
        settings=run_settings(settings),
        source=fill(Source, settings["data"], "data"),
        record=settings | {"method": {"name": name}, "model": {"name": "resnet"}},
        dataset=stand_in(_facts(encoder)),
        facts=RunFacts(),
        stages=(_stage(encoder),),
        evaluators={},
        shapes=jax.eval_shape(lambda: state),
    )
    notes = (*encoder.notes, f"weights: {_takes(encoder)}")
    return Run(path, plan, state, 0, from_file=True, notes=notes), settings


def _text(value: float | Sequence[float]) -> str:
    """A number, or several separated by commas, as flags have them."""
    values = value if isinstance(value, Sequence) else (value,)
    return ",".join(f"{x:g}" for x in values)


def _settings_for(
    encoder: Encoder, config: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """All settings for an encoder; see `open_weights`."""
    beside = {
        "method": {"name": _METHOD},
        "augment": {"view": {"size": encoder.size}},
    }
    settings = completed({**config, **beside})
    data = settings["data"]
    if "data.size" not in given:
        data["size"] = round(encoder.size / max(encoder.crop or CROP, _LARGEST_CUT))
    elif datasets.makes_squares(data["name"]) and data["size"] < encoder.size:
        raise SettingError(
            f"data.size={data['size']} is below the {encoder.size} pixels that the encoder takes; "
            "raise it, or give --size"
        )
    settings["evals"]["crop"] = encoder.crop
    for name, values in eval_settings.evaluators(settings["evals"]).items():
        chosen = f"evals.{name}.feature" in given
        if values.get("feature") == "embedding" and "embedding" not in encoder.names and not chosen:
            values["feature"] = "backbone"
    return settings


def _takes(encoder: Encoder) -> str:
    """A sentence on the images that an encoder takes, which may be assumed."""
    return snippets.images(
        encoder.size,
        encoder.channels,
        encoder.mean,
        encoder.std,
        encoder.range,
        encoder.crop,
    )


def _train_state(encoder: Encoder) -> TrainState:
    """The weights of an encoder as `FixedNetwork` reads them."""
    weights = encoder.state
    params = {"network": weights["params"]}
    for name, x in weights.get("prototypes", {}).items():
        params["prototypes" if name == "scores" else name] = x
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats={"network": weights["batch_stats"]},
        opt_state=(),
        method=(),
        positives=(),
    )


def _facts(encoder: Encoder) -> dict[str, Any]:
    """The facts of images that an encoder takes, in place of those that it was trained on."""
    return {
        "shape": (1, encoder.size, encoder.size, encoder.channels),
        "classes": (),
        "mean": encoder.mean,
        "std": encoder.std,
        "range": encoder.range,
    }


def _stage(encoder: Encoder) -> Stage:
    """The only stage of a run from a file; nothing is trained in it."""
    method: Any = FixedNetwork(encoder.method.network)
    return Stage(
        until=0,
        method=method,
        tx=optax.identity(),
        schedule=optax.constant_schedule(0.0),
        views=(View(size=encoder.size),),
        mean=encoder.mean,
        std=encoder.std,
        resident=False,
        crop=encoder.crop,
    )
