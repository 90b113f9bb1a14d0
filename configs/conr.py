"""CoNR: contextually affinitive neighbourhood refinery for deep clustering (Yu et al. 2023).

    python -m ssl_jax.main --config=configs/conr.py                        # digits, no download
    python -m ssl_jax.main --config=configs/conr.py --config.base=simsiam  # or byol (paper), moco
    python -m ssl_jax.main --config=configs/conr.py:folder --config.data.dir=PICTURES
    python -m ssl_jax.main --config=configs/conr.py:array --config.data.dir=FILE.npz
    python -m ssl_jax.main --config=configs/conr.py:paper_cifar10 --config.data.download

Paper: arXiv 2312.07806. A base method trains until epoch `stages.pretrain.until_epoch`; from then
on contextual neighbours attract each other, and samples near cluster boundaries are left out at
first. To start from a finished run of the base instead of training a first stage:

    python -m ssl_jax.main --config=configs/byol.py --workdir=runs/byol
    python -m ssl_jax.main --config=configs/conr.py --config.init_from=runs/byol \
        --config.init_fresh --config.stages.pretrain.until_epoch=0 --config.epochs=30

Without `init_fresh` training continues at that run's step and with its optimiser state, so both
runs must have the same number of steps per epoch. Each part of the paper's ablation (table 2) is
one override:

    instance-aware only (InC)                  --config.positives.name=instance
    local neighbourhoods (LN) for contextual   --config.positives.name=neighbours
    no boundary filter (OBD)                   --config.positives.boundary.keep=1
    no progressive relaxation (PR)             --config.positives.boundary.relax=False

`paper_*` follows the paper and, where it is silent, its base's recipe (ProPos); `released_*` adds
what only the released code does. Both set `method.loss_scale` to 2: the paper's loss, summed over
both directions, and the factor in the released code.

Digits: 2 min 20 s on two CPU cores. Expect cluster ACC 0.848, 0.807, 0.848 for seeds 0, 1, 2 (BYOL
alone: 0.746, 0.802, 0.819; last epoch, measured with `experiments/conr_ablation.py`, jax 0.10.2;
on another machine seed 0 ended at 0.833). All others: meant for GPUs. The numbers in their
docstrings are the paper's, not ours.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from ssl_jax.settings import config_files, defaults
from ssl_jax.settings.resolve import SettingError

BASES = ("byol", "simsiam", "moco")


def get_config(variant: str = "digits", base: str = "") -> ConfigDict:
    """Settings of a variant on a base method: "paper_cifar10", or "paper_cifar10+moco".

    Raises:
        SettingError: `base` is not one of `BASES`, or there is no such variant.
    """
    variant, _, chosen = variant.partition("+")
    base = base or chosen or "byol"
    if base not in BASES:
        raise SettingError(f"base={base!r} is not known; choose one of: {', '.join(BASES)}")
    if variant in ("digits", "folder", "array"):
        base_variant = variant
    else:
        base_variant = "cifar10" if base == "byol" else "cifar10_propos"
    path = Path(__file__).with_name(f"{base}.py")
    if not path.is_file():
        path = config_files.find(base)
    config = runpy.run_path(str(path))["get_config"](base_variant)
    config.base = base
    config.positives = defaults.positives("contextual", boundary=dict(keep=0.8))
    config.evals.purity = defaults.evaluator(
        "purity",
        batch_size=config.get_oneway_ref("batch_size"),
        k1=config.positives.get_oneway_ref("k1"),
        k2=config.positives.get_oneway_ref("k2"),
        alpha=config.positives.get_oneway_ref("alpha"),
        layers=config.positives.get_oneway_ref("layers"),
    )
    config.stages.pretrain = dict(
        until_epoch=config.get_oneway_ref("epochs").to_float() * 0.8,
        positives=dict(name="instance"),
    )
    return defaults.apply_variant(config, variant, VARIANTS)


def digits(config: ConfigDict) -> None:
    """1,437 handwritten digits of 8x8 pixels: the base's recipe, its second half with neighbours.

    k-means continues from the last centroids without trying new starts, as it did when the recorded
    numbers were made.
    """
    config.positives.boundary.start = "unchecked"
    config.stages.pretrain.until_epoch = config.get_oneway_ref("epochs").to_float() * 0.5


def folder(config: ConfigDict) -> None:
    """Your own pictures, any number from a few dozen on; docs/methods.md says what is chosen.

    Not a published recipe: that of the base, whose last fifth is trained with neighbours, as in the
    paper. Images without classes are clustered into 2 to 20 clusters.
    """
    config.positives.update(k=0, k1=0, k2=0)
    del config.evals.purity  # the few images of a class would limit its neighbours


def array(config: ConfigDict) -> None:
    """`folder` for a file of arrays, `--config.data.dir=FILE.npz`: docs/data.md."""
    folder(config)


def paper_cifar10(config: ConfigDict) -> None:
    """CIFAR-10, train and test, ResNet-18, batch 256: the paper's settings.

    Epochs 1 to 800 are instance-aware, 801 to 1,000 group-aware; fr rises from 0.8 to 1 over those
    200. The published numbers come from the released settings: see `released_cifar10`. k-means
    starts afresh before each epoch, as released; that takes longer than a warm start, but little
    compared with embedding the images (docs/performance.md).
    """
    config.batch_size = 256
    _published_clusters(config)


def paper_cifar20(config: ConfigDict) -> None:
    """CIFAR-100 with its 20 coarse classes (ACC 60.4, NMI 60.4, ARI 44.3)."""
    paper_cifar10(config)
    config.data.update(name="cifar100", labels="coarse")


def released_cifar10(config: ConfigDict) -> None:
    """Adds what the released code does and the paper leaves out (ACC 93.2, NMI 86.7, ARI 86.1).

    These are the paper's numbers, which were made with the released settings; BYOL alone reaches
    87.8, 79.4, 76.6. Batch 512, as four devices with separate BatchNorm statistics. In the second
    stage:

    - a tenth of the rate, for the predictor too (in BYOL's first stage the predictor has ten times
      the rate);
    - crops of at least 0.45 of the image;
    - from epoch 850 on every sample is kept except the one at the cut;
    - the loss is divided by the number of all samples.

    BYOL's target moves before the optimiser step. In the released code, second-stage gradients were
    also a quarter of ours, a side effect of four devices that we do not reproduce.

    `optim.learning_rate` and `augment` are the second stage's; the first stage has ten times that
    rate and its own crops in `stages.pretrain.augment`. Only BYOL settings were released; those for
    the other bases are ours.
    """
    config.batch_size = 512
    config.model.bn_groups = 4
    _published_clusters(config)
    config.positives.boundary.update(
        strict=True,
        count_left_out=True,
        relax_epochs=config.get_oneway_ref("epochs").to_float() * 0.05,
    )
    config.optim.learning_rate = 0.1 * config.optim.learning_rate
    config.stages.pretrain.optim = dict(
        learning_rate=config.optim.get_oneway_ref("learning_rate") * 10.0
    )
    config.stages.pretrain.augment = dict(pair=dict(scale=(0.08, 1.0)))
    config.augment.pair.scale = (0.45, 1.0)
    if config.base == "byol":
        config.method.update(moves="before", shuffle=True)
        config.stages.pretrain.optim.groups = dict(predictor=dict(factor=10.0))
        config.optim.groups.predictor.factor = 1.0


def stl10(config: ConfigDict) -> None:
    """STL-10 at 96 pixels, all images, ResNet-34 (ACC 92.6, NMI 85.2, ARI 84.6).

    As in ProPos, all images are trained on, labelled and unlabelled; the 13,000 labelled ones are
    clustered and scored.
    """
    _large(config, 96)
    config.data.update(name="tfds:stl10", unlabelled="unlabelled")


def imagenet10(config: ConfigDict) -> None:
    """ImageNet-10, a folder of its ten classes, at 96 pixels (ACC 96.4, NMI 91.1, ARI 92.2).

    ResNet-34. The paper's 13,000 images are the training images alone: give a folder without
    `val/`. Kept whole as squares of 340 pixels, from which the smallest crops, 0.08 of a picture,
    are not enlarged, they take 4.5 GB. Clustering and scores see all of each picture, squeezed into
    a square, as in ProPos.
    """
    _large(config, 96)
    config.data.update(name="folder", size=340)


def imagenet_dogs(config: ConfigDict) -> None:
    """ImageNet-Dogs, a folder of its 15 classes, at 224 pixels (ACC 79.4, NMI 74.4).

    ResNet-34; k, k1, k2 = 20, 30, 10. The paper's 19,500 images are the training images alone. Kept
    whole as squares of 480 pixels, they take 13.5 GB. Clustering and scores see the central square
    of 224 pixels after a resize to 256, as in the paper.
    """
    _large(config, 224)
    config.data.update(name="folder", size=480)
    config.evals.crop = 0.875
    config.positives.update(k=20, k1=30, k2=10)


def tiny_imagenet(config: ConfigDict) -> None:
    """Tiny-ImageNet, a folder of its 200 classes, at 64 pixels (ACC 30.8, NMI 46.2, ARI 18.4).

    ResNet-34; the numbers are from table 5. The paper gives no settings for it; these are
    ImageNet-10's, at 64 pixels. Its 100,000 images are the training images alone: give a folder
    without `val/`. They are squares of 64 pixels and stored as they are (1.2 GB). A batch of 256
    has on average 1.3 images of a class, fewer than k neighbours.
    """
    _large(config, 64)
    config.data.name = "folder"


def _published_clusters(config: ConfigDict) -> None:
    """k-means as released: ten new starts before each epoch, 300 iterations; also for scoring."""
    config.positives.boundary.update(start="fresh", restarts=10, iterations=300)
    config.evals.clustering.update(restarts=10, iterations=300)


def _large(config: ConfigDict, size: int) -> None:
    config.batch_size = 256
    _published_clusters(config)
    config.data.update(size=size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.augment.pair.size = size
    config.model.update(depth=34, stem="imagenet")
    config.evals.knn.k = 20


VARIANTS = defaults.by_name(
    digits,
    folder,
    array,
    paper_cifar10,
    paper_cifar20,
    released_cifar10,
    stl10,
    imagenet10,
    imagenet_dogs,
    tiny_imagenet,
)
