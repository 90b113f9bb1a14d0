"""Local Aggregation and Anchor Neighbourhood Discovery: their refreshes and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import methods

from ssl_jax import train
from ssl_jax.evaluation.neighbourhood import Neighbourhood, consistency
from ssl_jax.interface import Batch, RunFacts, Split
from ssl_jax.methods.anchor_neighbourhood import AnchorNeighbourhood, AnchorState
from ssl_jax.methods.instance import InstanceDiscrimination
from ssl_jax.methods.local_aggregation import LocalAggregation
from ssl_jax.ops import losses
from ssl_jax.ops.memory import init_bank
from ssl_jax.ops.vectors import unit
from ssl_jax.optim.schedules import drops, repeated


def no_embeddings(name):
    pytest.fail("these methods refresh from the bank alone")


def refreshed(name, step, key, **changes):
    """Method, state and metrics after the refresh before `step`, from a bank with ten clusters."""
    stage = methods.stage(name)
    stage = dataclasses.replace(stage, method=dataclasses.replace(stage.method, **changes))
    state = methods.fresh_state(stage, key)
    centres = jnp.repeat(jax.random.normal(key, (10, 6)), 7, axis=0)
    points = unit(centres + 0.1 * jax.random.normal(jax.random.fold_in(key, 1), centres.shape))
    bank = state.method.bank.at[: len(points)].set(points)
    state = state.replace(step=jnp.int32(step), method=state.method.replace(bank=bank))
    assert stage.method.refresh_at(step)
    found, values = stage.method.refresh(state, no_embeddings, key)
    assert jax.tree.structure(found) == jax.tree.structure(state)

    def shapes(tree):
        return [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]

    assert shapes(found) == shapes(state)
    return stage.method, found, values


def test_every_clustering_is_its_own_and_finds_the_blobs(key):
    method, state, values = refreshed("aggregation", 0, key, clusters=10, clusterings=5)
    labels = np.asarray(state.method.labels)[:, : methods.EXAMPLES]
    assert len({tuple(row) for row in labels}) == 5
    close = method._close(state.method, jnp.arange(methods.EXAMPLES))
    blobs = np.arange(70)[:, None] // 7 == np.arange(70)[None] // 7
    assert (
        np.asarray(close) & blobs
    ).sum() > 0.95 * blobs.sum()  # some clustering holds each blob together
    assert values["cluster_size_min"] >= 1
    assert values["cluster_size_min"] <= values["cluster_size_median"] <= values["cluster_size_max"]


def test_close_by_neighbours_are_the_nearest_rows_and_oneself(key):
    method, state, _ = refreshed("aggregation by neighbours", 0, key)
    bank = np.asarray(state.method.bank)[: methods.EXAMPLES]
    expected = np.zeros((70, 70), bool)
    np.put_along_axis(expected, np.argsort(-bank @ bank.T, axis=1)[:, :4], True, axis=1)
    np.testing.assert_array_equal(method._close(state.method, jnp.arange(70)), expected)
    assert expected.diagonal().all()


def test_clusters_are_refreshed_by_epochs_or_steps_counted_from_the_stage():
    method = methods.stage("aggregation").method

    def due(**changes):
        return [s for s in range(40) if dataclasses.replace(method, **changes).refresh_at(s)]

    assert due() == [0, 8, 16, 24, 32]
    later = dataclasses.replace(methods.FACTS, first_step=3)
    assert due(refresh_epochs=2.0, facts=later) == [3, 19, 35]
    assert due(refresh_steps=15) == [0, 15, 30]
    assert due(objective="softmax") == []


@pytest.mark.parametrize(("step", "count"), [(8, 17), (16, 35), (24, 52), (32, 70)])
def test_anchors_of_a_round(step, count, key):
    method, state, values = refreshed("anchors", step, key)
    found = np.asarray(state.method.is_anchor)
    assert found.sum() == values["anchors"] == count
    assert not found[methods.EXAMPLES :].any()
    near = np.asarray(state.method.neighbours)[: methods.EXAMPLES]
    assert not (near == np.arange(70)[:, None]).any()
    if count < 70:
        assert values["entropy_anchors_max"] <= values["entropy_instances_min"]


def test_rounds_begin_where_the_epochs_say():
    method = methods.stage("anchors").method
    assert [s for s in range(45) if method.refresh_at(s)] == [8, 16, 24, 32]
    assert [method.round_at(s) for s in (0, 7, 8, 39)] == [0, 0, 1, 4]


def test_anchor_counts_are_exact():
    def make(examples, **settings):
        return AnchorNeighbourhood(methods.network(), facts=RunFacts(examples=examples), **settings)

    expected = [0, 12_500, 25_000, 37_500, 50_000]
    assert [make(50_000, rounds=4).anchors(r) for r in range(5)] == expected
    assert [make(1437, rounds=3).anchors(r) for r in range(4)] == [0, 479, 958, 1437]
    assert make(10, rounds=5, share=0.2).anchors(5) == 10  # 0.2 * 5 * 10 without rounding
    assert [make(10, curriculum=False).anchors(r) for r in range(3)] == [0, 10, 10]


def test_the_rate_starts_anew_each_round():
    schedule = repeated(drops(1.0, 8, at_steps=(5,), factor=0.1), 8)
    np.testing.assert_allclose(
        [schedule(s) for s in (0, 4, 5, 7, 8, 12, 13)], [1, 1, 0.1, 0.1, 1, 1, 0.1], rtol=1e-6
    )


def test_nce_estimates_its_normaliser_once(key):
    stage = methods.stage("instance by nce")
    state = methods.fresh_state(stage, key)
    step = jax.jit(train.train_step, static_argnums=0)
    images = jnp.asarray(methods.IMAGES)
    index = jnp.arange(8)
    assert state.method.normaliser == 0
    first, _ = step(stage, state, images, index, key)
    second, _ = step(stage, first, images, index, key)
    assert first.method.normaliser > 0
    assert first.method.normaliser == second.method.normaliser
    given = dataclasses.replace(stage, method=dataclasses.replace(stage.method, normaliser=5.0))
    state, _ = step(given, methods.fresh_state(given, key), images, index, key)
    assert state.method.normaliser == 5.0


def test_untrained_instance_discrimination_is_at_chance(key):
    stage = methods.stage("instance")
    state = methods.fresh_state(stage, key)
    views = (jax.random.normal(key, (8, 8, 8, 3)),)
    _, aux = stage.method.loss(state, Batch(views, jnp.arange(8)), key)
    np.testing.assert_allclose(aux.metrics["loss_over_chance"], 1.0, atol=0.3)


def test_bank_rows_have_expected_length_one(key):
    np.testing.assert_allclose(
        jnp.mean(jnp.sum(init_bank(key, 4000, 32) ** 2, axis=1)), 1.0, atol=0.02
    )


def test_consistency_counts_labelled_pairs():
    labels = np.array([0, 0, 1, -1])
    assert consistency(labels, np.array([0, 2]), np.array([[1, 2], [3, 0]])) == 1 / 3
    assert consistency(labels, np.array([3]), np.array([[0, 1]])) == 0.0


def test_neighbourhood_evaluator(key):
    labels = np.repeat(np.arange(10), 7)
    method, state, _ = refreshed("anchors", 16, key)
    points = state.method.bank[:70]
    splits = {"trained": Split({"embedding": points}, labels)}
    scores = dict(Neighbourhood(k=2).run(splits, state))
    assert scores["anchors"] > 0.8
    assert scores["all"] > 0.8
    doubles = {"trained": Split({"embedding": jnp.ones((70, 6))}, np.zeros(70, int))}
    assert dict(Neighbourhood(k=3).run(doubles, None)) == {"all": 1.0}
    empty = AnchorState(points, jnp.zeros((70, 2), jnp.int32), jnp.zeros(70, bool))
    assert set(dict(Neighbourhood(k=2).run(splits, state.replace(method=empty)))) == {"all"}


BAD = (
    (
        InstanceDiscrimination,
        dict(objective="nce", samples=11),
        "samples=11: between 1 and the 10 training images",
    ),
    (
        InstanceDiscrimination,
        dict(objective="nec"),
        "objective='nec': choose one of softmax, nce, sampled",
    ),
    (InstanceDiscrimination, dict(normaliser=-1.0), "normaliser=-1.0: above 0"),
    (
        LocalAggregation,
        dict(background=11),
        r"background=11: between 0 \(all\) and the 10 training images",
    ),
    (
        LocalAggregation,
        dict(background=5, clusters=11),
        "clusters=11: between 2 and the 10 training images",
    ),
    (
        LocalAggregation,
        dict(background=5, close="neighbors"),
        "close='neighbors': choose clusters or neighbours",
    ),
    (
        LocalAggregation,
        dict(background=5, close="neighbours", close_neighbours=11),
        "close_neighbours=11: between 1",
    ),
    (LocalAggregation, dict(background=5, clusters=5, clusterings=0), "clusterings=0"),
    (
        LocalAggregation,
        dict(background=5, clusters=5, objective="nce"),
        "samples=4096: between 1 and the 10",
    ),
    (AnchorNeighbourhood, dict(neighbours=10), "neighbours=10: between 1 and the 9 other images"),
    (
        AnchorNeighbourhood,
        dict(share=0.3),
        "share=0.3: of all images, for each of 4 rounds, so between 0 and 0.25",
    ),
    (AnchorNeighbourhood, dict(share=-0.1), "share=-0.1"),
    (AnchorNeighbourhood, dict(rounds=0), "rounds=0: at least 1"),
)


@pytest.mark.parametrize(("cls", "settings", "message"), BAD)
def test_settings_that_cannot_be(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        cls(methods.network(), **settings).check(RunFacts(examples=10))


def test_rounds_that_do_not_divide_the_epochs():
    with pytest.raises(ValueError, match="do not divide epochs=12; try epochs=10"):
        AnchorNeighbourhood(methods.network()).check_config(batch_size=8, epochs=12)


def test_progress_of_the_clusterings_is_reported(key):
    stage = methods.stage("aggregation")
    lines = []
    stage.method.refresh(methods.fresh_state(stage, key), no_embeddings, key, lines.append)
    assert lines == ["clustering 1 of 3", "clustering 2 of 3", "clustering 3 of 3"]
    assert np.isfinite(losses.aggregation_nll(jnp.zeros(1)))
