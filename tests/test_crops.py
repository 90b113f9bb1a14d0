"""The comparison of views with those of torchvision, and its table in docs/data.md."""

import dataclasses
import runpy

import jax
import numpy as np
import pytest
from helpers.runs import TESTS
from PIL import Image
from sklearn.datasets import load_sample_image

CROPS = runpy.run_path(str(TESTS.parent / "experiments" / "crops.py"))
PAGE = (TESTS.parent / "docs" / "data.md").read_text("utf-8")


def test_crops_of_fewer_pixels_than_the_view_are_enlarged():
    crops = np.array([(0, 0, 100, 90), (0, 0, 97, 97), (0, 0, 60, 200), (5, 5, 90, 90)], np.float32)
    assert CROPS["enlarged"](crops, 96) == 0.5
    assert CROPS["enlarged"](crops, 96, kept=(3.0, 3.0)) == 0.5  # a larger square adds nothing
    assert CROPS["enlarged"](crops, 96, kept=(0.5, 3.0)) == 1.0


def test_the_page_has_the_shares_of_enlarged_crops():
    table = PAGE.partition(CROPS["BEGIN"])[2].partition(CROPS["END"])[0]
    shares = {
        (cells[2], cells[3]): [float(cell.strip(" %")) / 100 for cell in cells[4:7]]
        for cells in ([c.strip() for c in line.split("|")] for line in table.splitlines())
        if len(cells) > 4 and cells[1] == "375x500"
    }
    height, width = CROPS["TYPICAL"]
    numbers = jax.random.uniform(jax.random.key(0), (2000, CROPS["NUMBERS"]))
    cases = list(CROPS["cases"]())
    assert {(case.recipe, f"{case.view.size}") for case in cases} == set(shares)
    for case in cases:
        crops = CROPS["boxes"](numbers, (height, width), case.view)
        before = CROPS["boxes"](numbers, (case.before, case.before), case.view)
        found = [
            CROPS["enlarged"](crops, case.view.size),
            CROPS["enlarged"](crops, case.view.size, (case.side / height, case.side / width)),
            CROPS["enlarged"](before, case.view.size),
        ]
        assert found == pytest.approx(shares[case.recipe, f"{case.view.size}"], abs=0.03)


def test_views_of_whole_pictures_are_nearly_those_of_torchvision():
    photograph = Image.fromarray(load_sample_image("china.jpg")).resize((250, 188))
    case = next(case for case in CROPS["cases"]() if case.recipe == "SwAV, `:folder`")
    case = dataclasses.replace(case, before=64, view=dataclasses.replace(case.view, size=48))
    numbers = jax.random.uniform(jax.random.key(1), (8, CROPS["NUMBERS"]))
    now, before = CROPS["differences"](photograph, case, numbers)
    assert now.shape == before.shape == (8,)
    assert now.mean() < 1.0
    assert before.mean() > 2 * now.mean()
    square = photograph.crop((0, 0, 188, 188))
    now, _ = CROPS["differences"](square, case, numbers)
    assert now.mean() < 1.5
