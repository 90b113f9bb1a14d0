"""Each transform against Pillow or the textbook."""

import colorsys
import dataclasses
import io
import itertools
import math

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter1d
from sklearn.datasets import load_sample_image

from ssl_jax.data import augment, decode
from ssl_jax.data.augment import (
    _DRAWS,
    View,
    clean,
    colour_jitter,
    crop_box,
    draw_view,
    draw_views,
    gaussian_blur,
    resized_crop,
    shift_hue,
)
from ssl_jax.data.whole import LONGEST, WholePictures, geometry

RNG = np.random.default_rng(0)
PHOTO = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)).resize(
        (40, 48), Image.BICUBIC
    )
)


def pillow(image, box, size):
    """Crop, then resize each float channel: no rounding to bytes on the way."""
    top, left, height, width = box
    crop = np.float32(image[top : top + height, left : left + width]) / 255

    def resize(channel):
        return Image.fromarray(channel, mode="F").resize((size, size), Image.BILINEAR)

    return np.stack([np.asarray(resize(crop[..., c])) for c in range(crop.shape[2])], axis=-1)


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
@pytest.mark.parametrize("box", [(0, 0, 48, 40), (5, 3, 20, 31), (10, 10, 7, 9), (47, 39, 1, 1)])
@pytest.mark.parametrize("size", [8, 24, 60])
def test_resized_crop_against_pillow(box, size):
    expected = pillow(PHOTO, box, size)
    found = jax.jit(resized_crop, static_argnums=2)(
        jnp.float32(PHOTO) / 255, jnp.float32(box), size
    )
    np.testing.assert_allclose(found, expected, atol=2e-6)
    flipped = resized_crop(jnp.float32(PHOTO) / 255, jnp.float32(box), size, flip=True)
    np.testing.assert_allclose(flipped, expected[:, ::-1], atol=2e-6)


def test_crop_boxes_are_torchvisions(key):
    def box(u):
        return jnp.stack(crop_box(u, (48, 40), (0.2, 0.8), (3 / 4, 4 / 3)))

    boxes = jax.jit(jax.vmap(box))(jax.random.uniform(key, (4000, 22)))
    top, left, height, width = np.asarray(boxes).T
    assert np.array_equal(boxes, np.round(boxes))
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 48).all()
    assert (left + width <= 40).all()
    share = height * width / (48 * 40)
    ratio = width / height
    assert share.min() > 0.18
    assert share.max() < 0.82
    assert ratio.min() > 0.7
    assert ratio.max() < 1.42
    # Area is even in its range, ratio even in its logarithm (large wide crops that do not fit are
    # drawn again).
    small = share < 0.5
    np.testing.assert_allclose(np.mean(share < 0.35), 0.27, atol=0.03)
    np.testing.assert_allclose(np.log(ratio[small]).mean(), 0.0, atol=0.02)
    np.testing.assert_allclose((left / np.maximum(40 - width, 1)).mean(), 0.5, atol=0.02)


def test_crop_falls_back_to_the_centre(key):
    # No crop of twice the width fits a tall image: the widest of the allowed ratio, centred.
    box = np.asarray(
        jnp.stack(crop_box(jax.random.uniform(key, (22,)), (100, 10), (0.9, 1.0), (2.0, 2.0)))
    )
    np.testing.assert_array_equal(box, [47, 0, 5, 10])


def test_hue_against_colorsys():
    image = RNG.uniform(0, 1, (5, 7, 3)).astype(np.float32)
    image[0, 0] = 0.5
    image[0, 1] = 0.0
    image[0, 2] = [1, 0, 0]
    for shift in (-0.4, 0.0, 0.1, 0.5):

        def turn(rgb, s=shift):
            return (lambda h, sat, v: colorsys.hsv_to_rgb((h + s) % 1.0, sat, v))(
                *colorsys.rgb_to_hsv(*rgb)
            )

        expected = np.array([[turn(pixel) for pixel in row] for row in image])
        np.testing.assert_allclose(shift_hue(jnp.asarray(image), shift), expected, atol=3e-6)


