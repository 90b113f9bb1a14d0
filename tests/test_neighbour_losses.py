"""Neighbour losses, their graph and the boundary filter against published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from ssl_jax.evaluation.purity import Purity
from ssl_jax.interface import PositiveSet, RunFacts, Split
from ssl_jax.ops import losses
from ssl_jax.ops.memory import push_queue
from ssl_jax.ops.neighbours import (
    boundary_ratio,
    contextual_features,
    contextual_neighbours,
    inside,
    reciprocal_adjacency,
)
from ssl_jax.ops.vectors import dot, unit
from ssl_jax.positives.boundary import Boundary
from ssl_jax.positives.contextual import Contextual
from ssl_jax.positives.instance import Instance
from ssl_jax.positives.neighbours import Neighbours


def graph(golden, case):
    """Features of a published graph, its k1 and k2, and its numbers by name."""
    data = golden("conaff_graph")
    batch, k1, k2 = case.split("_")[0], *map(int, case.split("_k")[1].split("_"))
    return data[f"{batch}_features"], dict(k1=k1, k2=k2), lambda name: data[f"{case}_{name}"]


@pytest.mark.parametrize("case", ["b64_k10_2", "b64_k30_10", "b64_k10_1"])
def test_published_reciprocal_adjacency(golden, case):
    features, settings, numbers = graph(golden, case)
    np.testing.assert_array_equal(
        reciprocal_adjacency(features, settings["k1"]), numbers("recip_adj")
    )


@pytest.mark.parametrize("case", ["b64_k10_2", "b64_k30_10"])
def test_published_contextual_features_and_neighbours(golden, case):
    features, settings, numbers = graph(golden, case)
    context = contextual_features(features, **settings)
    np.testing.assert_allclose(context[numbers("rows")], numbers("layer2"), atol=1e-6)
    top = jax.lax.top_k(dot(context, context), numbers("refined_sim_top").shape[1])[0]
    np.testing.assert_allclose(top[numbers("rows")], numbers("refined_sim_top"), atol=2e-6)
    for k in (10, 20):
        found = contextual_neighbours(features, k, **settings)
        np.testing.assert_array_equal(np.sort(found), np.sort(numbers(f"nbr{k}")))
        np.testing.assert_array_equal(found[:, 0], np.arange(len(features)))


@pytest.mark.parametrize("opposite", [False, True])
def test_context_by_loops(opposite, key):
    """Recomputed with sets and dictionaries instead of matrices, also with opposite neighbours."""
    noise = jax.random.normal(key, (12, 12))
    x = np.asarray(unit(jnp.eye(12) - 1 / 12 + 0.01 * noise if opposite else noise[:, :5]))
    similarity = x @ x.T
    assert (np.sort(similarity)[:, -3].max() < 0) == opposite
    rank = np.argsort(-similarity, axis=1)[:, :5]
    rows = np.array([[float(j in rank[i]) for j in range(12)] for i in range(12)])
    for _ in range(2):
        both = rows + rows.T
        rows = np.array(
            [sum(similarity[i, j] ** 2 * both[j] for j in rank[i, :3]) for i in range(12)]
        )
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(contextual_features(x, k1=5, k2=3), rows, atol=1e-6)


def test_context_does_not_depend_on_the_order_of_the_batch(key):
    x = unit(jax.random.normal(key, (20, 6)))
    order = jax.random.permutation(key, 20)
    context, shuffled = (contextual_features(f, k1=6, k2=3) for f in (x, x[order]))
    np.testing.assert_allclose(shuffled, context[order][:, order], atol=1e-6)


def test_published_boundary_ratio_and_cut(golden):
    data = golden("boundary")
    ratio = boundary_ratio(data["features"], data["centroids"], data["pseudo_labels"].astype(int))
    np.testing.assert_allclose(ratio, data["ratio"], rtol=2e-6)
    for fraction, released, paper in zip(
        data["fraction"], data["kept_released"], data["kept_paper"]
    ):
        count = int(round(float(fraction), 4) * len(ratio))
        np.testing.assert_array_equal(inside(ratio, count), paper.astype(bool))
        np.testing.assert_array_equal(inside(ratio, count, strict=True), released.astype(bool))


def test_published_fractions(golden):
    data = golden("boundary")
    facts = RunFacts(examples=9, steps_per_epoch=7, total_steps=7000, first_step=5600)
    epochs = data["sched_epoch"] - 800

    def of(**changes):
        filters = Boundary(keep=0.8, clusters=2, facts=facts, **changes)
        return [filters.fraction(int(n)) for n in epochs]

    np.testing.assert_allclose(of(), data["sched_paper_eq12_t0_800_T1000_fr0.8"], rtol=1e-6)
    np.testing.assert_allclose(
        of(relax_epochs=50.0), data["sched_released_resume800_end850_begin0.8"], rtol=1e-6
    )
    assert set(of(relax=False)) == {0.8}


def test_a_filter_that_keeps_all_has_nothing_to_refresh(key):
    """As after a warm start, which refreshes all positives."""
    everything = Boundary(keep=1.0, clusters=2)
    state = everything.init(4)
    assert everything.refresh(state, lambda name: pytest.fail(name), key) == ((), {})


def test_counts_are_exact_and_never_none():
    facts = RunFacts(examples=999, batch_size=256, total_steps=200)
    run = dict(clusters=2, facts=facts)
    np.testing.assert_array_equal(Boundary(keep=0.8, **run).counts()[[0, 49, 199]], [205, 217, 256])
    assert Boundary(keep=0.001, relax=False, **run).counts().min() == 1


def kept(mask, k, counted=None):
    return jnp.broadcast_to(jnp.asarray(mask, jnp.float32)[:, None], (len(mask), k)), counted


@pytest.mark.parametrize(("case", "direction"), [("a", "1"), ("a", "2")])
def test_published_group_loss(golden, case, direction):
    data = golden("group_loss")
    k1, k2, k = map(int, data[f"{case}_k1_k2_k"])

    def get(name):
        return data[f"{case}{direction}_{name}"]

    targets = unit(get("target_raw"))
    rows = contextual_neighbours(targets, k, k1=k1, k2=k2)
    np.testing.assert_array_equal(np.sort(rows), np.sort(get("neighbours")))
    ratio = boundary_ratio(
        targets, data[f"{case}_centroids"], data[f"{case}_pseudo_labels"].astype(int)
    )
    mask = inside(ratio, int(float(data[f"{case}_fraction"]) * len(rows)), strict=True)
    np.testing.assert_array_equal(mask, get("kept").astype(bool))
    released = PositiveSet(rows, *kept(mask, k, counted=len(rows)))

    def loss(p, chosen):
        return losses.neighbour_cosine(p, targets, chosen)

    value, gradient = jax.value_and_grad(lambda p: 2 * loss(p, released))(get("prediction"))
    np.testing.assert_allclose(value, get("loss"), rtol=2e-6)
    np.testing.assert_allclose(gradient, get("grad_prediction"), atol=5e-7)
    np.testing.assert_allclose(
        loss(get("prediction"), PositiveSet(rows, *kept(mask, k))), get("loss_eq14"), rtol=2e-6
    )


def test_own_positives_are_the_base_loss(golden):
    data = golden("byol_loss")
    own = Instance().select((), jnp.zeros((64, 1)), jnp.arange(64), 0)
    plain = losses.negative_cosine(data["prediction1"], data["target2"])
    np.testing.assert_allclose(
        losses.neighbour_cosine(data["prediction1"], data["target2"], own), plain, rtol=1e-6
    )
    queue = unit(data["target1"])
    settings = dict(temperature=0.2)
    plain = losses.info_nce(data["prediction1"], data["target2"], queue, **settings)
    for denominator in ("each", "own"):
        found = losses.neighbour_info_nce(
            data["prediction1"], data["target2"], queue, own, denominator=denominator, **settings
        )
        np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_published_byol_loss(golden):
    data = golden("byol_loss")

    def loss(p1, p2):
        one = losses.negative_cosine(p1, data["target2"])
        return one + losses.negative_cosine(p2, data["target1"])

    value, gradients = jax.value_and_grad(loss, (0, 1))(data["prediction1"], data["prediction2"])
    # A loss scale of 2, half of it for each direction.
    np.testing.assert_allclose(value, data["propos_loss"], atol=2e-7)
    np.testing.assert_allclose(4 + 2 * value, data["deepmind_loss"], rtol=2e-6)
    for gradient, name in zip(gradients, ("1", "2")):
        np.testing.assert_allclose(gradient, data[f"propos_grad_prediction{name}"], atol=5e-7)


def test_published_simsiam_loss(golden):
    data = golden("simsiam_loss")

    def loss(p1, p2):
        return (losses.negative_cosine(p1, data["z2"]) + losses.negative_cosine(p2, data["z1"])) / 2

    value, gradients = jax.value_and_grad(loss, (0, 1))(data["p1"], data["p2"])
    np.testing.assert_allclose(value, data["loss"], rtol=2e-6)
    for gradient, name in zip(gradients, ("grad_p1", "grad_p2")):
        np.testing.assert_allclose(gradient, data[name], atol=5e-7)


def test_published_moco_steps(golden):
    data = golden("moco_loss")
    # Rows ordered by age: the next one to be replaced comes last.
    ring = np.roll(data["queue_before"].T, -int(data["ptr_before"]), axis=0)
    queue = jnp.asarray(ring[::-1])
    temperature = float(data["temperature"])
    for step in range(5):
        query = data[f"step{step}_q"]
        keys = data[f"step{step}_k"]

        def loss(q, k=keys, queue=queue):
            return losses.info_nce(q, k, queue, temperature=temperature)

        value, gradient = jax.value_and_grad(loss)(query)
        np.testing.assert_allclose(value, data[f"step{step}_loss"], rtol=2e-6)
        np.testing.assert_allclose(gradient, data[f"step{step}_grad_q"], atol=5e-7)
        queue = push_queue(queue, unit(keys))

    def rows(q):
        return np.asarray(sorted(map(tuple, np.round(np.asarray(q), 5).tolist())))

    # Compared as sets, since the published queue is a ring.
    np.testing.assert_allclose(rows(queue), rows(data["queue_final"].T), atol=2e-5)


def test_conr_star_losses(golden):
    data = golden("conr_star_losses")
    ones = jnp.ones((64, 10))
    near = {n: PositiveSet(data[f"simsiam_nbr_{n}"].astype(int), ones) for n in ("z1", "z2")}

    def eq16(p1, p2):
        one = losses.neighbour_cosine(p1, data["simsiam_z2"], near["z2"])
        return 0.5 * (one + losses.neighbour_cosine(p2, data["simsiam_z1"], near["z1"]))

    value, gradients = jax.value_and_grad(eq16, (0, 1))(data["simsiam_p1"], data["simsiam_p2"])
    np.testing.assert_allclose(value, data["simsiam_eq16_loss"], rtol=2e-6)
    for gradient, name in zip(gradients, ("p1", "p2")):
        np.testing.assert_allclose(gradient, data[f"simsiam_eq16_grad_{name}"], atol=5e-7)
    for denominator in ("each", "own"):

        def eq17(q, denominator=denominator):
            settings = dict(temperature=float(data["moco_temperature"]), denominator=denominator)
            return losses.neighbour_info_nce(
                q, data["simsiam_z2"], data["moco_queue"].T, near["z2"], **settings
            )

        value, gradient = jax.value_and_grad(eq17)(data["simsiam_p1"])
        np.testing.assert_allclose(value, data[f"moco_eq17_loss_{denominator}"], rtol=2e-6)
        np.testing.assert_allclose(gradient, data[f"moco_eq17_grad_q_{denominator}"], atol=5e-7)


def test_those_left_out_have_no_gradient_and_do_not_count(key):
    p, z = jax.random.normal(key, (2, 6, 4))
    rows = jnp.broadcast_to(jnp.arange(2), (6, 2))
    some = PositiveSet(rows, jnp.ones((6, 2)).at[3:].set(0.0))
    gradient = jax.grad(lambda p: losses.neighbour_cosine(p, z, some))(p)
    assert np.any(gradient[:3])
    assert not np.any(gradient[3:])
    expected = losses.neighbour_cosine(p[:3], z, PositiveSet(rows[:3], jnp.ones((3, 2))))
    np.testing.assert_allclose(losses.neighbour_cosine(p, z, some), expected, rtol=1e-6)
    nobody = PositiveSet(rows, jnp.zeros((6, 2)))
    assert losses.neighbour_cosine(p, z, nobody) == 0.0


def test_purity_of_the_digits_as_published(golden):
    data = golden("purity_digits")
    digits = load_digits()
    x = digits.data / 16
    x = np.asarray(unit(x - x.mean(0, keepdims=True)))
    ratio = boundary_ratio(x, data["kmeans_centroids"], data["kmeans_labels"].astype(int))
    batches = data["perm_first_1792"].astype(int).reshape(7, 256)
    ks = tuple(int(k) for k in data["K"])
    for k1, k2 in ((10, 2), (30, 10)):
        purity = Purity(neighbours=ks, k1=k1, k2=k2, strict=True)
        found = dict(purity.of_batches(jnp.asarray(x), digits.target, ratio, batches))
        for ours, theirs in (("local", "cosine"), ("contextual", f"conaff_{k1}_{k2}")):
            for own, suffix in (("", ""), ("_kept", "_kept80")):
                curve = [found[f"{ours}{own}_{k}"] for k in ks]
                np.testing.assert_allclose(curve, data[f"purity_{theirs}{suffix}"], atol=1e-3)


def test_purity_evaluator_leaves_unlabelled_images_out(key):
    points = unit(jnp.repeat(jax.random.normal(key, (3, 5)), 10, axis=0) + 0.01)
    labels = np.repeat(np.arange(3), 10)
    labels[::4] = -1
    facts = RunFacts(examples=30, classes=3)
    purity = Purity(neighbours=(1, 2), batch_size=22, k1=5, restarts=1, facts=facts)
    scores = dict(purity.run({"trained": Split({"embedding": points}, labels)}, None))
    assert len(scores) == 8
    assert all(value == 1.0 for value in scores.values())


BAD = (
    (Neighbours, dict(k=8), "k=8: at least 1 and below batch_size=8"),
    (Contextual, dict(k=0), "k=0: at least 1"),
    (Contextual, dict(k=3, k1=8), "k1=8: at least 1 and below batch_size=8"),
    (Contextual, dict(k=3, k1=4, k2=5), "k2=5: between 2 and k1=4"),
    (Contextual, dict(k=3, k1=4, k2=1), "k2=1: between 2 and k1=4"),
    (Contextual, dict(k=3, k1=4, layers=0), "layers=0"),
    (Boundary, dict(keep=0.0), "keep=0.0: above 0"),
    (
        Boundary,
        dict(clusters=0),
        "clusters=0: between 2 and the 9 training images; the data has no classes",
    ),
    (Boundary, dict(clusters=3, relax_epochs=5.0), "relax_epochs=5.0: at least 0, and within the"),
    (Boundary, dict(clusters=3, restarts=0), "restarts=0"),
    (Purity, dict(neighbours=(9,), batch_size=9), "neighbours=.9,.: numbers between 1 and batch"),
    (
        Purity,
        dict(neighbours=(1,), batch_size=10, k1=5),
        "batch_size=10: between 2 and the 9 labelled training images",
    ),
    (Purity, dict(neighbours=(1,), batch_size=9, k1=9), "k1=9 and k2=2"),
)


def checked(cls, settings):
    """A part that has passed all of its checks."""
    part = cls(**settings)
    if cls in (Neighbours, Contextual):
        part.check_config(batch_size=8, epochs=4)
    part.check(RunFacts(examples=9, batch_size=8, total_steps=4))
    return part


@pytest.mark.parametrize(("cls", "settings", "message"), BAD)
def test_settings_that_cannot_be(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        checked(cls, settings)


def test_the_boundary_filter_of_positives_is_checked_with_them():
    for cls in (Neighbours, Contextual):
        filtered = cls(k=3, boundary=Boundary(clusters=10))
        with pytest.raises(ValueError, match="clusters=10: between 2 and the 9 training images"):
            filtered.check(RunFacts(examples=9, batch_size=8))
