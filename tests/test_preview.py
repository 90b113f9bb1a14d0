"""The picture of views."""

import subprocess
import sys

import numpy as np
import pytest
from helpers.runs import TINY, environment
from PIL import Image

from ssl_jax.data.augment import View
from ssl_jax.preview import _GAP, _TOP, grid


def preview(*flags):
    return subprocess.run(
        [sys.executable, "-m", "ssl_jax.preview", *flags],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_grid_shows_originals_and_views_at_their_sizes(key):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    whole = dict(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, jitter=0.0, grayscale=0.0)
    views = (View(size=32, count=1, **whole), View(size=16, count=2))
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
