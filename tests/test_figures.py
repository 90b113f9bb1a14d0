"""Figures: their numbers against plain numpy, the texts of axes and legends, and bad input."""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

import ssl_jax
from ssl_jax import figures
from ssl_jax.data.whole import WholePictures
from ssl_jax.figures import codes, curves, density, discovery, maps, neighbours, style


@pytest.fixture(scope="module")
def points():
    """240 unit rows of four classes, [N, D] and [N]."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 4
    x = rng.normal(size=(4, 16))[labels] + 0.4 * rng.normal(size=(240, 16))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), labels


def texts(figure):
    """Everything that is written in a figure."""
    found = [
        t.get_text()
        for ax in figure.axes
        for t in (ax.title, ax._left_title, ax.xaxis.label, ax.yaxis.label)
    ]
    found += [t.get_text() for ax in figure.axes for t in ax.texts]
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    return [t for t in found if t] + [
        t.get_text() for legend in legends for t in legend.get_texts()
    ]


def test_densities_are_means_over_ranks(points):
    x, _ = points
    similarity = np.sort(np.where(np.eye(240, dtype=bool), -np.inf, x @ x.T), 1)[:, ::-1]
    local, background = density.local_and_background(x, k=7, background=(20, 60))
    np.testing.assert_allclose(local, similarity[:, :7].mean(1), atol=1e-5)
    np.testing.assert_allclose(background, similarity[:, 19:60].mean(1), atol=1e-5)
    some = density.local_and_background(x, k=7, background=(20, 60), rows=[3, 9])
    np.testing.assert_allclose(some, (local[[3, 9]], background[[3, 9]]), atol=1e-6)
    assert density.local_and_background(2 * x, k=7)[0] == pytest.approx(
        local, abs=1e-5
    )  # of any length


@pytest.mark.parametrize("chunk", [1, 50, 239, 240, 1024])
def test_densities_are_of_all_rows_in_chunks(points, chunk):
    """Against loops over the rows, whatever fits into memory at a time."""
    x, _ = points
    local, background = [], []
    for i, row in enumerate(x):
        others = sorted((float(row @ other) for j, other in enumerate(x) if j != i), reverse=True)
        local.append(sum(others[:10]) / 10)
        background.append(sum(others[14:60]) / 46)
    reports = []
    found = density.local_and_background(x, k=10, chunk=chunk, report=reports.append)
    assert density.background_ranks(240, 10) == (15, 60)
    np.testing.assert_allclose(found, (local, background), atol=1e-5)
    assert len(reports) == -(-240 // chunk) - 1
    assert not reports or reports[0] == f"density of {chunk} of 240 images"


def test_the_figure_of_densities_counts_all_images(monkeypatch):
    """However many: of more than 4,000 it once showed a sample."""

    def values(features, *, k, rows=None, **_):
        both = np.arange(len(features), dtype=float) ** 2
        return (both, both) if rows is None else (both[rows], both[rows])

    monkeypatch.setattr(density, "local_and_background", values)
    figure = figures.densities({"run": np.ones((5000, 1))}, k=5)
    for ax in figure.axes:
        assert ax.lines[0].get_xdata()[0] == pytest.approx((np.arange(5000.0) ** 2).mean())


@pytest.mark.parametrize(
    ("examples", "ranks"), [(1_281_167, (1000, 4096)), (50_000, (1000, 4096)), (1437, (88, 359))]
)
def test_background_ranks_are_the_papers_where_there_are_so_many(examples, ranks):
    assert density.background_ranks(examples) == ranks


@pytest.mark.parametrize("examples", range(3, 140, 17))
def test_background_ranks_are_there_in_small_sets(examples):
    first, last = density.background_ranks(examples, k=min(30, examples - 1))
    assert 1 <= first <= last < examples


def test_a_denser_run_lies_further_right(points):
    x, labels = points
    figure = figures.densities({"loose": x, "dense": x + 2 * x[labels]}, k=10)
    assert texts(figure)[0] == "local: 10 nearest"
    assert {"mean cosine similarity", "images (%)", "loose", "dense"} <= set(texts(figure))
    loose, dense = (line.get_xdata()[0] for line in figure.axes[0].lines)
    assert dense > loose
    shares = sum(p.get_path().vertices[:, 1].max() > 0 for p in figure.axes[0].patches)
    assert shares == 4  # filled and outlined, two runs


def test_matches_know_what_is_not_known():
    found = neighbours.matches(np.array([0, 2]), np.array([[1, 2], [0, 1]]), [0, 0, -1])
    np.testing.assert_array_equal(found, [[1, np.nan], [np.nan, np.nan]])


def test_neighbours_are_judged(points):
    _, labels = points
    images = np.random.default_rng(0).integers(0, 256, (240, 5, 7, 3), dtype=np.uint8)
    index = np.array([[4, 1], [5, 9]])
    similarity = np.array([[0.91, 0.5], [1.0, -0.25]])
    grid = figures.neighbour_grid(
        images, [0, 1], index, similarity, labels=labels, names=["cat", "dog", "emu", "fox"]
    )
    assert {"0.91", "0.50 \u00d7", "1.00", "-0.25", "cat", "dog"} <= set(texts(grid))
    colours = [p.get_edgecolor() for p in grid.axes[0].patches]
    assert len(set(colours)) == 2
    assert colours[0] == colours[2] == colours[3] != colours[1]
    assert len(grid.axes[0].images) == 6
    plain = figures.neighbour_grid(images, [0, 1], index, similarity)
    assert not plain.axes[0].patches


def test_two_kinds_of_neighbours_are_compared(points):
    _, labels = points
    images = np.random.default_rng(0).integers(0, 256, (240, 5, 7, 3), dtype=np.uint8)
    index = {"Euclidean": [[4, 1], [5, 9]], "in context": [[4, 8], [2, 3]]}
    distances = {"Euclidean": [[0.11, 0.22], [0.33, 0.44]], "in context": [[0.5, 0.6], [0.7, 0.8]]}
    known = np.where(np.arange(240) == 3, -1, labels)
    figure = figures.neighbour_comparison(images, [0, 1], index, distances, labels=known)
    written = texts(figure)
    for text in (
        "Euclidean: 1 of 2 right",
        "in context: 2 of 2 right",
        "Euclidean: 2 of 2 right",
        "in context: 0 of 1 right",
        "0.11",
        "0.22 \u00d7",
        "0.70 \u00d7",
        "0.80",
    ):
        assert text in written
    assert len(figure.axes[0].images) == 2 * (1 + 2 * 2)
    assert len(figure.axes[0].patches) == 7  # of an unlabelled neighbour nothing is said
    plain = figures.neighbour_comparison(images, [0, 1], index, distances)
    assert "Euclidean" in texts(plain)
    assert not plain.axes[0].patches


def test_large_images_are_shown_small():
    images = np.zeros((3, 400, 200, 1), np.uint8)
    grid = figures.neighbour_grid(images, [0], [[1, 2]], [[1.0, 1.0]])
    assert grid.axes[0].images[0].get_array().shape == (96, 48, 3)


def test_images_keep_their_proportions():
    shapes = [(64, 16), (16, 64), (400, 300), (50, 50)]
    images = [np.full((*shape, 3), 90, np.uint8) for shape in shapes]
    one_of_each = ([0, 3], [[1, 2], [2, 1]], np.full((2, 2), 0.5))
    grid = figures.neighbour_grid(images, *one_of_each)
    order = [0, 1, 2, 3, 2, 1]
    assert len(grid.axes[0].images) == len(order)
    for row, image in zip(order, grid.axes[0].images):
        left, right, bottom, top = image.get_extent()
        height, width = shapes[row]
        assert (bottom - top) / (right - left) == pytest.approx(height / width)
        assert max(bottom - top, right - left) == pytest.approx(0.92)
    centres = {
        round((image.get_extent()[2] + image.get_extent()[3]) / 2, 6)
        for image in grid.axes[0].images
    }
    assert centres == {0.5, 1.78}  # two rows
    oblong = np.full((4, 30, 60, 3), 90, np.uint8)
    extents = [
        [image.get_extent() for image in figures.neighbour_grid(x, *one_of_each).axes[0].images]
        for x in (oblong, list(oblong))
    ]
    assert extents[0] == extents[1]
    left, right, bottom, top = extents[0][0]
    assert (right - left) == pytest.approx(2 * (bottom - top))


def test_whole_pictures_are_drawn_in_their_true_proportions():
    squares = WholePictures(
        np.full((3, 32, 32, 3), 90, np.uint8), np.float32([[20, 40], [300, 30], [32, 32]])
    )
    grid = figures.neighbour_grid(squares, [0], [[1, 2]], [[1.0, 1.0]])
    shapes = [image.get_array().shape[:2] for image in grid.axes[0].images]
    assert shapes == [(16, 32), (32, 8), (32, 32)]
    for image, (height, width) in zip(grid.axes[0].images, shapes):
        left, right, bottom, top = image.get_extent()
        assert (bottom - top) / (right - left) == pytest.approx(height / width)


def test_square_images_fill_their_cells():
    """As they did when all images had one shape."""
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    grid = figures.neighbour_grid(images, [0], [[1, 2]], [[1.0, 1.0]])
    np.testing.assert_allclose(grid.axes[0].images[0].get_extent(), (0.04, 0.96, 0.96, 0.04))
    assert not grid.axes[0].collections  # nothing pale around them
    listed = figures.neighbour_grid(list(images), [0], [[1, 2]], [[1.0, 1.0]])
    assert style.encoded(listed, "png") == style.encoded(grid, "png")


def test_scaling_keeps_distances_of_a_plane():
    plane = np.random.default_rng(0).normal(size=(40, 2))
    turned = (
        np.pad(plane, ((0, 0), (0, 3)))
        @ np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    )

    def apart(x):
        return np.linalg.norm(x[:, None] - x[None], axis=-1)

    np.testing.assert_allclose(apart(maps.scaled(turned)), apart(plane), atol=1e-3)


def test_class_map(points):
    figure = figures.class_map(*points, [0, 2], names=["cat", "dog", "emu"])
    assert {"cat", "emu", "MDS 1 (no unit)", "120 images of 2 classes"} <= set(texts(figure))
    again = figures.class_map(*points, [0, 2])
    np.testing.assert_array_equal(
        *(f.axes[0].collections[1].get_offsets() for f in (figure, again))
    )


def test_tsne_draws_boundary_samples_small(points):
    x, labels = points
    near = np.arange(240) % 5 == 0
    figure = figures.tsne(x, labels, boundary=near)
    whole, alone = figure.axes
    sizes = np.concatenate([c.get_sizes() for c in whole.collections])
    assert (sizes == sizes.min()).sum() == near.sum()
    assert sum(len(c.get_offsets()) for c in alone.collections) == near.sum()
    assert {"t-SNE 1 (no unit)", "only the 48 near a boundary", "0", "3"} <= set(texts(figure))


def test_classes_keep_their_colours():
    assert maps.looks([2, 5]) == [2, 5]
    assert maps.looks([0, 56]) == [0, 1]  # 56 looks like 0


def test_purity_curves():
    found = curves.of_evaluator({"local_1": 0.9, "local_2": 0.8, "contextual_kept_1": 0.95})
    assert list(found.values()) == [{1: 0.9, 2: 0.8}, {1: 0.95}]
    figure = figures.purity_curves(found)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xydata(), [[1, 90], [2, 80]])
    assert {"by cosine", "same-class neighbours (%)"} <= set(texts(figure))


def anchor_records():
    entropies = dict(entropy_anchors_min=1.0, entropy_anchors_max=2.0, entropy_mean=2.5)
    first = {
        "refresh/round": 1.0,
        "refresh/anchors": 50.0,
        **{f"refresh/{k}": v for k, v in entropies.items()},
    }
    return [
        {"step": 0, "epoch": 0.0, "pixels/knn/top1": 0.5},
        {
            "step": 4,
            "epoch": 2.0,
            "eval/neighbourhood/all": 0.6,
            "eval/knn/top1": 0.7,
            "train/loss": 3.0,
        },
        {"step": 4, "epoch": 2.0, "refresh": True, **first},
        {"step": 8, "epoch": 4.0, "eval/neighbourhood/all": 0.7, "eval/neighbourhood/anchors": 0.8},
    ]


def test_rounds():
    found = discovery.table(anchor_records())
    assert (found["anchors"], found["entropy_anchors_max"], found["epoch"]) == (
        [50.0],
        [2.0],
        [2.0],
    )
    assert np.isnan(found["entropy_instances_min"]).all()
    figure = figures.rounds({"one": anchor_records()})
    assert {"entropy (nats)", "same-class neighbours (%)", "all images", "round", "epoch"} <= set(
        texts(figure)
    )
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["all images"], [60, 70])


def test_training_curves_have_their_baselines():
    records = anchor_records()
    other = [r | {"pixels/knn/top1": 0.4} if "pixels/knn/top1" in r else r for r in records]
    for runs, levels in (
        ({"a": records, "b": records}, [50]),
        ({"a": records, "b": other}, [50, 40]),
    ):
        figure = figures.training_curves(runs)
        assert {"test accuracy (%)", "epoch", "training loss", "raw pixels", "a", "b"} <= set(
            texts(figure)
        )
        flat = [line.get_ydata() for line in figure.axes[1].lines][2:]
        np.testing.assert_allclose([y[0] for y in flat], levels)
    assert "untrained encoder" not in texts(figure)


def test_long_curves_are_thinned():
    x, y = curves._thinned(np.arange(6000.0), np.arange(6000.0) % 2)
    assert len(x) == 600
    np.testing.assert_allclose(y, 0.5)


def test_prototypes():
    table = np.eye(4)[[0, 0, 0, 2]]
    np.testing.assert_array_equal(codes.usage(table), [3, 0, 1, 0])
    assert codes.perplexity(np.array([5, 0, 5])) == pytest.approx(2.0)
    records = [{"epoch": 1.0, "train/code_entropy": 0.5, "train/prototypes_used": 0.25}]
    figure = figures.prototypes(table, records=records)
    assert {"2 of 4 in use, perplexity 2", "prototype, most used first", "share"} <= set(
        texts(figure)
    )
    assert len(figures.prototypes(table).axes) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: figures.neighbour_grid(np.zeros((2, 4, 4), np.uint8), [0], [[1]], [[1.0]]),
            "give uint8 of shape",
        ),
        (
            lambda: figures.neighbour_grid([np.zeros((4, 4, 1))] * 2, [0], [[1]], [[1.0]]),
            r"shape \(4, 4, 1\), float64: give uint8 of shape \[H, W, C\]",
        ),
        (
            lambda: figures.neighbour_grid(np.zeros((2, 4, 4, 1), np.uint8), [0], [[1]], [1.0]),
            r"give \[Q\], \[Q, k\]",
        ),
        (lambda: figures.densities({}), "no features"),
        (
            lambda: figures.neighbour_comparison(
                np.zeros((2, 4, 4, 1), np.uint8), [0], {"a": [[1]]}, {"a": [[1.0, 2.0]]}
            ),
            r"give \[Q\], and \[Q, k\] of each kind",
        ),
        (
            lambda: density.local_and_background(np.eye(5), k=5, background=(1, 4)),
            "between 1 and the 4 other rows",
        ),
        (
            lambda: figures.class_map(np.eye(5), np.zeros(5, int), [3]),
            r"class 3 has no images; there are \[0\]",
        ),
        (lambda: figures.tsne(np.eye(9), np.zeros(8, int)), "9 features, 8 labels"),
        (lambda: figures.purity_curves({"a": {}}), "no purities"),
        (lambda: figures.rounds({"a": []}), "no record has eval/neighbourhood/all"),
        (lambda: figures.training_curves({"a": []}), "no record has any of: train/loss"),
        (lambda: figures.prototypes(np.zeros(4)), r"give \[N, K\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_style_leaves_no_trace_and_figures_are_the_same_files():
    before = dict(mpl.rcParams)

    def draw(kind):
        return style.encoded(figures.purity_curves({"a": {1: 0.5, 2: 0.25}}), kind)

    assert draw("svg") == draw("svg")
    assert draw("png").startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before


def test_only_figures_know_matplotlib():
    for path in Path(ssl_jax.__file__).parent.rglob("*.py"):
        text = path.read_text()
        assert "import pyplot" not in text
        assert "matplotlib.pyplot" not in text
        assert path.parent.name == "figures" or "import matplotlib" not in text
        assert path.parent.name == "figures" or "from matplotlib" not in text
        # And what imports figures is imported by one command alone, once it runs.
        shown = re.search("^from ssl_jax.*(figures|reporting)", text, re.M)
        assert not shown or path.parent.name in ("figures", "reporting")
