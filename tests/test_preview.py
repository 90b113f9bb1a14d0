"""The picture of views."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import shapes
from helpers.runs import TINY, environment
from PIL import Image

from ssl_jax.data import datasets
from ssl_jax.data.augment import View
from ssl_jax.data.whole import WholePictures
from ssl_jax.preview import _GAP, _TOP, grid

UNCHANGED = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0)


def preview(*flags):
    return subprocess.run(
        [sys.executable, "-m", "ssl_jax.preview", *flags],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_grid_shows_originals_and_views_at_their_sizes(key):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    views = (View(size=32, count=1, **UNCHANGED), View(size=16, count=2))
    picture = grid(images, views, key, ["a", "b", "c"])
    # Enlarged three times: 96 pixels for the stored image and the large view, 48 for the small
    # ones.
    assert picture.shape == (_TOP + 3 * (96 + _GAP), 2 * (96 + _GAP) + 2 * (48 + _GAP) + _GAP, 3)

    def cell(left):
        return picture[_TOP + 100 : _TOP + 196 : 3, left : left + 96 : 3]

    np.testing.assert_array_equal(cell(_GAP), images[1])
    np.testing.assert_allclose(np.int32(cell(2 * _GAP + 96)), np.int32(images[1]), atol=1)


def test_grey_images_are_drawn(key):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    assert grid(images, (View(size=8),), key, ["a", "b"]).shape[2] == 3


@pytest.mark.parametrize("store", ["cache", "stream"])
def test_stored_pictures_are_drawn_in_their_true_proportions(key, tmp_path, store):
    shapes.write(tmp_path / "x")
    where = dict(dir=str(tmp_path / "x"), cache=str(tmp_path / "cache"))
    images = datasets.load("folder", size=shapes.SIDE, store=store, **where).train.images
    images = images[np.arange(len(images))]
    by_size = {tuple(size): i for i, size in enumerate(images.sizes.astype(int).tolist())}
    rows = [by_size[(64, 64) if size[0] == size[1] else size] for size in shapes.SHOWN]
    picture = grid(images[np.array(rows)], (View(size=48, **UNCHANGED),), key, ["a", "b"])
    row = 2 * shapes.SIDE + _GAP  # views of 48 pixels are enlarged twice, to 96
    column = 2 * shapes.SIDE + _GAP
    assert picture.shape == (_TOP + len(rows) * row, column + 2 * (96 + _GAP) + _GAP, 3)
    for i, (height, width) in enumerate(shapes.SHOWN.values()):
        line = picture[_TOP + i * row :][:row]
        assert shapes.box(line[:, : _GAP + column]) == (0, _GAP, 2 * height, 2 * width)
        assert shapes.box(line[:, _GAP + column :][:, :96]) == (0, 0, 96, 96)
        # The fallback of torchvision's crop, from the middle: every view has the file's colour.
        assert (picture[_TOP + i * row, column + _GAP] == line[0, _GAP]).all()


def test_upright_strips_leave_room_for_the_heading(key):
    images = np.random.default_rng(0).integers(0, 100, (2, 64, 64, 3), dtype=np.uint8)
    strips = WholePictures(images, np.float32([[300, 30], [400, 100]]))
    views = (View(size=96, count=1),)
    heading = grid(strips, views, key, ["VIEW"])[:_TOP]
    without = grid(strips, views, key, [""])[:_TOP]
    written = np.flatnonzero((without < 255).any((0, 2)))
    view = np.flatnonzero((heading != without).any((0, 2)))
    assert written[-1] + _GAP < view[0]


def test_square_pictures_look_the_same_with_and_without_their_sizes(key):
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    squares = WholePictures(images, np.full((2, 2), 64, np.float32))
    views = (View(size=32, count=2),)
    plain = grid(images, views, key, ["a", "b"])[_TOP:]
    np.testing.assert_allclose(
        np.int32(grid(squares, views, key, ["a", "b"])[_TOP:]), np.int32(plain), atol=1
    )


@pytest.mark.slow
def test_pictures_of_several_shapes_are_previewed(tmp_path):
    shapes.write(tmp_path / "x")
    out = tmp_path / "views.png"
    data = ["--config.data.name=folder", f"--config.data.dir={tmp_path / 'x'}"]
    data += ["--config.data.size=16", "--config.data.limit=0", "--config.batch_size=4"]
    for store in ("cache", "stream"):
        more = [f"--config.data.store={store}", f"--config.data.cache={tmp_path / 'cache'}"]
        done = preview(f"--config={TINY}", f"--out={out}", *data, *more)
        assert done.returncode == 0, done.stderr
        assert "6 images of folder, 3 views each" in done.stdout


@pytest.mark.slow
def test_what_is_read_is_said(tmp_path):
    """Users look here first."""
    images = np.random.default_rng(0).integers(0, 4000, (40, 3, 8, 8), dtype=np.uint16)
    np.savez(tmp_path / "x.npz", images=images)
    flags = ["--config=swav:array", f"--config.data.dir={tmp_path / 'x.npz'}"]
    done = preview(*flags, f"--out={tmp_path / 'views.png'}")
    assert done.returncode == 0, done.stderr
    first, *notes, last = done.stdout.splitlines()
    assert first == "read 40 pictures: 40 to train on, none to test on, no labels"
    assert "read as [N, C, H, W]" in notes[0]
    assert "become black to white" in notes[1]
    assert last.startswith("wrote ")


@pytest.mark.slow
def test_command(tmp_path):
    out = tmp_path / "views.png"
    done = preview(f"--config={TINY}", f"--out={out}", "--images=5")
    assert done.returncode == 0, done.stderr
    assert "5 images of digits, 3 views each" in done.stdout
    with Image.open(out) as picture:
        assert picture.size[0] > 300


def test_bad_input_is_one_line():
    calls = {  # of one process, one after the other
        "--out=x.jpg: give a .png file": ["--out=x.jpg"],
        "in an existing folder": ["--out=/nowhere/x.png"],
        "images": ["--images=0"],
        "--config.augment.large.blurr is not a setting": ["--config.augment.large.blurr=0.5"],
    }
    script = f"""
import sys
from ssl_jax import preview
from ssl_jax.settings import SettingError, command_line

for flags in {list(calls.values())!r}:
    sys.argv = ["preview", "--config={TINY}", "--images=8", *flags]
    try:
        command_line.parse(sys.argv, command_line.with_base)
        preview.main()
    except SystemExit as end:
        assert end.code == 2
    except SettingError as error:
        print(error, file=sys.stderr)
"""
    call = [sys.executable, "-c", script]
    done = subprocess.run(call, env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(calls), done.stderr
    for line, message in zip(lines, calls):
        assert message in line
