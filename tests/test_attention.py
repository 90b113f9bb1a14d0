"""Grad-CAM against closed forms and finite differences, and heat maps recorded while training."""

import dataclasses
import runpy
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import methods
from helpers.runs import quiet, records, two_epochs
from PIL import Image

from ssl_jax import figures, train
from ssl_jax.data.whole import WholePictures
from ssl_jax.inference import attention
from ssl_jax.inference.attention import Names, heat_and_cosine, names_of
from ssl_jax.models.alexnet import AlexNet
from ssl_jax.models.layers import Head
from ssl_jax.models.network import Network
from ssl_jax.models.preact_resnet import PreActResNet
from ssl_jax.models.resnet import ResNet
from ssl_jax.models.vgg import VGG
from ssl_jax.ops.grad_cam import grad_cam, resized
from ssl_jax.ops.vectors import unit
from ssl_jax.reporting import attention as reported
from ssl_jax.reporting import page, record
from ssl_jax.reporting.make import Attempts
from ssl_jax.runs import attention_files
from ssl_jax.settings.resolve import SettingError
from ssl_jax.training.attention import AttentionRecorder, _proportions

SCRIPT = Path(__file__).parent.parent / "experiments" / "attention.py"


@dataclasses.dataclass(frozen=True)
class Plain:
    """One convolution with ReLU, global average pooling and a linear layer, or other features."""

    jitted: bool = False
    maps: bool = True

    def features(self, state, images, names):
        def compute(x):
            maps = jnp.maximum(jnp.einsum("bhwc,cd->bhwd", x, state["conv"]), 0.0)
            z = maps.mean((1, 2)) @ state["linear"]
            return maps, z / jnp.linalg.norm(z, axis=1, keepdims=True)

        maps, embedding = (jax.jit(compute) if self.jitted else compute)(images)
        features = {"stage5": maps} if self.maps else {}
        features["embedding"] = embedding
        return {name: features[name] for name in names}


@pytest.fixture(scope="module")
def plain():
    """State, images and unit targets for `Plain`."""
    rng = np.random.default_rng(0)
    state = dict(
        conv=rng.normal(size=(3, 6)).astype(np.float32),
        linear=rng.normal(size=(6, 5)).astype(np.float32),
    )
    targets = rng.normal(size=(4, 5)).astype(np.float32)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    return state, rng.normal(size=(4, 5, 7, 3)).astype(np.float32), targets


def test_heat_behind_pooling_and_a_linear_layer_has_a_closed_form(plain):
    state, images, targets = plain
    heat, cosine = heat_and_cosine(Plain(), Names("stage5", "embedding"), state, images, targets)
    for i, (image, target) in enumerate(zip(images, targets)):
        maps = np.maximum(image @ state["conv"], 0)
        z = maps.mean((0, 1)) @ state["linear"]
        length = np.linalg.norm(z)
        expected = z @ target / length
        slope = (target - expected * z / length) / length  # of the cosine, in z
        weights = state["linear"] @ slope / maps[..., 0].size
        assert cosine[i] == pytest.approx(expected, abs=1e-5)
        np.testing.assert_allclose(heat[i], np.maximum(maps @ weights, 0), atol=1e-6)
    assert (np.asarray(heat).max((1, 2)) > 1e-3).any()


def test_heat_is_the_weighted_sum_where_it_is_positive():
    maps = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    gradient = np.random.default_rng(1).normal(size=maps.shape).astype(np.float32)
    expected = np.zeros((2, 3, 4))
    for b, y, x in np.ndindex(2, 3, 4):
        total = sum(gradient[b, :, :, c].mean() * maps[b, y, x, c] for c in range(5))
        expected[b, y, x] = max(total, 0.0)
    np.testing.assert_allclose(grad_cam(maps, gradient), expected, atol=1e-6)


def test_maps_are_resized_between_the_centres_of_their_places():
    heat = np.random.default_rng(0).random((2, 3, 4)).astype(np.float32)
    found = resized(heat, 7, 10)
    for b, y, x in np.ndindex(2, 7, 10):
        down = np.clip((y + 0.5) * 3 / 7 - 0.5, 0, 2)
        across = np.clip((x + 0.5) * 4 / 10 - 0.5, 0, 3)
        rows = [np.interp(across, range(4), heat[b, row]) for row in range(3)]
        assert found[b, y, x] == pytest.approx(np.interp(down, range(3), rows), abs=1e-5)


