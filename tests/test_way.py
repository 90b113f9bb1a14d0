"""The commands of docs/from-pictures-to-names.md, run in their order on a few small pictures."""

import csv
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from helpers.foreign_names import random_weights
from helpers.runs import TESTS, environment
from PIL import Image
from safetensors.numpy import save_file

from ssl_jax.models.resnet import ResNet

PAGE = TESTS.parent / "docs" / "from-pictures-to-names.md"
COUNT = 48
SMALLER = {  # what keeps a command short; later flags win over those of the page
    "ssl_jax.main": ("--config.epochs=1", "--config.model.width=4", "--config.batch_size=16"),
    "ssl_jax.preview": ("--images=2",),
}


def commands():
    """The commands of the page, as lists of words."""
    fences = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    blocks = [text for kind, text in fences.findall(PAGE.read_text("utf-8")) if not kind]
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[2:] for line in lines if line.startswith("python -m ")]


@pytest.fixture
def folder(tmp_path):
    """48 pictures of two kinds, a new one, a few labels, and a weight file."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "new").mkdir()
    for i in range(COUNT):
        pixels = rng.normal(60 + 120 * (i % 2), 40, (32, 32, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i:02}.jpg")
    Image.fromarray(pixels).save(tmp_path / "new" / "new.jpg")
    rows = "".join(f"{i:02}.jpg,{('dark', 'bright')[i % 2]}\n" for i in range(12))
    (tmp_path / "few.csv").write_text(f"file,label\n{rows}")
    network = random_weights(ResNet(depth=18, width=4, stem="imagenet"))
    save_file({name: np.float32(x) for name, x in network.items()}, tmp_path / "w.safetensors")
    return tmp_path


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def name_clusters(folder):
    """What the page in the browser downloads: one cluster named, one picture an outlier."""
    rows = table(folder / "clusters.csv")
    lines = ["file,cluster,label,outlier"]
    for i, row in enumerate(rows):
        named = row["cluster"] == rows[-1]["cluster"] and i > 0
        lines.append(f"{row['file']},{row['cluster']},{'sky' if named else ''},{int(i == 0) or ''}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.mark.long
def test_the_page_leads_from_pictures_to_names(folder):
    printed = []
    for module, *flags in commands():
        flags = [flag.replace("resnet18.pth", "w.safetensors") for flag in flags]
        if "--names=labels.csv" in flags:
            name_clusters(folder)
        more = SMALLER.get(module, ())
        cache = {"XDG_CACHE_HOME": str(folder / "cache")}
        done = subprocess.run(
            [sys.executable, "-m", module, *flags, *more],
            cwd=folder,
            env=environment() | cache,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, (module, flags, done.stderr)
        printed.append(done.stdout)
    assert len(printed) == 11
    assert (folder / "preview.png").is_file()
    assert "starting from w.safetensors at step 0" in printed[-1]
    assert len(table(folder / "clusters.csv")) == len(table(folder / "weights.csv")) == COUNT
    sky = {row["file"] for row in table(folder / "clusters.csv") if row["name"] == "sky"}
    assert sky == {path.name for path in (folder / "sorted" / "sky").iterdir()}
    assert [path.name for path in (folder / "sorted" / "outliers").iterdir()] == ["00.jpg"]
    (one,) = table(folder / "one.csv")
    names = {row["cluster"]: row["name"] for row in table(folder / "clusters.csv")}
    assert one["name"] == names.get(one["cluster"], "")
    assert {row["label"] for row in table(folder / "labelled.csv")} <= {"dark", "bright"}
    with np.load(folder / "features.npz") as file:
        assert file["features"].shape == (COUNT, 32)
    assert (folder / "encoder" / "model.safetensors").is_file()
    (command,) = re.findall("embedding-atlas pictures.parquet .*", "".join(printed))
    assert command in PAGE.read_text("utf-8")
