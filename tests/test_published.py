"""Exported encoders to publish: the folder, its model card, and timm's config.json."""

import dataclasses
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from helpers.runs import environment, tiny
from helpers.trained import made, opened

from ssl_jax import load_encoder
from ssl_jax.data.augment import clean
from ssl_jax.inference import published, timm_config
from ssl_jax.inference.pretrained import of_run
from ssl_jax.models.resnet import ResNet
from ssl_jax.settings.resolve import SettingError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = tiny("swav")
    config.model.update(name="resnet", width=4)
    return opened(made(tmp_path_factory.mktemp("swav") / "run", config))


def files(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_a_folder_to_publish(run, tmp_path):
    folder = tmp_path / "mine"
    published.check(folder, overwrite=False)
    tensors, reason = published.write(run, folder)
    assert reason == "timm has no ResNet-10"
    assert files(tmp_path) == ["README.md", "mine", "model.safetensors"]
    loaded = load_encoder(folder / "model.safetensors")
    np.testing.assert_allclose(loaded(IMAGES), of_run(run)(IMAGES), atol=1e-5)
    card = (folder / "README.md").read_text("utf-8")
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert "# license: choose one before you publish" in front
    assert "\nlibrary_name: ssl_jax\n" in front
    assert "license:" not in front.replace("# license:", "")  # left to the user
    assert body.startswith("\n# run\n\nAn image encoder trained without labels: SwAV with a ResNet")
    assert f"| parameters | {learnt(tensors):,} in 60 tensors |" in body
    assert "| features | 32 numbers (backbone" in body
    assert "| data | digits, 256 training images |" in body
    assert "None on record." in body
    assert "encoder = ssl_jax.load_encoder('model.safetensors')" in body
    assert "timm" not in body


def learnt(tensors):
    return sum(x.size for name, x in tensors.items() if "running_" not in name)


def with_scores(run, folder, scores, **data):
    """The run in another folder, with scores on record."""
    folder.mkdir(parents=True)
    records = [
        {"step": 8, "epoch": 1.0, "train/loss": 3.0},
        {"step": 0, "epoch": 0.0, "pixels/knn/top1": 0.5},
        *scores,
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in records))
    (folder / "data.json").write_text(json.dumps(data))
    return dataclasses.replace(run, folder=folder)


