"""One run folder, one training: which settings and images may change between two starts."""

import json

import numpy as np
import pytest
from helpers.runs import tiny

from ssl_jax.build import completed
from ssl_jax.data import datasets
from ssl_jax.data.datasets import Dataset, Images
from ssl_jax.runs.run_folder import claim
from ssl_jax.settings.resolve import SettingError

RNG = np.random.default_rng(0)


def begin(folder, config, fingerprint="images"):
    with claim(folder, completed(config), fingerprint):
        pass


def test_other_images_in_the_same_folder_are_refused(tmp_path):
    begin(tmp_path, tiny())
    begin(tmp_path, tiny())
    with pytest.raises(
        SettingError,
        match="was trained on different images than data.name='digits' holds now; choose another",
    ):
        begin(tmp_path, tiny(), "other images")


def test_the_place_of_the_data_may_change(tmp_path):
    config = tiny()
    begin(tmp_path, config)
    config.data.dir = "elsewhere"
    begin(tmp_path, config)


def test_a_folder_from_before_a_setting_existed_goes_on(tmp_path):
    config = tiny()
    begin(tmp_path, config)
    path = tmp_path / "config.json"
    old = json.loads(path.read_text())
    del old["data_fingerprint"], old["resident_gb"], old["model"]["remat"], old["data"]["mean"]
    del old["optim"]["base_batch_size"], old["optim"]["groups"]["prototypes"]
    old["optim"]["groups"]["prototypes"] = dict(pattern="^prototypes", frozen_epochs=1.0)
    old["augment"]["large"] = dict(size=8, count=2, scale=[0.6, 1.0])
    path.write_text(json.dumps(old))
    config.augment.large.blur = 0.0
    begin(tmp_path, config)
    path.write_text(json.dumps(old))
    config.model.remat = True
    with pytest.raises(SettingError, match="was trained with model.remat=False, not True"):
        begin(tmp_path, config)
    config.model.remat = False
    config.augment.large.blur = 0.5
    with pytest.raises(SettingError, match="augment.large.blur=0.0, not 0.5"):
        begin(tmp_path, config)


def test_fingerprints_tell_data_apart():
    def dataset(images, labels, classes=("a", "b")):
        empty = Images(images[:0], labels[:0])
        return Dataset(Images(images, labels), empty, classes, (0.5,), (0.2,)).fingerprint()

    images = RNG.integers(0, 256, (300, 4, 4, 1), dtype=np.uint8)
    labels = np.arange(300, dtype=np.int32) % 2
    same = dataset(images, labels)
    assert same == dataset(images.copy(), labels.copy())
    changed = {
        dataset(images[:299], labels[:299]),
        dataset(images[::-1], labels),
        dataset(images, 1 - labels),
        dataset(images, labels, ("a", "c")),
    }
    assert len(changed | {same}) == 5
    assert datasets.load("digits").fingerprint() != datasets.load("digits", limit=256).fingerprint()