@dataclasses.dataclass(frozen=True)
class OfNetwork:
    """The features of a network, as methods give them."""

    network: Any

    def features(self, state, images, names):
        features = self.network.apply(state, images, method=Network.features)
        return {name: features[name] for name in names}


@pytest.mark.parametrize(
    "backbone",
    [
        ResNet(depth=10, width=4),
        *(
            pytest.param(backbone, marks=pytest.mark.slow)
            for backbone in (
                ResNet(depth=10, width=4, remat=True, dtype="bfloat16"),
                PreActResNet(depth=10, width=4),
                AlexNet(width=2, hidden=(8,)),
                VGG(width=2, hidden=(8,)),
            )
        ),
    ],
    ids=lambda x: f"{type(x).__name__} {x.dtype}",
)
def test_any_backbone(backbone):
    """A channel's weight is the slope of the cosine as the whole channel rises, over its places."""
    network = Network(backbone, Head(6, (10,)))
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    state = jax.jit(lambda x: network.init(jax.random.key(1), (x,), train=False))(images)
    method = OfNetwork(network)
    names = names_of(method, state, images[:1])
    assert names == Names("stage4" if isinstance(backbone, VGG) else "stage5", "embedding")
    targets = unit(jax.random.normal(jax.random.key(2), (2, 6)))

    @jax.jit
    def compute(images):
        whole = method.features(state, images, (names.maps, names.embedding))
        program = jax.make_jaxpr(lambda x: attention._features(method, names, state, x))(images)
        maps, others, rest = attention._cut(program, images)

        def cosine_at(added):
            added = jnp.broadcast_to(added.astype(maps.dtype), maps.shape)
            return jnp.sum(unit(rest(maps + added, others)) * targets, axis=1)

        channels = jnp.eye(maps.shape[-1])
        slopes = jax.vmap(lambda c: jax.jvp(cosine_at, (0 * c,), (c,))[1])(channels)
        step = 0.02 * jnp.abs(maps).max()
        differences = jax.vmap(lambda c: cosine_at(step * c) - cosine_at(-step * c))(channels)
        found = heat_and_cosine(method, names, state, images, targets)
        return whole, maps, rest(maps, others), slopes, differences / (2 * step), found

    whole, maps, embedding, slopes, differences, (heat, cosine) = compute(images)
    tolerance = 0.05 if backbone.dtype == "bfloat16" else 1e-4
    np.testing.assert_allclose(maps, whole[names.maps], atol=tolerance)
    np.testing.assert_allclose(embedding, whole["embedding"], atol=tolerance)
    np.testing.assert_allclose(cosine, np.sum(embedding * targets, 1), atol=tolerance)
    maps = np.asarray(maps, np.float32)
    places = maps.shape[1] * maps.shape[2]
    smooth = not isinstance(backbone, VGG)  # behind stage4 are ReLUs and max pools
    for weights in [slopes, differences][: 1 + (smooth and backbone.dtype == "float32")]:
        expected = np.maximum(np.einsum("bhwc,cb->bhw", maps, weights) / places, 0)
        np.testing.assert_allclose(heat, expected, atol=0.05 * float(np.max(expected)) + 1e-7)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Plain(maps=False), "Plain has no feature maps: none of stage1, stage2"),
        (Plain(jitted=True), "the embedding of Plain does not depend on its feature maps stage5"),
    ],
)
def test_methods_without_heat_maps(plain, method, message):
    state, images, _ = plain
    with pytest.raises(ValueError, match=message):
        names_of(method, state, images[:1])


def heat_of(base, key=1):
    stage = methods.stage(base)
    state = methods.fresh_state(stage, jax.random.key(0))
    names = names_of(stage.method, state, jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32))
    rows = np.array([3, 60, 5])
    images = methods.IMAGES[rows]
    result = attention.attention(stage, names, state, images, rows, jax.random.key(key))
    return names, state, *result


