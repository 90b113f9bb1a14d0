import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssl_jax.ops.losses import instance_nll, swapped_prediction
from ssl_jax.ops.memory import push_queue
from ssl_jax.ops.sinkhorn import sinkhorn
from ssl_jax.ops.vectors import dot, unit

ATOL = 5e-7
RTOL = 2e-6


def swav_loss(embedding, prototypes, queue=None):
    scores = dot(embedding, prototypes)

    def codes(view):
        own = jax.lax.stop_gradient(scores[view])
        if queue is None:
            return sinkhorn(own)
        return sinkhorn(jnp.concatenate([dot(queue[view], prototypes), own]))[-len(own) :]

    return swapped_prediction(
        scores, jnp.stack([codes(0), codes(1)]), assign=(0, 1), temperature=0.1
    )


@pytest.mark.parametrize("case", ["noqueue", "queue"])
def test_published_swapped_prediction(golden, case):
    data = golden("swav_loss")
    queue = data["in__queue_full"] if case == "queue" else None
    prototypes = unit(data["in__prototypes_raw"])
    np.testing.assert_allclose(prototypes, data["in__prototypes_normalised"], atol=1e-6)

    loss, raw = jax.value_and_grad(lambda x: swav_loss(unit(x), prototypes, queue))(
        data["in__emb_raw"]
    )
    np.testing.assert_allclose(loss, data[f"{case}__loss"], rtol=RTOL)
    np.testing.assert_allclose(raw, data[f"{case}__grad_raw"], atol=ATOL)
    z, p = jax.grad(swav_loss, argnums=(0, 1))(data["in__emb_z"], prototypes, queue)
    np.testing.assert_allclose(z, data[f"{case}__grad_z"], atol=ATOL)
    np.testing.assert_allclose(p, data[f"{case}__grad_prototypes"], atol=ATOL)


def test_published_queue_push(golden):
    data = golden("swav_loss")
    queue = jax.vmap(push_queue)(data["in__queue_full"], unit(data["in__emb_raw"])[:2])
    np.testing.assert_allclose(queue, data["queue__queue_after"], atol=ATOL)


def test_collapse_is_ln_k(golden):
    loss = swav_loss(jnp.ones((6, 16, 24)) / 24**0.5, jnp.ones((20, 24)) / 24**0.5)
    np.testing.assert_allclose(loss, golden("swav_loss")["collapse__loss"], rtol=RTOL)
    np.testing.assert_allclose(loss, np.log(20), rtol=RTOL)


@pytest.mark.parametrize("assign", [(0,), (0, 1), (2, 0), (0, 1, 2, 3)])
def test_swapped_prediction_against_loops(assign):
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1, 1, (4, 8, 5)).astype(np.float32)
    codes = rng.dirichlet(np.ones(5), (len(assign), 8)).astype(np.float32)
    log_p = np.float64(scores) / 0.2
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    parts = [
        np.mean([-(codes[a] * log_p[v]).sum(-1).mean() for v in range(4) if v != view])
        for a, view in enumerate(assign)
    ]
    np.testing.assert_allclose(
        swapped_prediction(scores, codes, assign=assign, temperature=0.2), np.mean(parts), rtol=1e-6
    )


def test_no_gradient_into_codes():
    scores = jnp.ones((2, 4, 3))
    codes = jnp.full((2, 4, 3), 1 / 3)
    assert not np.any(jax.grad(lambda c: swapped_prediction(scores, c))(codes))


def test_published_instance_loss(golden):
    data = golden("id_softmax")
    index = data["indexes"]
    bank = data["memory"]
    loss, raw = jax.value_and_grad(lambda x: instance_nll(unit(x), bank, index, temperature=0.1))(
        data["raw_features"]
    )
    np.testing.assert_allclose(loss, data["T100_loss"], rtol=5e-6)
    np.testing.assert_allclose(raw, data["T100_grad_raw"], atol=1e-6)
    features = jax.grad(lambda f: instance_nll(f, bank, index, temperature=0.1))(data["features"])
    np.testing.assert_allclose(features, data["T100_grad_features"], atol=1e-6)


def test_instance_loss_leaves_the_bank_alone(golden):
    data = golden("id_softmax")
    grad = jax.grad(
        lambda bank: instance_nll(data["features"], bank, data["indexes"], temperature=0.1)
    )
    assert not np.any(grad(data["memory"]))
