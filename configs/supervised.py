"""Supervised training of any recipe's backbone on its data: what the labels would give.

    python -m ssl_jax.main --config=configs/supervised.py                # digits, no download
    python -m ssl_jax.main --config=configs/supervised.py:cifar10 --config.data.download
    python -m ssl_jax.main --config=configs/supervised.py:folder --config.data.dir=PICTURES
    python -m ssl_jax.main --config=configs/supervised.py:imagenet --config.data.dir=IMAGENET
    python -m ssl_jax.main --config=configs/supervised.py:byol+cifar10   # the twin of byol:cifar10
    python -m ssl_jax.main --config=configs/supervised.py:conr+paper_cifar10+moco

A variant METHOD+VARIANT is the supervised twin of configs/METHOD.py:VARIANT; without a METHOD, that
of configs/swav.py:VARIANT. So "SwAV against supervised" is two commands:

    python -m ssl_jax.main --config=configs/swav.py:cifar10
    python -m ssl_jax.main --config=configs/supervised.py:swav+cifar10

A twin takes from its recipe the data, the backbone with its initialisation, batch size, epochs, and
what scores see of an image. It has its own

    loss        cross-entropy of a linear classifier on the backbone, labels of the training images
    views       one view: crop, flips and turns of the recipe's largest view in its last stage, and
                none of the changes of colour, blur and solarisation, which self-supervision needs
                and supervised training usually lacks
    optimiser   SGD with Nesterov momentum 0.9, rate 0.1 for a batch of 256 and linear in the
                batch, a warm-up over a twentieth of the run, then a cosine to 0; weight decay 5e-4,
                or 1e-4 with an ImageNet stem (rate and 1e-4 as in Goyal et al. 2017)
    BatchNorm   statistics over the whole batch, however the recipe groups it
    scores      `classifier`, top-1 of its own classifier on the test images, beside the recipe's
                kNN and linear scores of the features; no clusterings, since these are of the
                training images, whose labels were learnt

The test images are never trained on: `data.whole` of CoNR's recipes is off. Images without a label
are left out of the loss.

To fine-tune what a method has learnt, start from its run:

    python -m ssl_jax.main --config=configs/supervised.py:cifar10 \
        --config.init_from=runs/swav-cifar10 --config.init_fresh

Digits: 1 to 3 minutes on two CPU cores. Expect an accuracy of 0.983 of its own classifier, kNN
0.989 and linear 0.989: seed 0 at the last epoch, measured with `experiments/reproduce.py` on one
machine (jax 0.10.2). SwAV's medians there are kNN 0.961 and linear 0.981.

All others: meant for GPUs, not yet measured. They are no published recipes.
"""

import runpy
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ssl_jax.settings import config_files, defaults
from ssl_jax.settings.resolve import SettingError

VARIANTS = ("digits", "cifar10", "cifar100", "folder", "array", "imagenet", "imagenet_bs256")
_NAME = "supervised"
_PLAIN = dict(jitter=0.0, grayscale=0.0, blur=0.0, solarize=0.0)


def get_config(variant: str = "digits") -> ConfigDict:
    """Settings of the twin of a recipe: "cifar10" (of SwAV), "byol+cifar10".

    Raises:
        SettingError: no such recipe.
    """
    config = _recipe(variant)
    fresh = defaults.get_config()
    is_small = config.model.stem in ("cifar", "")  # "": it follows from the images
    config.base = ""
    config.method = defaults.method(_NAME)
    config.positives = fresh.positives
    config.stages = {}
    config.head = fresh.head
    config.model.bn_groups = 1
    config.data.whole = False
    config.augment = dict(one=_one_view(config.augment))
    config.optim = fresh.optim
    config.optim.update(
        learning_rate=0.1,
        base_batch_size=256,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4 if is_small else 1e-4,
    )
    config.optim.schedule.warmup_epochs = config.get_oneway_ref("epochs").to_float() * 0.05
    config.evals = _evals(config.evals)
    config.best = "eval/classifier/top1"
    return config


def _recipe(variant: str) -> ConfigDict:
    """The config of "METHOD+VARIANT"; METHOD is swav if there is none."""
    names = [name for name in config_files.available() if name != _NAME]
    if variant in names:
        raise SettingError(
            f"variant {variant!r}: give METHOD+VARIANT, such as {variant}+digits or "
            f"{variant}+folder"
        )
    method, plus, rest = variant.partition("+")
    if not plus:
        method, rest = "swav", variant
    if method not in names:
        raise SettingError(
            f"variant {variant!r}: {method!r} is not the config of a method; give METHOD+VARIANT "
            f"with one of: {', '.join(names)}"
        )
    path = Path(__file__).with_name(f"{method}.py")
    if not path.is_file():
        path = config_files.find(method)
    return runpy.run_path(str(path))["get_config"](rest)


def _one_view(groups: ConfigDict) -> dict[str, Any]:
    """The largest of the recipe's views, once, without changes of colour.

    Where sizes follow from the images (0), those called "small" are not the largest.
    """
    names = [name for name in groups if name != "small"] or list(groups)
    largest = max(names, key=lambda name: groups[name]["size"])
    return dict(groups[largest]) | _PLAIN | {"count": 1}


def _evals(evals: ConfigDict) -> dict[str, Any]:
    """The recipe's kNN and linear scores, and `classifier`."""
    chosen = {"classifier": defaults.evaluator("classifier")}
    for name in ("knn", "linear"):
        if name in evals:
            chosen[name] = dict(evals[name])
            if chosen[name]["feature"] == "query":
                chosen[name]["feature"] = "embedding"
    return chosen | ({"crop": evals.crop} if "crop" in evals else {})
