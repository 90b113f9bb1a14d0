"""SimSiam (Chen & He 2021).

    python -m ssl_jax.main --config=configs/simsiam.py                    # digits, no download
    python -m ssl_jax.main --config=configs/simsiam.py:cifar10 --config.data.download
    python -m ssl_jax.main --config=configs/simsiam.py:folder --config.data.dir=PICTURES
    python -m ssl_jax.main --config=configs/simsiam.py:array --config.data.dir=FILE.npz
    python -m ssl_jax.main --config=configs/simsiam.py:imagenet --config.data.dir=IMAGENET

Digits: about two minutes on two CPU cores. Expect cluster ACC 0.854, 0.706, 0.749 and kNN 0.933,
0.914, 0.922 for seeds 0, 1, 2 (last epoch, measured with `experiments/conr_ablation.py`, jax
0.10.2).

CIFAR and ImageNet: meant for GPUs. The numbers in their docstrings are the authors', not ours. On
ImageNet the backbone computes in bfloat16 (--config.model.dtype=float32 to match the authors).
"""

from ml_collections import ConfigDict

from ssl_jax.settings import defaults


def get_config(variant: str = "digits") -> ConfigDict:
    config = defaults.get_config()
    config.method = defaults.method("simsiam")
    config.head.update(dim=2048, hidden=(2048,), bias=False, output_norm="plain", output_bias=False)
    config.optim.groups = dict(predictor=defaults.group("^predictor", fixed_rate=True))
    return defaults.apply_variant(config, variant, VARIANTS)


def digits(config: ConfigDict) -> None:
    """1,437 handwritten digits of 8x8 pixels."""
    config.augment = dict(pair=defaults.digits_view(count=2))
    config.epochs = 60
    config.batch_size = 128
    config.model.update(depth=10, width=16)
    config.head.update(dim=64, hidden=(128,))
    config.method.predictor = (32,)
    config.optim.update(name="sgd", learning_rate=0.1, weight_decay=5e-4)


def folder(config: ConfigDict) -> None:
    """Your own pictures, any number from a few dozen on; docs/methods.md says what is chosen.

    Not a published recipe: the settings of `cifar10`. The rate is that of a batch of 512, the
    largest chosen, and not lowered for smaller ones: fewer images also mean fewer steps.
    """
    defaults.own_images(config, large=defaults.view(1, scale=(0.2, 1.0)))
    config.optim.update(name="sgd", learning_rate=0.06, weight_decay=5e-4)


def array(config: ConfigDict) -> None:
    """`folder` for a file of arrays, `--config.data.dir=FILE.npz`: docs/data.md."""
    folder(config)
    defaults.own_arrays(config)


def cifar10(config: ConfigDict) -> None:
    """The paper's recipe: ResNet-18, batch 512, 800 epochs (linear top-1: 91.8 %).

    Two projector layers, no blur, weight decay on all parameters.
    """
    config.data.name = "cifar10"
    config.augment = dict(pair=defaults.view(32, scale=(0.2, 1.0)))
    config.epochs = 800
    config.batch_size = 512
    config.optim.update(name="sgd", learning_rate=0.03, base_batch_size=256, weight_decay=5e-4)
    config.evals.knn.update(k=200, feature="backbone")


def cifar10_propos(config: ConfigDict) -> None:
    """CoNR's base, after ProPos: affine BatchNorm on the projection (cluster ACC 85.6).

    Both views share one batch. The number was made with a ResNet-34 (--config.model.depth=34) and
    BatchNorm statistics over four devices (--config.model.bn_groups=4).
    """
    cifar10(config)
    config.data.whole = True
    config.augment = dict(pair=defaults.view(32))
    config.epochs = 1000
    config.head.output_norm = "affine"
    config.method.joint_views = True
    config.optim.learning_rate = 0.06
    defaults.line_cosine(config, warmup=0.05, cosine=1.0)
    config.evals.clustering.iterations = 300
    config.best = "eval/clustering/acc"


def cifar20_propos(config: ConfigDict) -> None:
    """CIFAR-100 with its 20 coarse classes (ACC 48.5)."""
    cifar10_propos(config)
    config.data.update(name="cifar100", labels="coarse")


def imagenet(config: ConfigDict) -> None:
    """The paper's recipe: ResNet-50, batch 512, 100 epochs (linear top-1: 68.1 %; eight V100).

    512 is the released code's batch; a batch of 256 also reaches 68.1 %, and the rate scales with
    the batch. Three projector layers, weight decay on all parameters, BatchNorm over the whole
    batch, a constant rate for the predictor. The paper's longer runs, at batch 256, are
    --config.epochs=200 (70.0 %), 400 (70.8 %) and 800 (71.3 %).

    Pictures are kept whole, as squares of 480, and decoded whenever a batch needs them: decoded
    they would take 0.92 TB. --config.data.store=cache --config.data.size=256 takes 262 GB instead
    and decodes each once; docs/data.md says what that changes.
    """
    config.data.update(name="folder", size=480, store="stream")
    config.data.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.augment = dict(pair=defaults.view(224, scale=(0.2, 1.0), blur=0.5))
    config.epochs = 100
    config.batch_size = 512
    config.model.update(depth=50, stem="imagenet", dtype="bfloat16", zero_init_residual=True)
    config.head.hidden = (2048, 2048)
    config.optim.update(name="sgd", learning_rate=0.05, base_batch_size=256, weight_decay=1e-4)
    config.baselines = False
    config.evals = dict(knn=config.evals.knn, crop=0.875)
    config.evals.knn.update(k=20, feature="backbone")


VARIANTS = defaults.by_name(
    digits, folder, array, cifar10, cifar10_propos, cifar20_propos, imagenet
)