def test_jitter_compiled_is_jitter_computed_step_by_step():
    """The largest channel must be one of the three, however XLA rounds what it computes twice."""
    images = RNG.uniform(size=(16, 48, 48, 3)).astype(np.float32)
    u = RNG.uniform(size=(16, 8)).astype(np.float32)

    def jitter(u, image):
        return colour_jitter(u, image, 0.4, 0.4, 0.4, 0.1)

    found = jax.jit(jax.vmap(jitter))(u, images)
    np.testing.assert_allclose(found, jax.vmap(jitter)(u, images), atol=1e-5)


def reference_jitter(image, order, factors, hue):
    def grey(x):
        return (x @ np.array([0.2989, 0.587, 0.114]))[..., None]

    for kind in order:
        if kind == 3:
            image = np.asarray(shift_hue(jnp.float32(image), hue))
            continue
        other = (0.0, grey(image).mean(), grey(image))[kind]
        image = np.clip(factors[kind] * image + (1 - factors[kind]) * other, 0, 1)
    return image


def test_colour_jitter_is_its_four_transforms_in_every_order():
    image = jnp.float32(PHOTO) / 255
    drawn = RNG.uniform(size=4).astype(np.float32)
    low = np.array([0.6, 0.5, 0.2])
    high = np.array([1.4, 1.5, 1.8])
    factors = low + (high - low) * drawn[:3]
    hue = 0.2 * (2 * drawn[3] - 1)
    orders = np.array(list(itertools.permutations(range(4))))
    u = np.concatenate(
        [np.argsort(orders, axis=1) / 4, np.broadcast_to(drawn, (24, 4))], axis=1
    ).astype(np.float32)
    found = np.asarray(jax.vmap(lambda u: colour_jitter(u, image, 0.4, 0.5, 0.8, 0.2))(u))
    for order, result in zip(orders, found):
        np.testing.assert_allclose(
            result, reference_jitter(np.asarray(image), order, factors, hue), atol=3e-6
        )
    assert np.abs(found - found[:1]).max() > 0.01


FLOATS = np.float32(PHOTO) / 255
BYTE = 1.01 / 255  # Pillow rounds to bytes


@pytest.mark.parametrize("factor", [0.3, 1.0, 1.7])
def test_single_blends_against_pillow(factor):
    # The order that puts one kind first, strengths of zero elsewhere, a draw that gives `factor`.
    for kind, name in enumerate(("Brightness", "Contrast", "Color")):
        u = jnp.full(8, 0.5).at[4 + kind].set(factor / 2)
        strengths = [1.0 if k == kind else 0.0 for k in range(3)]
        expected = (
            np.float32(getattr(ImageEnhance, name)(Image.fromarray(PHOTO)).enhance(factor)) / 255
        )
        np.testing.assert_allclose(
            colour_jitter(u, FLOATS, *strengths, 0.0), expected, atol=2 * BYTE
        )


def test_grey_against_pillow():
    view = View(size=40, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=1.0)
    square = PHOTO[:40]
    expected = np.float32(Image.fromarray(square).convert("L"))[..., None] / 255
    found = draw_view(jnp.full(_DRAWS, 0.5), square, view)
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=BYTE)


def test_solarisation_against_pillow():
    view = View(
        size=40,
        scale=(1.0, 1.0),
        ratio=(1.0, 1.0),
        flip=0.0,
        jitter=0.0,
        grayscale=0.0,
        solarize=1.0,
    )
    square = PHOTO[:40]
    expected = np.float32(ImageOps.solarize(Image.fromarray(square))) / 255
    np.testing.assert_allclose(draw_view(jnp.full(_DRAWS, 0.5), square, view), expected, atol=1e-6)


