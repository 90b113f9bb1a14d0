"""Each transform against Pillow or the textbook."""

import colorsys
import itertools

import dm_pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from scipy.ndimage import gaussian_filter1d

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