def test_a_card_has_the_scores_of_its_epoch_and_their_protocol(run, tmp_path):
    scores = [
        {"step": 8, "epoch": 1.0, "eval/knn/top1": 0.75, "eval/clustering/nmi": 0.5},
        {"step": 16, "epoch": 2.0, "eval/knn/top1": 0.9},
    ]
    published.write(with_scores(run, tmp_path / "a", scores, test=360), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "| features | kNN | NMI |" in card
    assert "| raw pixels | 0.5000 | - |\n| trained encoder | 0.7500 | 0.5000 |" in card
    assert "These are of epoch" not in card
    assert "256 training images, 360 test images" in card
    assert re.search(r"\n- knn: k \d+, ", card)
    assert "\n- seen of an image: all of it\n" in card
    published.write(with_scores(run, tmp_path / "b", scores[1:]), tmp_path / "late")
    card = (tmp_path / "late" / "README.md").read_text("utf-8")
    assert "| trained encoder | 0.9000 |" in card
    assert "These are of epoch 2, the file is of epoch 1." in card


def test_names_in_a_card_are_only_text(run, tmp_path):
    name = "<script>alert(1)<|script>\n# x [a](b) `c` *d* | e"
    record = [{"step": 8, "epoch": 1.0, f"eval/{name}/x": 1.0}]
    hostile = with_scores(run, tmp_path / name.replace("/", "-"), record)
    settings = hostile.plan.record | {"evals": {name: {"k": "](javascript:alert(1))\n---"}}}
    settings["data"] = settings["data"] | {"name": "hf:a|b<img src=x>"}
    plan = dataclasses.replace(hostile.plan, record=settings)
    published.write(dataclasses.replace(hostile, plan=plan), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "<" not in card.replace("<|", "<").replace("```", "").split("## How to load")[0]
    assert not re.search(r"(?<!\\)\]\(", card)  # no link
    assert len(re.findall(r"(?m)^---$", card)) == 2  # the front matter's
    assert len(re.findall(r"(?m)^# ", card)) == 2  # licence and title
    title = re.search(r"(?m)^# &lt;.*$", card)[0]
    assert title == (r"# &lt;script&gt;alert(1)&lt;\|script&gt;?\# x \[a\](b) \`c\` \*d\* \| e")
    assert r"| data | hf:a\|b&lt;img src=x&gt;, 256 training images |" in card
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 4}  # of both tables


def test_folders_that_are_not_replaced(run, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    with pytest.raises(SettingError, match="--folder=.*nowhere/mine: give a folder in one that ex"):
        published.check(tmp_path / "nowhere" / "mine", overwrite=True)
    folder.mkdir()
    published.check(folder, overwrite=False)  # empty
    published.write(run, folder)
    with pytest.raises(SettingError, match="holds an encoder; --overwrite replaces its files"):
        published.check(folder, overwrite=False)
    (folder / "README.md").write_text("mine")
    published.check(folder, overwrite=True)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(published.model_card, "card", full)
    with pytest.raises(SettingError, match=r"cannot be written \(No space left on device\)"):
        published.write(run, folder)
    monkeypatch.undo()
    assert (folder / "README.md").read_text() == "mine"
    assert files(tmp_path) == ["README.md", "mine", "model.safetensors"]
    (folder / "model.safetensors").unlink()
    for kept in ("README.md", "photo.jpg"):
        (folder / kept).write_text("mine")
        with pytest.raises(SettingError, match=rf"holds other files \({kept}\); give a folder"):
            published.check(folder, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="file is a file; give another name"):
        published.check(tmp_path / "file", overwrite=True)
    monkeypatch.chdir(folder)
    with pytest.raises(SettingError, match=r"--folder=\. holds other files"):
        published.check(published.Path("."), overwrite=True)


def test_a_backbone_without_names_leaves_nothing(tmp_path):
    other = opened(made(tmp_path / "run", tiny("swav")))
    with pytest.raises(SettingError, match="has no names in torchvision; only resnet does"):
        published.write(other, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("settings", "head", "reason"),
    [
        (dict(depth=18, stem="imagenet"), False, ""),
        (dict(depth=50, stem="imagenet"), False, ""),
        (dict(depth=50, stem="imagenet"), True, "timm's networks have no projection head"),
        (dict(depth=10, stem="imagenet"), False, "timm has no ResNet-10"),
        (dict(depth=34, stem="cifar"), False, "timm's ResNet-34 has the ImageNet stem, this one"),
        (dict(depth=50, width=128, stem="imagenet"), False, "has width 64, this one 128"),
    ],
)
def test_which_networks_are_timms(settings, head, reason):
    found = timm_config.why_not(ResNet(**settings), head)
    assert (reason in found) if reason else not found


def test_timms_form():
    """The fields of timm's own files (timm/models/_hub.py, save_config_for_hf)."""
    backbone = ResNet(depth=50, stem="imagenet")
    content = timm_config.config(
        backbone, size=224, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), crop=0.875
    )
    assert {"architecture": "resnet50", "num_classes": 0, "num_features": 2048}.items() <= (
        content.items()
    )
    assert content["pretrained_cfg"] == dict(
        custom_load=False,
        input_size=[3, 224, 224],
        fixed_input_size=False,
        interpolation="bilinear",
        crop_pct=0.875,
        crop_mode="center",
        mean=[0.1, 0.2, 0.3],
        std=[0.4, 0.5, 0.6],
        num_classes=0,
        pool_size=[7, 7],
        first_conv="conv1",
        classifier="fc",
    )
    grey = timm_config.config(backbone, size=64, mean=(0.5,), std=(0.5,))
    assert grey["model_args"] == {"in_chans": 1}
    assert grey["pretrained_cfg"]["crop_pct"] == 1.0
    assert grey["pretrained_cfg"]["crop_mode"] == "squash"
    assert grey["pretrained_cfg"]["pool_size"] == [2, 2]


def test_timm_loads_the_folder(tmp_path):
    timm = pytest.importorskip("timm", reason="needs timm, which is optional: pip install timm")
    import torch

    config = tiny("swav")
    config.model.update(name="resnet", depth=18, width=64, stem="imagenet")
    run = opened(made(tmp_path / "run", config))
    params = jax.tree.map(lambda x: 0.1 * x, run.state.params)
    run = dataclasses.replace(run, state=run.state.replace(params=params))
    assert published.write(run, tmp_path / "out")[1] == ""
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    encoder = of_run(run)
    images = np.asarray(clean(IMAGES, encoder.size, encoder.mean, encoder.std))
    with torch.no_grad():
        theirs = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    ours = np.asarray(encoder(IMAGES))
    assert ours.shape == (4, 512)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.slow
def test_the_command(run, tmp_path):
    call = [sys.executable, "-m", "ssl_jax.export", "--workdir", str(run.folder), "--folder=mine"]
    settings = dict(env=environment(), capture_output=True, text=True, timeout=300, cwd=tmp_path)
    done = subprocess.run(call, **settings)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("wrote mine/model.safetensors: 60 tensors, ")
    assert "\nmine/README.md is the model card; no config.json: timm has no ResNet-10\n" in (
        done.stdout
    )
    assert "load_encoder('mine/model.safetensors')" in done.stdout
    done = subprocess.run([*call, "--out=a.safetensors"], **settings)
    assert done.stderr.endswith("--out=a.safetensors and --folder=mine: leave one out\n")
