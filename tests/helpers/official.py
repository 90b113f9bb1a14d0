"""Tiny copies of published data sets in their official layouts."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from ssl_jax.data.voc07 import CLASSES

TRAIN = 24
TEST = 12
KINDS = 3  # classes, except of VOC07
SIZE = (12, 10)  # height and width of the pictures


def picture(path: Path, number: int) -> None:
    """Writes a picture of one grey level, by which it is told apart: 7 times its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = SIZE
    Image.new("RGB", (width, height), (7 * number,) * 3).save(path, quality=95)


def places205(folder: Path) -> None:
    """Places205 as the archives unpack: lists beside the folder of pictures."""
    scenes = ("abbey", "arch", "yard/indoor")
    lists = {"train": [], "val": []}
    for i in range(TRAIN + TEST):
        scene = scenes[i % KINDS]
        name = f"{scene[0]}/{scene}/{i:02}.jpg"
        lists["train" if i < TRAIN else "val"].append(f"{name} {i % KINDS}\n")
        picture(folder / "images256" / name, i)
    for split, lines in lists.items():
        (folder / f"{split}_places205.csv").write_text("".join(lines))
    index = [f"/{scene[0]}/{scene} {i}\n" for i, scene in enumerate(scenes)]
    (folder / "categoryIndex_places205.csv").write_text("".join(index))


def targets(number: int) -> np.ndarray:
    """What image `number` of VOC07 shows, [20]: one class, often another, a few difficult ones."""
    values = np.full(len(CLASSES), -1)
    values[number % 4 :: 4] = 1
    if number % 5 == 0:
        values[(number + 1) % len(CLASSES)] = 0
    return values


def voc07(folder: Path) -> None:
    """VOCdevkit with the lists of all 20 classes."""
    root = folder / "VOCdevkit" / "VOC2007"
    main = root / "ImageSets" / "Main"
    main.mkdir(parents=True)
    for split, numbers in (("trainval", range(TRAIN)), ("test", range(TRAIN, TRAIN + TEST))):
        for c, name in enumerate(CLASSES):
            lines = [f"{i:06} {targets(i)[c]:2d}\n" for i in numbers]
            (main / f"{name}_{split}.txt").write_text("".join(lines))
    for i in range(TRAIN + TEST):
        picture(root / "JPEGImages" / f"{i:06}.jpg", i)


def inat18(folder: Path) -> None:
    """The competition's JSON, whose categories have numbers for names, and categories.json."""
    categories = [{"id": 10 * c, "name": str(10 * c)} for c in range(KINDS)]
    species = [{"id": 10 * c, "name": f"Avis {'abc'[c]}"} for c in range(KINDS)]
    for part, numbers in (("train", range(TRAIN)), ("val", range(TRAIN, TRAIN + TEST))):
        images = []
        annotations = []
        for i in numbers:
            name = f"train_val2018/Aves/{i % KINDS}/{i:02}.jpg"
            picture(folder / name, i)
            images.append({"id": i, "file_name": name, "width": SIZE[1], "height": SIZE[0]})
            annotations.append({"id": i, "image_id": i, "category_id": 10 * (i % KINDS)})
        record = dict(images=images[::-1], annotations=annotations, categories=categories)
        (folder / f"{part}2018.json").write_text(json.dumps(record))
    (folder / "categories.json").write_text(json.dumps(species))


def cub200(folder: Path) -> None:
    """CUB_200_2011/ with its four lists; identifiers and classes begin at 1."""
    root = folder / "CUB_200_2011"
    birds = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
    lists = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    for i in range(TRAIN + TEST):
        name = f"{birds[i % KINDS]}/{i:02}.jpg"
        picture(root / "images" / name, i)
        lists["images"].append(f"{i + 1} {name}\n")
        lists["image_class_labels"].append(f"{i + 1} {i % KINDS + 1}\n")
        lists["train_test_split"].append(f"{i + 1} {int(i < TRAIN)}\n")
    lists["classes"] = [f"{c + 1} {bird}\n" for c, bird in enumerate(birds)]
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("".join(lines))


def dogs(folder: Path) -> None:
    """Images/ and MATLAB's lists of train and test."""
    breeds = ("n02085620-Chihuahua", "n02085782-Japanese_spaniel", "n02085936-Maltese_dog")
    for part, numbers in (("train", range(TRAIN)), ("test", range(TRAIN, TRAIN + TEST))):
        files = np.empty((len(numbers), 1), object)
        labels = np.empty((len(numbers), 1), np.uint8)
        for row, i in enumerate(numbers):
            files[row, 0] = f"{breeds[i % KINDS]}/{i:02}.jpg"
            labels[row, 0] = i % KINDS + 1
            picture(folder / "Images" / files[row, 0], i)
        savemat(folder / f"{part}_list.mat", {"file_list": files, "labels": labels})


MADE = {
    "places205": places205,
    "voc07": voc07,
    "inat18": inat18,
    "cub200": cub200,
    "dogs": dogs,
}