@pytest.mark.parametrize(("sigma", "taps"), [(0.1, 13), (0.7, 13), (2.0, 13), (2.0, 23), (1.5, 3)])
def test_blur_against_scipy_and_dm_pix(sigma, taps):
    square = FLOATS[:40]
    found = np.asarray(jax.jit(gaussian_blur, static_argnums=2)(square, sigma, taps))
    # scipy's "mirror" is torchvision's "reflect"; both cut the kernel at taps // 2 and normalise
    # it.
    expected = np.float64(square)
    for axis in (0, 1):
        expected = gaussian_filter1d(expected, sigma, axis, mode="mirror", radius=taps // 2)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    with jax.numpy_rank_promotion("allow"):
        other = np.asarray(dm_pix.gaussian_blur(jnp.asarray(square), sigma, taps))
    edge = taps // 2
    inside = slice(edge, 40 - edge)
    np.testing.assert_allclose(found[inside, inside], other[inside, inside], atol=1e-5)


def test_blur_of_zero_changes_nothing():
    np.testing.assert_allclose(gaussian_blur(FLOATS[:40], 0.0, 13), FLOATS[:40], atol=1e-6)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_is_near_pillows_box_approximation(sigma):
    # Pillow's three box passes only resemble a Gaussian, in bytes, and repeat the edge instead of
    # reflecting it.
    expected = np.float32(Image.fromarray(PHOTO[:40]).filter(ImageFilter.GaussianBlur(sigma))) / 255
    found = np.asarray(gaussian_blur(FLOATS[:40], sigma, 13))
    assert np.abs(found - expected)[4:-4, 4:-4].mean() < 0.004
    assert np.abs(found - expected)[4:-4, 4:-4].max() < 0.03
    assert (
        np.abs(FLOATS[:40] - expected)[4:-4, 4:-4].max()
        > 2 * np.abs(found - expected)[4:-4, 4:-4].max()
    )


def test_transforms_come_as_often_as_asked(key):
    images = np.broadcast_to(PHOTO[:40], (400, 40, 40, 3))
    plain = dict(
        size=40, count=1, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0
    )
    for name in ("flip", "grayscale", "blur", "solarize"):
        draw = jax.jit(draw_views, static_argnums=(2, 3, 4))
        views = draw(key, images, (View(**plain | {name: 0.3}),), (0.0,) * 3, (1.0,) * 3)[0]
        changed = np.abs(np.asarray(views) - FLOATS[:40]).max((1, 2, 3)) > 1e-3
        assert 0.2 < changed.mean() < 0.4, name


def test_multi_crop_of_real_sizes(key):
    groups = (
        View(size=32, scale=(0.2, 1.0)),
        View(size=18, count=6, scale=(0.05, 0.14), blur=0.5, solarize=0.1),
    )
    images = RNG.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    views = jax.jit(draw_views, static_argnums=(2, 3, 4))(
        key, images, groups, (0.0,) * 3, (1.0,) * 3
    )
    assert [v.shape[1] for v in views] == [32] * 2 + [18] * 6
    for v in views:
        assert float(v.min()) >= -1e-6
        assert float(v.max()) <= 1 + 1e-6


def test_grey_images_pass(key):
    image = RNG.integers(0, 256, (8, 8, 1), dtype=np.uint8)
    view = draw_view(
        jax.random.uniform(key, (_DRAWS,)), image, View(size=6, jitter=1.0, grayscale=1.0, hue=0.5)
    )
    assert view.shape == (6, 6, 1)
    assert np.isfinite(view).all()


def test_probabilities(key):
    images = np.broadcast_to(PHOTO[None, :40], (400, 40, 40, 3))
    whole = dict(size=40, count=1, scale=(1.0, 1.0), ratio=(1.0, 1.0))

    def draw(**settings):
        return np.asarray(
            draw_views(
                key,
                images,
                (View(**(whole | dict(flip=0.0, jitter=0.0, grayscale=0.0) | settings)),),
                (0.0,) * 3,
                (1.0,) * 3,
            )[0]
        )

    original = np.float32(images) / 255
    np.testing.assert_allclose(draw(), original, atol=1e-6)
    flipped = np.abs(draw(flip=0.3) - original[:, :, ::-1]).max((1, 2, 3)) < 1e-5
    np.testing.assert_allclose(flipped.mean(), 0.3, atol=0.08)
    grey = draw(grayscale=0.2)
    np.testing.assert_allclose((np.ptp(grey, axis=3).max((1, 2)) < 1e-6).mean(), 0.2, atol=0.07)
    jittered = np.abs(draw(jitter=0.8) - original).max((1, 2, 3)) > 1e-4
    np.testing.assert_allclose(jittered.mean(), 0.8, atol=0.07)


def test_every_image_and_every_view_has_its_own_key(key):
    images = np.broadcast_to(PHOTO[None], (3, *PHOTO.shape))
    wanted = (View(size=16, count=2), View(size=8, count=1)), (0.5,) * 3, (0.2,) * 3
    draw = jax.jit(lambda key, images: draw_views(key, images, *wanted))
    views = draw(key, images)
    assert [v.shape for v in views] == [(3, 16, 16, 3), (3, 16, 16, 3), (3, 8, 8, 3)]
    flat = [np.asarray(v).reshape(3, -1) for v in views[:2]]
    rows = np.concatenate(flat)
    assert len(np.unique(rows.round(4), axis=0)) == 6
    # An image's views do not depend on what else is in the batch.
    again = draw(key, np.concatenate([images[:1], 255 - images[1:]]))
    np.testing.assert_allclose(again[0][0], views[0][0], atol=1e-6)


def test_clean_images_are_whole():
    x = clean(PHOTO[None], 24, (0.0,) * 3, (1.0,) * 3)
    np.testing.assert_allclose(
        x[0], resized_crop(jnp.float32(PHOTO) / 255, (0.0, 0.0, 48.0, 40.0), 24), atol=1e-6
    )
    square = PHOTO[None, :40]
    np.testing.assert_allclose(
        clean(square, 40, (0.0,) * 3, (1.0,) * 3), np.float32(square) / 255, atol=1e-6
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(hue=0.6), "half a turn"),
        (dict(scale=(0.0, 1.0)), "above 0"),
        (dict(flip=1.5), "between 0 and 1"),
        (dict(sigma=(2.0, 1.0)), "smallest, largest"),
        (dict(kernel=4), "odd number"),
        (dict(blur=0.5, sigma=(0.1, 3.0)), "19 taps does not fit views of 8 pixels"),
        (dict(solarize=0.5, threshold=128.0), "between 0 and 1"),
        (dict(count=0), "at least 1"),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ValueError, match=message):
        View(size=8, **settings)


