"""Each file of methods/, positives/, evaluation/ and models/ keeps its contract; nobody has to list it anywhere."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import members

from ssl_jax.interface import RunFacts, Split
from ssl_jax.settings.resolve import fill

CLASSES, TRAIN, TEST, UNLABELLED, WIDTH = 3, 60, 20, 10, 12


@pytest.mark.parametrize("name", members.methods())
def test_every_method_has_a_config(name):
    assert members.described(members.methods()[name])
    assert members.config_of_method(name).method.name == name


def test_a_method_without_a_config_is_named():
    with pytest.raises(LookupError, match="no config in configs/ has method.name='nobodys'.*write configs/nobodys.py"):
        members.config_of_method("nobodys")


@pytest.mark.parametrize("name", members.positives())
def test_positives_are_described(name):
    assert members.described(members.positives()[name])


def draw(features, key, rows, names, **shape):
    """Features of random crops, as `Split.draw` gives them: those of the images with noise."""
    noise = 0.1 * jax.random.normal(key, (len(rows), WIDTH))
    return {name: jnp.asarray(features[name])[np.asarray(rows)] + noise for name in names}


def split(names, count, unlabelled, seed):
    """Features by these names, which tell the classes somewhat apart; the last `unlabelled` images have no label."""
    rng, labels = np.random.default_rng(seed), np.arange(count + unlabelled) % CLASSES
    rows = rng.normal(size=(len(labels), WIDTH)) + 2 * np.eye(WIDTH)[labels]
    features = {name: jnp.asarray(rows, jnp.float32) for name in names}
    labels = np.where(np.arange(len(labels)) < count, labels, -1).astype(np.int32)
    return Split(features, labels, functools.partial(draw, features))


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
    lines, found = [], []
    for unlabelled in (0, UNLABELLED):
        splits = dict(trained=train, train=train, test=split(evaluator.needs, TEST, unlabelled, seed=1))
        if unlabelled:  # the labelled test images are the same ones
            splits["test"] = with_strangers(splits["test"], found_in=evaluator.needs)
        found.append(dict(evaluator.run(splits, None, lines.append)))
    assert found[0]
    for score, value in found[0].items():
        assert isinstance(score, str)
        assert isinstance(value, (int, float))
        assert math.isfinite(value)
    assert all(isinstance(line, str) for line in lines)
    assert found[1] == pytest.approx(found[0])


def with_strangers(test, found_in):
    """The test split of 20 labelled images with ten more behind them, far from all others and without a label."""
    plain = split(found_in, TEST, 0, seed=1)
    far = lambda x: jnp.concatenate([x, 100.0 + jnp.zeros((UNLABELLED, WIDTH))])
    return Split({name: far(x) for name, x in plain.features.items()}, test.labels, None)


@pytest.mark.parametrize("name", members.backbones())
def test_a_backbone_gives_a_vector_and_maps(name):
    cls = members.backbones()[name]
    backbone = fill(cls, {}, "model", name=None, parent=None)
    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    make = lambda key, x: backbone.init(key, x, train=False)
    variables = jax.eval_shape(make, jax.random.key(0), images)
    run = lambda variables, x: backbone.apply(variables, x, train=False)
    found = jax.eval_shape(run, variables, images)
    assert found["backbone"].ndim == 2
    assert found["backbone"].shape[0] == 2
    assert all(x.shape[0] == 2 and x.dtype == jnp.float32 for x in found.values())
    maps = [x for name, x in found.items() if name.startswith("stage")]
    assert maps
    assert all(x.ndim == 4 for x in maps)
