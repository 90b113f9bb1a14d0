"""MoCo v2 (Chen et al. 2020).

    python -m ssl_jax.main --config=configs/moco.py                       # digits, no download
    python -m ssl_jax.main --config=configs/moco.py:cifar10 --config.data.download
    python -m ssl_jax.main --config=configs/moco.py:folder --config.data.dir=PICTURES
    python -m ssl_jax.main --config=configs/moco.py:array --config.data.dir=FILE.npz
    python -m ssl_jax.main --config=configs/moco.py:imagenet --config.data.dir=IMAGENET

Digits: about 90 seconds on two CPU cores. Expect cluster ACC 0.819, 0.829, 0.847 and kNN 0.964,
0.931, 0.944 for seeds 0, 1, 2 (last epoch, measured with `experiments/conr_ablation.py`, jax
0.10.2).

CIFAR and ImageNet: meant for GPUs. The numbers in their docstrings are the authors', not ours. On
ImageNet the backbone computes in bfloat16 (--config.model.dtype=float32 to match the authors).
"""

from ml_collections import ConfigDict

from ssl_jax.settings import defaults


def get_config(variant: str = "digits") -> ConfigDict:
    config = defaults.get_config()
    config.method = defaults.method("moco")
    config.head.update(dim=128, hidden=(2048,), batch_norm=False)
    return defaults.apply_variant(config, variant, VARIANTS)


def digits(config: ConfigDict) -> None:
    """1,437 handwritten digits of 8x8 pixels."""
    config.augment = dict(pair=defaults.digits_view(count=2))
    config.epochs = 60
    config.batch_size = 128
    config.model.update(depth=10, width=16, bn_groups=4)
    config.head.update(dim=64, hidden=(128,))
    config.method.update(queue_length=256, temperature=0.1, momentum=0.97)
    config.optim.update(name="sgd", learning_rate=0.03, weight_decay=5e-4)


def folder(config: ConfigDict) -> None:
    """Your own pictures, any number from a few dozen on; docs/methods.md says what is chosen.

    Not a published recipe: `cifar10` with a hidden layer in the head. The rate is that of a batch
    of 512, the largest chosen, and not lowered for smaller ones: fewer images also mean fewer
    steps.
    """
    defaults.own_images(config, large=defaults.view(1, scale=(0.2, 1.0)))
    config.model.bn_groups = 0
    config.head.hidden = (512,)
    config.method.update(queue_length=0, temperature=0.1, momentum=0.99)
    config.optim.update(name="sgd", learning_rate=0.06, weight_decay=5e-4)


def array(config: ConfigDict) -> None:
    """`folder` for a file of arrays, `--config.data.dir=FILE.npz`: docs/data.md."""
    folder(config)
    defaults.own_arrays(config)


def cifar10(config: ConfigDict) -> None:
    """The authors' CIFAR demonstration: ResNet-18, batch 512, 200 epochs (kNN: 82.6 %).

    The head has no hidden layer. kNN uses the query network's embedding of 128 numbers, the feature
    `query`. BatchNorm in eight groups of 64 images, shuffled for the keys.
    """
    config.data.name = "cifar10"
    config.augment = dict(pair=defaults.view(32, scale=(0.08, 1.0)))
    config.epochs = 200
    config.batch_size = 512
    config.model.bn_groups = 8
    config.head.hidden = ()
    config.method.update(queue_length=4096, temperature=0.1, momentum=0.99)
    config.optim.update(name="sgd", learning_rate=0.06, weight_decay=5e-4)
    config.evals.knn.update(k=200, feature="query")


def cifar10_propos(config: ConfigDict) -> None:
    """CoNR's base, after ProPos: symmetric, 1,000 epochs (cluster ACC 77.6 with a ResNet-34).

    The paper does not give the settings, and ProPos has no config for MoCo: rate and weight decay
    are the defaults of ProPos's code (0.05 for a batch of 256, 1e-4).
    """
    cifar10(config)
    config.data.whole = True
    config.epochs = 1000
    config.model.bn_groups = 4
    config.head.hidden = (512,)
    config.method.update(queue_length=65536, momentum=0.999, symmetric=True)
    config.optim.update(learning_rate=0.05, base_batch_size=256, weight_decay=1e-4)
    defaults.line_cosine(config, warmup=0.05, cosine=1.0)
    config.evals.knn.feature = "backbone"
    config.evals.clustering.iterations = 300
    config.best = "eval/clustering/acc"


def cifar20_propos(config: ConfigDict) -> None:
    """CIFAR-100 with its 20 coarse classes (ACC 39.7)."""
    cifar10_propos(config)
    config.data.update(name="cifar100", labels="coarse")


def imagenet(config: ConfigDict) -> None:
    """The authors' v2: ResNet-50, batch 256, 200 epochs (linear top-1: 67.5 %).

    Cost: 53 hours on eight V100. BatchNorm in eight groups of 32 images, shuffled for the keys, as
    on their eight devices. --config.epochs=800 is their long run (71.1 %).

    Pictures are kept whole, as squares of 480, and decoded whenever a batch needs them: decoded
    they would take 0.92 TB. --config.data.store=cache --config.data.size=256 takes 262 GB instead
    and decodes each once; docs/data.md says what that changes.
    """
    config.data.update(name="folder", size=480, store="stream")
    config.data.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.augment = dict(pair=defaults.view(224, scale=(0.2, 1.0), blur=0.5))
    config.epochs = 200
    config.batch_size = 256
    config.model.update(depth=50, stem="imagenet", dtype="bfloat16", bn_groups=8)
    config.optim.update(name="sgd", learning_rate=0.03, weight_decay=1e-4)
    config.baselines = False
    config.evals = dict(knn=config.evals.knn, crop=0.875)
    config.evals.knn.update(k=20, feature="backbone")


VARIANTS = defaults.by_name(
    digits, folder, array, cifar10, cifar10_propos, cifar20_propos, imagenet
)