OFF = (View(size=6, count=1, blur=0.5, sigma=(0.1, 0.5), solarize=0.2), View(size=4, count=2))
# Of commit 0a1c6f9, before vertical flips and quarter turns: pixel (1, 2) of two images in each
# view, and numbers 0, 22 and 35 of the first image in each group of views.
EARLIER_PIXELS = [
    [[-0.832570, -1.336092, -0.392861], [0.527360, 0.082713, 1.063309]],
    [[0.135930, -0.421754, -0.451381], [1.263228, 0.694058, 0.860220]],
    [[0.545951, -0.212320, 0.118744], [-0.155236, -0.218649, 0.054234]],
]
EARLIER_NUMBERS = [
    [0.1888641119003296, 0.07867515087127686, 0.1618283987045288],
    [0.24500691890716553, 0.9352695941925049, 0.9008311033248901],
]


def numbers_drawn(monkeypatch, views, key):
    """The random numbers of the first image in each group of `views`."""
    drawn = []

    def zeros(u, image, view):
        jax.debug.callback(lambda x: drawn.append(np.asarray(x)), u, ordered=False)
        return jnp.zeros((view.size, view.size, 3))

    monkeypatch.setattr("ssl_jax.data.augment.draw_view", zeros)
    for i, view in enumerate(views):
        keys = jax.random.split(jax.random.fold_in(key, i), (view.count, 2))
        augment._draw_by_key(view, keys[0, 0], np.zeros((12, 12, 3), np.uint8))
    jax.effects_barrier()
    return drawn


@pytest.mark.slow
def test_without_turns_every_number_and_pixel_is_as_before_they_existed(monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 12, 3), dtype=np.uint8)
    views = draw_views(jax.random.key(7), images, OFF, (0.5,) * 3, (0.25,) * 3)
    for view, expected in zip(views, EARLIER_PIXELS):
        np.testing.assert_allclose(view[:, 1, 2], expected, atol=2e-6)
    off = numbers_drawn(monkeypatch, OFF, jax.random.key(7))
    assert [x[[0, 22, 35]].tolist() for x in off] == EARLIER_NUMBERS
    assert [len(x) for x in off] == [36, 36]
    turning = [dataclasses.replace(view, flip_vertical=0.5, quarter_turns=0.5) for view in OFF]
    on = numbers_drawn(monkeypatch, turning, jax.random.key(7))
    for before, after in zip(off, on):  # crops and colours stay as they are
        np.testing.assert_array_equal(after[:36], before)
        assert len(set(after[36:].tolist()) - set(before.tolist())) == 3