def test_a_bank_gives_the_target():
    names, state, heat, cosine = heat_of("anchors")
    assert names == Names("stage1", "embedding")
    stage = methods.stage("anchors")
    x = (methods.IMAGES[[3, 60, 5]] / np.float32(255) - 0.5) / 0.25
    embedding = stage.method.features(state, jnp.asarray(x), ("embedding",))["embedding"]
    bank = np.asarray(state.method.bank)[[3, 60, 5]]
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    expected = np.sum(np.asarray(embedding) * bank, axis=1)
    np.testing.assert_allclose(cosine, expected, atol=1e-5)
    assert heat.shape == (3, 4, 4)
    assert (heat >= 0).all()
    assert heat.max() > 0


def test_without_a_bank_the_mean_over_views_is_the_target():
    names, _, heat, cosine = heat_of("moco")
    assert names.embedding == "query"  # of the network that is trained
    assert (cosine < 1 - 1e-5).all()  # where it is 1, a cosine has no slope
    assert heat.max() > 0
    again = heat_of("moco")
    np.testing.assert_array_equal(again[2], heat)
    assert not np.array_equal(heat_of("moco", key=2)[3], cosine)


@pytest.mark.slow
@pytest.mark.parametrize("base", methods.methods())
def test_any_method(base):
    names, _, heat, cosine = heat_of(base) if base in methods.BASES else heat_of("swav")
    assert names.maps == "stage1"
    assert np.isfinite(heat).all()
    assert (np.abs(cosine) <= 1 + 1e-5).all()


