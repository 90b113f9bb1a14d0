"""Scores of a run: one embedding pass for all evaluators, and the baselines that the scores stand beside."""

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.build import Plan
from ssl_jax.data.augment import View, clean
from ssl_jax.inference.embed import draw, embed
from ssl_jax.interface import Split, no_progress
from ssl_jax.runtime import processes
from ssl_jax.runtime.sharding import device_memory
from ssl_jax.stages import Stage


class Scorer:
    """Runs the evaluators of `plan` on features of `images` and `test_images` [N, H, W, C], wherever they lie."""

    def __init__(self, plan: Plan, images, test_images):
        self._plan, self._images = plan, (images, test_images)
        self._names = tuple(sorted({name for e in plan.evaluators.values() for name in e.needs}))

    def encoder(self, prefix: str, stage: Stage, state, report=no_progress) -> dict[str, float]:
        """Scores of the encoder in `state`, as {"<prefix>/knn/top1": ...}; `report` takes progress lines."""
        return self._run(prefix, self.splits(stage, state, report), state, report)

    def splits(self, stage: Stage, state, report=no_progress) -> dict[str, Split]:
        """What evaluators read: all features that they need, of all images, and how to draw others."""
        joined = self._plan.dataset.joined  # then the test images are among the others
        own = lambda images: processes.whole(features(stage, state, images, self._names, report))
        parts = self._splits(*(own(images) for images in self._images[: 1 if joined else 2]))
        images = dict(trained=self._images[0], train=self._images[0], test=self._images[1])
        return {name: split._replace(draw=_draw(stage, state, images[name])) for name, split in parts.items()}

    def too_many_pixels(self) -> str:
        """Why the scores of raw pixels are left out: they would take more than a quarter of a device; or nothing."""
        shapes = [split.images.shape for split in (self._plan.dataset.train, self._plan.dataset.test)]
        taken = sum(4 * n * min(h, PIXELS) * min(w, PIXELS) * c for n, h, w, c in shapes)
        if 4 * taken <= device_memory():
            return ""
        return f"no scores of raw pixels, which would take {taken / 1e9:,.0f} GB on a device"

    def pixels(self, stage: Stage, report=no_progress) -> dict[str, float]:
        """Scores of normalised pixels in place of every feature; those of a method's own `scores` have no such."""
        data = self._plan.dataset
        with processes.alone():
            flat = [_pixels(split.images, stage) for split in (data.train, data.test)[: 1 if data.joined else 2]]
            splits = self._splits(*(dict.fromkeys(self._names, x) for x in flat))
        keys = [key for key, e in self._plan.evaluators.items() if "scores" not in e.needs]
        return self._run("pixels", splits, None, report, keys)

    @property
    def keys(self):
        """Names of the evaluators."""
        return tuple(self._plan.evaluators)

    def one(self, key, splits, state, report=no_progress):
        """Yields ("<key>/<name>", value) of one evaluator; `report` takes its progress lines."""
        report(key)
        tell = lambda text: report(f"{key}: {text}")
        for name, value in self._plan.evaluators[key].run(splits, state, tell):
            yield f"{key}/{name}", value

    def _run(self, prefix, splits, state, report=no_progress, keys=None):
        """Each host scores for itself, on features that all have; what the first one finds counts."""
        keys = self.keys if keys is None else keys
        if state is not None:
            state = state.replace(method=processes.whole(state.method))  # nothing else of it is read
        with processes.alone():
            found = [(name, value) for key in keys for name, value in self.one(key, splits, state, report)]
        return {f"{prefix}/{name}": value for name, value in processes.share(found)}

    def _splits(self, trained, test=None):
        data = self._plan.dataset
        own = len(data.train) - data.joined
        train = {name: x[:own] for name, x in trained.items()}
        if data.joined:
            test = {name: x[own:] for name, x in trained.items()}
        return {
            "trained": Split(trained, data.train.labels),
            "train": Split(train, data.train.labels[:own]),
            "test": Split(test, data.test.labels),
        }


def features(stage: Stage, state, images, names, report=no_progress) -> dict:
    """Named features of clean images at the size of the stage's largest view."""
    settings = dict(size=stage.views[0].size, mean=stage.mean, std=stage.std, report=report)
    return embed(stage.method, state, images, names, **settings)


def _draw(stage, state, images):
    """`Split.draw` of some images."""
    size, settings, mesh = stage.views[0].size, dict(mean=stage.mean, std=stage.std), jax.sharding.get_mesh()

    def make(key, rows, names, **shape):
        view, rows = View(size=size, count=1, jitter=0.0, grayscale=0.0, **shape), np.asarray(rows)
        bits = np.asarray(jax.random.key_data(key))  # of a key that lies on the devices of this host
        with jax.set_mesh(mesh):
            key = jax.random.wrap_key_data(bits)
            return processes.whole(draw(stage.method, state, images[rows], key, view, tuple(names), **settings))

    return make


PIXELS = 32  # side, at most, of the images whose raw pixels are scored


def _pixels(images, stage, chunk=1024):
    """Normalised pixels [N, S * S * C], of larger images at 32 pixels, where distances mean more and cost less."""
    if max(images.shape[1:3]) <= PIXELS:
        x = (images / np.float32(255) - np.asarray(stage.mean, np.float32)) / np.asarray(stage.std, np.float32)
        return jnp.asarray(x.reshape(len(x), -1))
    small = jax.jit(lambda block: clean(block, PIXELS, stage.mean, stage.std).reshape(len(block), -1))
    blocks = [small(np.asarray(images[start : start + chunk])) for start in range(0, len(images), chunk)]
    return jnp.concatenate(blocks)
