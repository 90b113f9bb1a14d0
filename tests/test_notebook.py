"""An encoder in a notebook: how it shows itself, and the forms of images that it takes."""

import dataclasses
import io
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.runs import tiny
from helpers.trained import made, opened
from PIL import Image
from rich.pretty import pretty_repr

from ssl_jax import load_encoder
from ssl_jax.clustering import assignment
from ssl_jax.data import datasets
from ssl_jax.inference.hand_made import Reading
from ssl_jax.inference.pretrained import export, of_run
from ssl_jax.models import weight_files
from ssl_jax.models.weight_files import WeightsError

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]
UPRIGHT = 0x0112  # EXIF's orientation


def run_on(folder, images, **data):
    """A run on images of an array, which reads pictures as squares of 16 pixels."""
    config = tiny("swav")
    config.model.update(name="resnet", width=4)
    np.savez(folder / "a.npz", images=images)
    config.data.update(name="array", dir=str(folder / "a.npz"), size=16, limit=0, **data)
    config.batch_size = 4
    config.method.update(prototypes=4, queue_length=0)
    return opened(made(folder / "run", config))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_on(tmp_path_factory.mktemp("colour"), COLOURS)


@pytest.fixture(scope="module")
def grey_run(tmp_path_factory):
    return run_on(tmp_path_factory.mktemp("grey"), GREY)


@pytest.fixture(scope="module")
def encoder(run):
    return of_run(run)