def config(images=3):
    settings = two_epochs()
    settings.evals = {}
    settings.attention_images = images
    return settings


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs of 8 steps of Instance Discrimination, with heat maps of three images."""
    folder = tmp_path_factory.mktemp("attention") / "run"
    train.run(config(), folder, console=quiet())
    return folder


def steps(folder):
    return {
        path.stem: dict(np.load(path)) for path in (folder / attention_files.FOLDER).glob("*.npz")
    }


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, arrays in theirs.items():
        for key, expected in arrays.items():
            np.testing.assert_array_equal(ours[name][key], expected, err_msg=f"{name} {key}")


def test_a_run_records_heat_maps_and_only_observes(run, tmp_path):
    assert steps(run).keys() == {"images", "0", "8", "16"}
    recorded = attention_files.read(run)
    assert recorded.steps == [0, 8, 16]
    assert [x.shape for x in recorded.heat] == [(3, 4, 4)] * 3
    assert recorded.cosine.shape == (3, 3)
    assert recorded.pictures.shape == (3, 8, 8, 1)
    assert (recorded.bank, recorded.maps) == (True, "stage1")
    assert recorded.cosine[2].mean() > recorded.cosine[0].mean()  # the bank follows the images
    train.run(config(images=0), tmp_path / "without", console=quiet())
    assert records(tmp_path / "without") == records(run)
    assert not (tmp_path / "without" / attention_files.FOLDER).exists()


def test_resuming_repeats_what_was_recorded_later(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "checkpoints" / "16")
    (folder / attention_files.FOLDER / "8.npz").unlink()  # stopped before it was written
    np.savez(folder / attention_files.FOLDER / "12.npz", left=1)
    train.run(config(), folder, console=quiet())
    assert_same(steps(folder), steps(run))


@pytest.mark.slow
def test_another_number_on_resuming_shows_the_images_that_all_have(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "checkpoints" / "16")
    train.run(config(images=2), folder, console=quiet())
    recorded = attention_files.read(folder)
    whole = attention_files.read(run)
    assert len(recorded.rows) == len(recorded.pictures) == 2
    np.testing.assert_array_equal(recorded.rows, whole.rows[:2])
    np.testing.assert_allclose(recorded.cosine, whole.cosine[:, :2], atol=1e-6)


def test_settings_that_cannot_be_are_one_line(run, tmp_path):
    few = config(images=50)
    few.data.limit = 40
    with pytest.raises(SettingError, match="attention_images=50: between 0 and the 40 training"):
        train.run(few, tmp_path / "a", console=quiet())
    with pytest.raises(SettingError, match="attention_images=65: at least 0 and at most 64"):
        train.run(config(images=65), tmp_path / "b", console=quiet())
    with pytest.raises(SettingError, match="no heat maps; train with --config.attention_images=8"):
        attention_files.read(tmp_path)
    folder = tmp_path / "run"
    shutil.copytree(run / "attention", folder / "attention")
    (folder / "attention" / "8.npz").write_bytes(b"PK")
    with pytest.raises(SettingError, match="8.npz is damaged .*; remove it"):
        attention_files.read(folder)
    whole = (run / "attention" / "8.npz").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):  # zlib and zipfile have errors of their own
        content = np.frombuffer(whole, np.uint8).copy()
        content[rng.integers(0, len(content), 9)] ^= 255
        (folder / "attention" / "8.npz").write_bytes(content.tobytes())
        with pytest.raises(SettingError, match="8.npz is damaged .*; remove it"):
            attention_files.read(folder)
    (folder / "attention" / "images.npz").unlink()
    with pytest.raises(SettingError, match="images.npz is missing; .*, so remove .*/attention$"):
        attention_files.read(folder)


def test_columns_are_ends_of_rounds():
    written = [{"step": s, "epoch": s / 10} for s in range(10, 90, 10)]
    rounds = [{"step": s, "epoch": s / 10, "refresh/round": r} for r, s in ((1, 20), (2, 60))]
    recorded = [0, 10, 20, 30, 60, 70, 80]
    assert reported.columns(recorded, written + rounds) == [0, 2, 4, 6]
    assert reported.title(60, written + rounds) == "round 1\nepoch 6"
    assert reported.title(80, written + rounds) == "round 2\nepoch 8"
    assert reported.title(0, written) == "untrained"
    assert reported.columns(range(0, 1000, 10), written) == [0, 20, 40, 59, 79, 99]


def test_the_figure_says_what_it_shows(run):
    (content,) = record.read([run])
    figure, caption = reported.figure(content)
    texts = [text.get_text() for text in figure.axes[0].texts]
    recorded = attention_files.read(run)
    assert texts[:3] == ["untrained", "epoch 1", "epoch 2"]
    assert f"image {recorded.rows[0]}" in texts
    assert f"{recorded.cosine[1, 2]:.2f}" in texts
    assert len(figure.axes[0].images) == 3 * (1 + 2 * 3)
    assert "its row of the memory bank, over the 4 x 4 places of stage1" in caption
    heat = figure.axes[0].images[2].get_array()
    expected = recorded.heat[0][0] / max(recorded.heat[0][0].max(), 1e-30)
    np.testing.assert_allclose(heat, resized(expected, 96, 96), atol=1e-6)
    sections = page.sections([content], {}, Attempts(lambda line: None))
    assert "Attention" in [section.title for section in sections]


def test_pictures_have_their_true_proportions():
    squares = WholePictures(np.zeros((2, 8, 8, 3), np.uint8), np.float32([[20, 40], [8, 8]]))
    np.testing.assert_allclose(_proportions(squares, 0.0), [0.5, 1.0])
    np.testing.assert_allclose(_proportions(squares, 0.875), [1.0, 1.0])  # a central square
    np.testing.assert_allclose(_proportions(np.zeros((1, 6, 12, 3)), 0.0), [0.5])
    heat = np.ones((2, 2, 2))
    figure = figures.attention_dynamics(
        squares.pixels, [heat], np.zeros((1, 2)), ["now"], proportions=[0.5, 1.0]
    )
    left, right, bottom, top = figure.axes[0].images[2].get_extent()
    assert (bottom - top) / (right - left) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="T times"):
        figures.attention_dynamics(squares.pixels, [heat[:1]], np.zeros((1, 2)), ["now"])


def test_a_recorder_of_nothing_does_nothing(tmp_path):
    plan = train.build(config(images=0))
    recorder = AttentionRecorder(plan, tmp_path, None)
    recorder.open(0)
    recorder.record(plan.stages[0], None, 8)
    assert not recorder.missing(8)
    assert not list(tmp_path.iterdir())


def test_one_command_draws_it(run, tmp_path, capsys):
    command = runpy.run_path(str(SCRIPT))["main"]
    out = tmp_path / "a.png"
    command([str(run), f"--out={out}"])
    assert f"wrote {out}" in capsys.readouterr().out
    with Image.open(out) as image:
        assert image.size[0] > 500
    for arguments, message in (
        ([str(tmp_path)], "is not a run folder"),
        ([str(run), "--out=a.pdf"], "give a .png file in an existing folder"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            command(arguments)