WHOLE = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_turns_are_numpys(flip, count):
    image = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    view = View(size=8, count=1, flip_vertical=0.5, quarter_turns=0.5, **WHOLE)
    u = np.full(_DRAWS + 3, 0.25, np.float32)
    u[-3:] = (0.25 if flip else 0.75, 0.25 if count else 0.75, (count - 0.5) / 3)
    expected = np.rot90(np.flipud(image) if flip else image, count)
    upright = draw_view(u[:-3], image, View(size=8, count=1, **WHOLE))
    np.testing.assert_allclose(upright, image / 255, atol=1e-6)
    turned = draw_view(u, image, view)
    np.testing.assert_allclose(turned, expected / 255, atol=1e-6)
    exact = np.rot90(np.flipud(upright) if flip else upright, count)
    np.testing.assert_array_equal(turned, exact)


def test_turns_are_as_frequent_as_set_and_cost_one_trace(key):
    image = np.zeros((4, 4, 1), np.uint8)
    image[0, 0] = 255
    image[0, 1] = 100
    image = image.repeat(3, axis=2)
    traces = []

    def first_views(key, flip, turns):
        traces.append(flip)
        view = View(size=4, count=1, flip_vertical=flip, quarter_turns=turns, **WHOLE)
        images = jnp.broadcast_to(jnp.asarray(image), (4000, 4, 4, 3))
        return draw_views(key, images, (view,), (0.0,) * 3, (1.0,) * 3)[0]

    draw = jax.jit(first_views, static_argnums=(1, 2))

    def shares(flip, turns):
        """How often each of the eight orientations occurs: four turns, then those of the mirror."""
        pixels = np.asarray(draw(jax.random.fold_in(key, len(traces)), flip, turns))
        kinds = [
            np.rot90(x, k) / np.float32(255) for x in (image, np.flipud(image)) for k in range(4)
        ]
        same = [np.all(np.abs(pixels - kind) < 1e-6, axis=(1, 2, 3)) for kind in kinds]
        assert np.sum(same, axis=0).tolist() == [1] * 4000
        return np.mean(same, axis=1)

    np.testing.assert_allclose(shares(0.3, 0.0), [0.7, 0, 0, 0, 0.3, 0, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(0.0, 0.6), [0.4, 0.2, 0.2, 0.2, 0, 0, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(0.5, 0.75), [0.125] * 8, atol=0.03)
    shares(0.5, 0.75)
    assert len(traces) == 3


@pytest.mark.parametrize("name", ["flip_vertical", "quarter_turns"])
def test_turns_are_probabilities(name):
    with pytest.raises(ValueError, match=f"{name}=1.5: between 0 and 1"):
        View(size=8, **{name: 1.5})


# whole pictures


def photograph(name, side, height=427, width=640):
    """A photograph, and as it is kept, squeezed into a square."""
    pixels = load_sample_image(name)[:height, :width]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pixels, decode.decode(file.getvalue(), side, keep="whole")


def strip(height, width, side=16):
    """A picture of noise with this true size."""
    pixels = RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return WholePictures(pixels, np.float32([height, width]))


def torchvision_box(u, height, width, scale, ratio):
    """RandomResizedCrop.get_params, with given uniform numbers."""
    u = np.asarray(u, np.float32)
    low, high = np.log(np.float32(ratio))
    for area_u, ratio_u in zip(u[:10], u[10:20]):
        area = np.float32(height * width) * (scale[0] + np.float32(scale[1] - scale[0]) * area_u)
        aspect = np.exp(low + (high - low) * ratio_u)
        w = round(float(np.sqrt(area * aspect)))
        h = round(float(np.sqrt(area / aspect)))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(u[20] * (height - h + 1)), math.floor(u[21] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < min(ratio):
        h = round(w / min(ratio))
    elif width / height > max(ratio):
        w = round(h * max(ratio))
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.14, 1.0), (0.05, 0.14), (0.9, 1.0)])
@pytest.mark.parametrize("shape", [(427, 640), (500, 333), (30, 20), (40, 240), (240, 40), (9, 36)])
def test_boxes_of_whole_pictures_are_torchvisions(key, shape, scale):
    ratio = (3 / 4, 4 / 3)
    height, width = shape
    shown = min(height, LONGEST * width), min(width, LONGEST * height)
    u = jax.random.uniform(key, (300, 22))
    sizes = jnp.broadcast_to(jnp.float32(shape), (300, 2))
    pictures = WholePictures(jnp.zeros((300, 8, 8, 3)), sizes)

    def box(u, picture):
        return jnp.stack(crop_box(u, geometry(picture), scale, ratio))

    boxes = np.asarray(jax.jit(jax.vmap(box))(u, pictures))
    expected = np.array([torchvision_box(row, *shown, scale, ratio) for row in np.asarray(u)])
    np.testing.assert_array_equal(boxes, expected)
    fallback = torchvision_box(np.ones(22), *shown, (1.0, 1.0), ratio)
    share = (expected == fallback).all(axis=1).mean()
    if max(shape) >= 4 * min(shape) and scale[0] == 0.9:
        assert share == 1  # nothing of so large an area fits
    # Nothing that was cut away is looked at.
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= shown).all()


