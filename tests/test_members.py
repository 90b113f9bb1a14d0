"""Each file of methods/, positives/, evaluation/ and models/ keeps its contract, without a list."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import members
from helpers.linear_backbone import WIDTH, backbone

from ssl_jax.interface import RunFacts, Split
from ssl_jax.settings.resolve import fill

CLASSES = 3
TRAIN = 60
TEST = 20
UNLABELLED = 10


@pytest.mark.parametrize("name", members.methods())
def test_every_method_has_a_config(name):
    assert members.described(members.methods()[name])
    assert members.config_of_method(name).method.name == name


def test_a_method_without_a_config_is_named():
    with pytest.raises(
        LookupError,
        match="no config in configs/ has method.name='nobodys'.*write configs/nobodys.py",
    ):
        members.config_of_method("nobodys")


@pytest.mark.parametrize("name", members.positives())
def test_positives_are_described(name):
    assert members.described(members.positives()[name])


def draw(features, key, rows, names, **shape):
    """Features of random crops, as `Split.draw` gives them: those of the images with noise."""
    noise = 0.1 * jax.random.normal(key, (len(rows), WIDTH))
    return {name: jnp.asarray(features[name])[np.asarray(rows)] + noise for name in names}


def ten_crops(features, names, crop):
    """Features of ten crops, as `Split.ten_crops` gives them: those of the images, ten times."""
    yield {name: jnp.repeat(features[name][:, None], 10, 1) for name in names}


def split(names, count, unlabelled, seed):
    """Features that separate the classes roughly; the last `unlabelled` images have no label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count + unlabelled) % CLASSES
    rows = rng.normal(size=(len(labels), WIDTH)) + 2 * np.eye(WIDTH)[labels]
    features = {name: jnp.asarray(rows, jnp.float32) for name in names}
    labels = np.where(np.arange(len(labels)) < count, labels, -1).astype(np.int32)
    crops = functools.partial(ten_crops, features)
    return Split(features, labels, functools.partial(draw, features), crops, backbone(rows))


@pytest.mark.parametrize("name", members.evaluators())
def test_an_evaluator_keeps_its_contract(name):
    cls = members.evaluators()[name]
    assert members.described(cls)
    facts = RunFacts(classes=CLASSES, examples=TRAIN + UNLABELLED, labelled=TRAIN)
    evaluator = fill(cls, members.shrunk(cls), f"evals.{name}", facts=facts)
    evaluator.check(facts)
    assert isinstance(evaluator.needs, tuple)
    assert evaluator.reads == ()  # by default: what a baseline can be scored on
    train = split(evaluator.needs, TRAIN, UNLABELLED, seed=0)
    lines = []
    scores = []
    for unlabelled in (0, UNLABELLED):
        splits = dict(
            trained=train, train=train, test=split(evaluator.needs, TEST, unlabelled, seed=1)
        )
        if unlabelled:  # the labelled test images are the same ones
            splits["test"] = with_strangers(splits["test"], found_in=evaluator.needs)
        scores.append(dict(evaluator.run(splits, None, lines.append)))
    assert scores[0]
    for score, value in scores[0].items():
        assert isinstance(score, str)
        assert isinstance(value, (int, float))
        assert math.isfinite(value)
    assert all(isinstance(line, str) for line in lines)
    assert scores[1] == pytest.approx(scores[0])


def with_strangers(test, found_in):
    """The test split of 20 labelled images and ten more without labels, far from all others."""
    plain = split(found_in, TEST, 0, seed=1)
    far = 100.0 + jnp.zeros((UNLABELLED, WIDTH))
    features = {name: jnp.concatenate([x, far]) for name, x in plain.features.items()}
    crops = functools.partial(ten_crops, features)
    return Split(features, test.labels, None, crops, _with_rows(plain.backbone, far))


def _with_rows(plain, far):
    """A backbone whose split has further images."""

    def clean(params, batch_stats, report=None):
        rows = far @ params["kernel"]
        return jnp.concatenate([plain.clean(params, batch_stats), rows])

    return plain._replace(clean=clean)


@pytest.mark.parametrize("name", members.backbones())
def test_a_backbone_gives_a_vector_and_maps(name):
    cls = members.backbones()[name]
    backbone = fill(cls, {}, "model", name=None, parent=None)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(
        lambda key, x: backbone.init(key, x, train=False), jax.random.key(0), images
    )
    features = jax.eval_shape(
        lambda variables, x: backbone.apply(variables, x, train=False), variables, images
    )
    assert features["backbone"].ndim == 2
    assert features["backbone"].shape[0] == 2
    assert all(x.shape[0] == 2 and x.dtype == jnp.float32 for x in features.values())
    maps = [x for name, x in features.items() if name.startswith("stage")]
    assert maps
    assert all(x.ndim == 4 for x in maps)
