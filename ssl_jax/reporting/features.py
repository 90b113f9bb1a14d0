"""What the pictures of a run are made from: its data, and one pass of them through its encoder."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ssl_jax.build import completed, load_data
from ssl_jax.inference.scorer import features
from ssl_jax.ops.vectors import unit
from ssl_jax.runs.restore import config_of, open_run
from ssl_jax.runs.run_folder import FINGERPRINT, read_config
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import encodable, printable

MOST = 10_000  # training images that are embedded, at most
_TESTS = 2_000  # test images likewise, to look up neighbours for


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """Images and unit embeddings of a run at a checkpoint.

    Attributes:
        settings: of the run, with its data where they are now.
        images, labels, points: [N, H, W, C] uint8, [N] int32 (-1 unlabelled), [N, D] of images trained on.
        test_images, test_labels, test_points: likewise; empty where there is no test split, or it was trained on too.
        scores: [N, K] of prototypes, or None.
        names: of the classes.
        of: how many images trained on there are in all, of which these are drawn.
        epoch: of the checkpoint.
    """

    settings: dict[str, Any]
    images: np.ndarray
    labels: np.ndarray
    points: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    test_points: np.ndarray
    scores: Any
    names: tuple[str, ...]
    of: int
    epoch: float


def of_run(folder, mesh, given, *, most: int = MOST, seed: int = 0) -> Features:
    """Opens a run and embeds its data.

    Args:
        folder: of the run.
        mesh: of devices.
        given: settings of the data ({"data.dir": ...}) in place of the run's own.
        most: training images that are embedded; more are drawn from, with `seed`.

    Raises:
        SettingError: no checkpoint, no data where the run had them, or other images there.
    """
    settings = config_of(folder)
    for name, value in given.items():
        settings["data"][name.partition(".")[2]] = value
    dataset = load_data(completed(settings))
    if read_config(folder).get(FINGERPRINT, dataset.fingerprint()) != dataset.fingerprint():
        raise SettingError(
            f"data.name={settings['data']['name']!r} holds other images now than {folder} was trained on"
        )
    run = open_run(folder, mesh)
    stage = run.plan.stages[-1]
    rng = np.random.default_rng(seed)
    unseen = 0 if dataset.joined else len(dataset.test)
    rows, tests = (_drawn(rng, count, n) for count, n in ((len(dataset.train), most), (unseen, _TESTS)))
    names = ("embedding", "scores") if _has_scores(stage, run.state, dataset) else ("embedding",)
    embed = lambda images: features(stage, run.state, images, names)
    images, test_images = np.asarray(dataset.train.images[rows]), np.asarray(dataset.test.images[tests])
    found = embed(images)
    points = np.asarray(unit(found["embedding"]))
    test_points = np.asarray(unit(embed(test_images)["embedding"])) if len(tests) else points[:0]
    scores = np.asarray(found["scores"]) if "scores" in found else None
    train = images, np.asarray(dataset.train.labels)[rows], points
    test = test_images, np.asarray(dataset.test.labels)[tests], test_points
    classes = tuple(printable(encodable(name)) for name in dataset.classes)  # figures draw no others
    return Features(settings, *train, *test, scores, classes, len(dataset.train), run.epoch)


def _drawn(rng, count, most):
    return np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))


def _has_scores(stage, state, dataset):
    size = stage.views[0].size
    image = jax.ShapeDtypeStruct((1, size, size, dataset.train.images.shape[-1]), np.float32)
    try:
        jax.eval_shape(lambda s, x: stage.method.features(s, x, ("scores",))["scores"], state, image)
    except KeyError:
        return False
    return True