@pytest.fixture(scope="module")
def grey(grey_run):
    return of_run(grey_run)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of pictures of many shapes, modes and formats; the paths in order."""
    folder = tmp_path_factory.mktemp("pictures")
    noise = [RNG.integers(0, 256, (h, w, 4), dtype=np.uint8) for h, w in SHAPES]
    Image.fromarray(noise[0][..., :3]).save(folder / "a.png")
    Image.fromarray(noise[1][..., 0]).save(folder / "b.png")
    Image.fromarray(noise[2]).save(folder / "c.png")  # transparent
    Image.fromarray(noise[3][..., :3]).quantize(16).save(folder / "d.gif")
    turned = Image.Exif()
    turned[UPRIGHT] = 6
    Image.fromarray(noise[4][..., :3]).save(folder / "e.jpg", exif=turned)
    Image.fromarray(noise[5][..., :3]).convert("CMYK").save(folder / "f.jpg")
    Image.fromarray(noise[6][..., 0] > 99).save(folder / "g.png")
    return sorted(folder.iterdir())


SHAPES = [(20, 30), (40, 16), (25, 25), (18, 100), (90, 130), (16, 16), (21, 17)]


def as_a_folder(encoder, paths, tmp_path, name="backbone", **settings):
    """Features of the files as `assign` reads a folder, in the order of `paths`."""
    reading = encoder.takes.reading
    data = datasets.load(
        "folder",
        dir=str(paths[0].parent),
        cache=str(tmp_path / "cache"),
        size=reading.side,
        bands=reading.bands,
        labels="none",
        **settings,
    )
    features = np.asarray(encoder(data.train.images, name))
    places = {name: i for i, name in enumerate(data.names())}
    return features[[places[path.name] for path in paths]]


def same(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-5)


# how it shows itself


def test_everything_shows_itself_in_one_short_line(run, tmp_path):
    encoder = of_run(run)
    many = tuple(f"scores{i}" for i in range(90))
    export(run, tmp_path / "a.safetensors", head=True)
    shown = [
        (encoder, "Encoder(SwAV, ResNet, images [N, 8, 8, 3], features: backbone, embedding, "),
        (load_encoder(tmp_path / "a.safetensors"), "Encoder(ResNet, images [N, 8, 8, 3], "),
        (dataclasses.replace(encoder, names=many), "Encoder(SwAV, ResNet, images [N, 8, 8, 3], "),
        (run, f"Run('{run.folder}', SwAV, epoch "),
        (assignment.assign(encoder, COLOURS), "ClusterAssignment(6 images in 4 clusters)"),
    ]
    for item, start in shown:
        text = repr(item)
        assert text.startswith(start)
        assert "\n" not in text
        assert len(text) < 200
        assert pretty_repr(item, max_width=300) == text  # as rich and notebooks show it
    assert repr(shown[2][0]).endswith("scores7, and 82 more)")


# forms that are taken


def test_files_are_those_of_a_folder(encoder, grey, files, tmp_path):
    for reader in (encoder, grey, dataclasses.replace(encoder, crop=0.5)):
        expected = as_a_folder(reader, files, tmp_path)
        same(reader(files), expected)
        same(reader([str(path) for path in files]), expected)
        same(reader(np.array([str(path) for path in files])), expected)
        same(reader(iter(files)), expected)
        same(reader(files[1]), expected[1:2])
        same(reader(str(files[4])), expected[4:5])
    expected = as_a_folder(encoder, files, tmp_path, "embedding")
    same(encoder(files, "embedding"), expected)


def test_a_run_on_central_squares_reads_them(encoder, files, tmp_path):
    central = dataclasses.replace(encoder, reading=Reading(16, keep="centre"))
    expected = as_a_folder(encoder, files, tmp_path, keep="centre")
    same(central(files), expected)
    assert np.abs(np.asarray(encoder(files)) - expected).max() > 1e-3


def test_pictures_are_their_files(encoder, grey, files, tmp_path):
    for reader in (encoder, grey):
        expected = as_a_folder(reader, files, tmp_path)
        pictures = [Image.open(path) for path in files]
        same(reader([*pictures, pictures[0]]), [*expected, expected[0]])
        for picture in pictures:
            picture.load()
        small = [0, 1, 2, 3, 5, 6]
        same(reader([pictures[i] for i in small]), expected[small])
        mixed = [files[0], pictures[1], files[2], pictures[3], files[4], *pictures[5:]]
        same(reader(mixed), expected)
        # Of a large JPEG a folder decodes a smaller scale; loaded, it has all its pixels.
        loaded = tmp_path / "loaded.png"
        pictures[4].save(loaded, exif=pictures[4].getexif())
        same(reader(pictures[4]), reader(loaded))
        assert pictures[4].getexif()[UPRIGHT] == 6
        for picture in pictures:
            picture.close()


def test_pictures_keep_what_was_done_to_them(encoder, files, tmp_path):
    with Image.open(files[0]) as picture:
        picture.paste((0, 0, 0), (0, 0, 30, 10))
        picture.save(tmp_path / "changed.png")
        changed = encoder([picture])
    same(changed, encoder([tmp_path / "changed.png"]))
    assert np.abs(np.asarray(changed) - np.asarray(encoder(files[0]))).max() > 1e-3
    buffer = io.BytesIO()
    frames = [Image.fromarray(x) for x in COLOURS[:3]]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    with Image.open(buffer) as moving:
        moving.seek(2)
        second = moving.convert("RGB")
        same(encoder(moving), encoder(second))


def test_arrays_of_several_sizes_are_pictures(encoder, grey, files, tmp_path):
    arrays = []
    for path in [files[0], files[1], files[5]]:
        with Image.open(path) as picture:
            arrays.append(np.asarray(picture if picture.mode == "L" else picture.convert("RGB")))
    folder = tmp_path / "arrays"
    folder.mkdir()
    for i, pixels in enumerate(arrays):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    for reader in (encoder, grey):
        expected = as_a_folder(reader, sorted(folder.iterdir()), tmp_path)
        same(reader(arrays), expected)
        same(reader([arrays[1][..., None], arrays[0]]), expected[[1, 0]])
        same(reader([jnp.asarray(arrays[0])]), expected[:1])
        same(reader([np.float32(x) / 255 for x in arrays], unit=True), expected)


def test_arrays(encoder, grey, tmp_path):
    folder = tmp_path / "arrays"
    folder.mkdir()
    for i, pixels in enumerate(COLOURS):
        Image.fromarray(pixels).save(folder / f"{i}.png")
        Image.fromarray(GREY[i]).save(folder / f"{i}g.png")
    paths = sorted(folder.iterdir())
    np.save(tmp_path / "a.npy", GREY)
    for reader in (encoder, grey):
        of_files = as_a_folder(reader, paths, tmp_path)
        for images, expected in ((COLOURS, of_files[::2]), (GREY, of_files[1::2])):
            same(reader(images), expected)
            same(reader(jnp.asarray(images)), expected)
            same(reader(np.float32(images) / 255, unit=True), expected)
            same(reader(jnp.asarray(images, jnp.float32) / 255, unit=True), expected)
            same(reader(np.float64(images) / 255, unit=True), expected)
            same(reader(list(images)), expected)
        same(reader(np.load(tmp_path / "a.npy", mmap_mode="r")), of_files[1::2])
        rows = SimpleNamespace(shape=GREY.shape, ndim=3, dtype=GREY.dtype)
        same(reader(OnDisk(rows)), of_files[1::2])


class OnDisk:
    """Images that are read by rows, such as those of an HDF5 file."""

    def __init__(self, facts):
        self.shape, self.ndim, self.dtype = facts.shape, facts.ndim, facts.dtype

    def __len__(self):
        return len(GREY)

    def __getitem__(self, rows):
        return GREY[rows]


def test_whole_pictures_one_by_one(encoder, files, tmp_path):
    data = datasets.load(
        "folder",
        dir=str(files[0].parent),
        cache=str(tmp_path / "cache"),
        size=16,
        labels="none",
    )
    images = data.train.images
    expected = np.asarray(encoder(images))
    same(encoder(images[2]), expected[2:3])
    same(encoder([images[4], images[0]]), expected[[4, 0]])


def test_tensors(encoder):
    torch = pytest.importorskip("torch", reason="needs PyTorch, which is optional")
    same(encoder(torch.from_numpy(COLOURS)), encoder(COLOURS))
    same(encoder(torch.from_numpy(COLOURS) / 255, unit=True), encoder(COLOURS))
    same(encoder([torch.from_numpy(COLOURS[0])]), encoder([COLOURS[0]]))
    with pytest.raises(ValueError, match=r"channels go last, numpy.moveaxis\(images, 1, -1\)"):
        encoder(torch.from_numpy(COLOURS).permute(0, 3, 1, 2) / 255, unit=True)
    with pytest.raises(ValueError, match="images of type torch.Tensor are no array .*grad"):
        encoder(torch.zeros(2, 8, 8, 3, requires_grad=True), unit=True)


# more than 8 bits


def test_pictures_of_more_than_8_bits(encoder, tmp_path):
    folder = tmp_path / "deep"
    folder.mkdir()
    values = [RNG.integers(0, 4096, shape).astype(np.uint16) for shape in ((20, 30), (16, 40))]
    for i, pixels in enumerate(values):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    paths = sorted(folder.iterdir())
    scaled = dataclasses.replace(encoder, range=(0.0, 4095.0))
    expected = as_a_folder(encoder, paths, tmp_path, range=(0.0, 4095.0))
    same(scaled(paths), expected)
    with Image.open(paths[0]) as first, Image.open(paths[1]) as second:
        same(scaled([first, second]), expected)
    same(scaled([Image.fromarray(pixels) for pixels in values]), expected)
    same(scaled(values), expected)
    way_out = r"8 bits; encoder = dataclasses.replace\(encoder, range=\(black, white\)\)"
    for images in (paths, [Image.fromarray(pixels) for pixels in values]):
        with pytest.raises(ValueError, match=way_out):
            encoder(images)
    with pytest.raises(ValueError, match="image 0 is of type uint16: give uint8 in 0..255"):
        encoder(values)


# forms that are refused


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (COLOURS[0], r"one picture \[H, W, C\] is images\[None\], grey pictures"),
        (GREY[0], r"shape \(16, 16\): one grey picture is images\[None\]"),
        (np.zeros((9, 8, 1), np.uint8), r"one picture \[H, W, C\] is images\[None\]"),
        (np.zeros((9, 8, 4), np.uint8), r"one picture \[H, W, C\] is images\[None\]"),
        (GREY[:3], r"three grey pictures are images\[..., None\], one colour picture \[C, H, W\]"),
        (np.moveaxis(COLOURS, -1, 1), r"channels go last, numpy.moveaxis\(images, 1, -1\)"),
        (np.zeros((2, 8, 8, 5), np.uint8), r"give uint8 \[N, H, W, 3\]"),
        (np.zeros((2, 2, 8, 8, 3), np.uint8), r"give uint8 \[N, H, W, 3\]"),
        (np.zeros((0, 8, 8, 3), np.uint8), "N >= 1"),
        (COLOURS / 255, r"float64: give uint8 in 0..255; from 0..1: \(255 \*.*, or unit=True"),
        ([COLOURS[0] / 255], "image 0 is of type float64: .* floats of 0..1 with unit=True"),
        ([COLOURS[0], np.zeros((8, 8, 4), np.uint8)], r"image 1 has shape \(8, 8, 4\); give pict"),
        ([np.zeros((0, 8, 3), np.uint8)], r"image 0 has shape \(0, 8, 3\)"),
        ([], "there are no images; give at least one"),
        ([COLOURS[0], None], "image 1 is of type NoneType; give pictures, paths or arrays"),
        (["https://example.org/a.png"], "image 0: https://example.org/a.png is an address"),
        (["nowhere/a\n.png"], r"image 0: there is no file nowhere/a\?.png; give a path that"),
        ("no\0where", "no path can have such a character"),
        (".", r"image 0: \. is a folder; give files, such as sorted\("),
        (b"\x89PNG", "images of type bytes: give an array, or a list"),
        ({"a": COLOURS[0]}, "images of type dict: give an array, or a list"),
        (None, "images of type NoneType: give an array, or a list"),
        (np.uint8(3), "images of type uint8: give an array, or a list"),
        (np.arange(9, dtype=np.uint8), "image 0 is of type uint8; give pictures"),
        ([[1, 2], [3]], "lists of numbers of several shapes; give arrays"),
        ([["a.png"]], "lists of lists; give a list of pictures, paths or arrays"),
        (COLOURS.tolist(), "images of type int64: give uint8 in 0..255"),
    ],
)
def test_forms_that_are_refused(images, message, encoder):
    with pytest.raises(ValueError, match=message) as error:
        encoder(images)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (COLOURS, "unit=True is for floats of 0..1, the images are uint8; leave it out"),
        (2.0 * COLOURS, "values in 0..1, the images hold 0 to 510; undo a normalisation"),
        (COLOURS / 255 - 0.5, "values in 0..1, the images hold -0.5 to 0.5"),
        (np.full((1, 8, 8, 3), np.nan), "not finite; replace NaN and infinity"),
        ([COLOURS[0]], "unit=True is for floats of 0..1, image 0 is uint8; leave it out"),
        ([Image.fromarray(GREY[0])], "unit=True is for arrays of floats, not for pictures"),
        ([COLOURS[0] * 3.0], "values in 0..1, the images hold"),
    ],
)
def test_values_that_are_not_what_was_said(images, message, encoder):
    with pytest.raises(ValueError, match=message):
        encoder(images, unit=True)


def test_the_feature_is_checked_before_pictures_are_read(encoder):
    with pytest.raises(ValueError, match="no feature 'pixels'; choose one of: backbone, "):
        encoder("nowhere.png", "pixels")


def test_damaged_files_are_named(encoder, tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG and no more")
    with pytest.raises(ValueError, match=r"^image 0, .*a.png, cannot be read \(not an image"):
        encoder([tmp_path / "a.png"])


# files


def test_a_file_keeps_how_pictures_are_read(run, encoder, files, tmp_path):
    path = tmp_path / "a.safetensors"
    export(run, path)
    loaded = load_encoder(path)
    assert loaded.reading == encoder.reading == Reading(16, 0, "whole")
    same(loaded(files), encoder(files))
    assert load_encoder(path, size=12).takes.reading == Reading(12)
    assert load_encoder(path, size=14, crop=0.875).takes.reading == Reading(16)
    tensors = weight_files.read(path)
    notes = '{"size": 8, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "reading": %s}'
    for wrong in ('"a"', '{"side": 0, "bands": 0, "keep": "whole"}', '{"side": 16}', "[1]"):
        weight_files.write(path, tensors, notes % wrong)
        with pytest.raises(WeightsError, match="notes reading=.* of its pictures; export the"):
            load_encoder(path)