def weighted_mean(row, start, length, size):
    """A row [N] of pixels, resized from start to start + length, computed pixel by pixel."""
    scale = length / size
    result = []
    for i in range(size):
        centre = start + (i + 0.5) * scale
        total = 0.0
        weights = 0.0
        for pixel, value in enumerate(row):
            overlap = max(min(pixel + 1, start + length) - max(pixel, start), 0.0)
            distance = abs(pixel + 0.5 - centre) / max(scale, 1.0)
            weight = max(1 - distance, 0.0) * overlap
            total += weight * value
            weights += weight
        result.append(total / weights)
    return np.array(result)


@pytest.mark.parametrize("size", [3, 7, 16])
@pytest.mark.parametrize(
    "box",
    [(0.0, 0.0, 12.0, 10.0), (1.3, 2.6, 7.45, 6.2), (10.9, 0.0, 1.1, 3.5), (5.2, 4.1, 0.6, 5)],
)
def test_pixels_at_the_edges_of_a_box_count_by_their_overlap(box, size):
    image = RNG.uniform(size=(12, 10, 2))
    top, left, height, width = box
    expected = np.apply_along_axis(weighted_mean, 0, image, top, height, size)
    expected = np.apply_along_axis(weighted_mean, 1, expected, left, width, size)
    found = resized_crop(jnp.float32(image), box, size, partly=True)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    flipped = resized_crop(jnp.float32(image), box, size, partly=True, flip=True)
    np.testing.assert_allclose(flipped, expected[:, ::-1], atol=2e-6)


def test_whole_boxes_are_as_they_were():
    image = jnp.float32(PHOTO) / 255
    for box in ((0.0, 0.0, 48.0, 40.0), (5.0, 3.0, 20.0, 31.0), (47.0, 39.0, 1.0, 1.0)):
        np.testing.assert_allclose(
            resized_crop(image, box, 12, partly=True), resized_crop(image, box, 12), atol=1e-6
        )


def boxes_of(height, width, scale, count):
    draws = np.random.default_rng(1).uniform(size=(count, 22))
    return [torchvision_box(u, height, width, scale, (3 / 4, 4 / 3)) for u in draws]


@pytest.mark.parametrize(
    ("name", "size", "scale", "mean", "most"),
    [
        ("china.jpg", 224, (0.14, 1.0), 1.6, 2.7),
        ("flower.jpg", 224, (0.14, 1.0), 0.8, 1.4),
        ("china.jpg", 96, (0.05, 0.14), 1.5, 2.0),
        ("flower.jpg", 96, (0.05, 0.14), 0.75, 1.4),
    ],
)
def test_views_of_whole_photographs_against_pillow(name, size, scale, mean, most):
    """Views of SwAV from squares of 480; differences in grey levels, on average and the worst."""
    pixels, picture = photograph(name, 480)
    resize = jax.jit(
        lambda box: augment._resized(
            WholePictures(jnp.float32(picture.pixels), picture.sizes), box, size
        )
    )
    differences = []
    for top, left, height, width in boxes_of(427, 640, scale, 8):
        part = Image.fromarray(pixels).crop((left, top, left + width, top + height))
        expected = np.asarray(part.resize((size, size), Image.Resampling.BILINEAR), float)
        found = np.asarray(resize(jnp.float32([top, left, height, width])))
        differences.append(np.abs(found - expected).mean())
    assert np.mean(differences) < mean
    assert max(differences) < most


@pytest.mark.parametrize("size", [32, 9])
def test_squares_with_their_sizes_have_the_views_of_squares(key, size):
    images = RNG.integers(0, 256, (8, 24, 24, 3), dtype=np.uint8)
    pictures = WholePictures(images, np.full((8, 2), 24, np.float32))
    views = (View(size=size, blur=0.5, sigma=(0.1, 1.0), solarize=0.2),)
    draw = jax.jit(draw_views, static_argnums=(2, 3, 4))
    plain = draw(key, images, views, (0.5,) * 3, (0.25,) * 3)
    whole = draw(key, pictures, views, (0.5,) * 3, (0.25,) * 3)
    for ours, theirs in zip(whole, plain):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_views_do_not_depend_on_the_other_shapes_of_a_batch(key):
    pictures = [strip(*shape) for shape in ((30, 45), (45, 30), (16, 16), (10, 60), (90, 11))]
    batch = WholePictures(
        *(np.stack([getattr(x, f) for x in pictures]) for f in ("pixels", "sizes"))
    )
    view = View(size=12, flip_vertical=0.5, quarter_turns=0.5)
    u = jax.random.uniform(key, (len(pictures), _DRAWS + 3))
    draw = jax.jit(lambda u, picture: draw_view(u, picture, view))
    together = jax.jit(jax.vmap(draw))(u, batch)
    for i, picture in enumerate(pictures):
        np.testing.assert_allclose(together[i], draw(u[i], picture), atol=1e-5)
    np.testing.assert_allclose(together[2], draw(u[2], pictures[2].pixels), atol=1e-5)


@pytest.mark.parametrize("shape", [(30, 45), (45, 30), (10, 60)])
def test_flips_and_turns_of_whole_pictures(key, shape):
    picture = strip(*shape)
    plain = dict(size=12, count=1, jitter=0.0, grayscale=0.0)
    u = np.asarray(jax.random.uniform(key, (_DRAWS + 3,))).copy()
    upright = draw_view(u[:-3], picture, View(flip=0.0, **plain))
    mirrored = draw_view(u[:-3], picture, View(flip=1.0, **plain))
    np.testing.assert_allclose(mirrored, upright[:, ::-1], atol=1e-6)
    for quarters in (1, 2, 3):
        u[-3:] = (0.25, 0.25, (quarters - 0.5) / 3)
        view = View(flip=0.0, flip_vertical=1.0, quarter_turns=1.0, **plain)
        expected = np.rot90(np.flipud(upright), quarters)
        np.testing.assert_allclose(draw_view(u, picture, view), expected, atol=1e-6)


@pytest.mark.parametrize("size", [224, 96])
def test_the_outer_pixels_do_not_count_in_scores_as_published(size):
    """The central 224 of 256 pixels."""
    images = RNG.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    others = RNG.integers(0, 256, images.shape, dtype=np.uint8)
    others[:, 16:-16, 16:-16] = images[:, 16:-16, 16:-16]
    see = jax.jit(clean, static_argnums=(1, 2, 3), static_argnames="crop")
    settings = size, (0.0,) * 3, (1.0,) * 3
    found = np.asarray(see(images, *settings, crop=0.875))
    np.testing.assert_array_equal(found, see(others, *settings, crop=0.875))
    others[:, 16] += 1
    assert (found != see(others, *settings, crop=0.875)).any()
    inside = images[:, 16:-16, 16:-16]
    np.testing.assert_allclose(found, see(inside, *settings), atol=1e-5)
    sizes = np.full((2, 2), 256, np.float32)
    whole = see(WholePictures(images, sizes), *settings, crop=0.875)
    np.testing.assert_allclose(whole, found, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "most"),
    [
        ("china.jpg", (384, 576), 1.2),
        ("flower.jpg", (384, 576), 0.65),
        # No multiple of 256: torchvision rounds, and is half a pixel beside the middle.
        ("china.jpg", (427, 640), 1.3),
        ("flower.jpg", (427, 640), 0.65),
    ],
)
def test_scores_as_published_see_what_torchvision_shows(name, shape, most):
    """Resize(256), CenterCrop(224)."""
    pixels, picture = photograph(name, 480, *shape)
    width = int(256 * shape[1] / shape[0])
    resized = Image.fromarray(pixels).resize((width, 256), Image.Resampling.BILINEAR)
    left = round((width - 224) / 2)
    expected = np.asarray(resized.crop((left, 16, left + 224, 16 + 224)), float)
    batch = WholePictures(picture.pixels[None], picture.sizes[None])
    found = 255 * np.asarray(clean(batch, 224, (0.0,) * 3, (1.0,) * 3, crop=0.875))[0]
    assert np.abs(found - expected).mean() < most
