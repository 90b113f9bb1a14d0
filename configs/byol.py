"""BYOL (Grill et al. 2020), and the variant of it that CoNR builds on.

    python -m ssl_jax.main --config=configs/byol.py                       # digits, no download
    python -m ssl_jax.main --config=configs/byol.py:cifar10 --config.data.download
    python -m ssl_jax.main --config=configs/byol.py:folder --config.data.dir=PICTURES
    python -m ssl_jax.main --config=configs/byol.py:array --config.data.dir=FILE.npz
    python -m ssl_jax.main --config=configs/byol.py:imagenet --config.data.dir=IMAGENET

Digits: about two minutes on two CPU cores. Expect cluster ACC 0.746, 0.802, 0.819 and kNN 0.939,
0.919, 0.933 for seeds 0, 1, 2 (last epoch, measured with `experiments/conr_ablation.py`, jax
0.10.2).

CIFAR and ImageNet: meant for GPUs. The numbers in their docstrings are the authors', not ours. On
ImageNet the backbone computes in bfloat16 (--config.model.dtype=float32 for full single precision).
"""

from ml_collections import ConfigDict

from ssl_jax.settings import defaults


def get_config(variant: str = "digits") -> ConfigDict:
    config = defaults.get_config()
    config.method = defaults.method("byol")
    config.head.update(dim=256, hidden=(4096,))
    config.optim.groups = dict(predictor=defaults.group("^predictor", factor=10.0))
    return defaults.apply_variant(config, variant, VARIANTS)


def digits(config: ConfigDict) -> None:
    """1,437 handwritten digits of 8x8 pixels."""
    config.augment = dict(pair=defaults.digits_view(count=2))
    config.epochs = 60
    config.batch_size = 128
    config.model.update(depth=10, width=16)
    config.head.update(dim=64, hidden=(128,))
    config.method.update(predictor=(128,), momentum=0.97)
    config.optim.update(name="sgd", learning_rate=0.1, weight_decay=5e-4)
    config.optim.schedule.warmup_epochs = 5.0


def folder(config: ConfigDict) -> None:
    """Your own pictures, any number from a few dozen on; docs/methods.md says what is chosen.

    Not a published recipe: `cifar10` with the momentum of the paper's shorter runs. The rate is
    that of a batch of 512, the largest chosen, and not lowered for smaller ones: fewer images also
    mean fewer steps.
    """
    defaults.own_images(config, large=defaults.view(1, scale=(0.2, 1.0)))
    config.method.update(momentum=0.99, predictor_std=0.01)
    config.optim.update(name="sgd", learning_rate=0.1, weight_decay=5e-4)


def array(config: ConfigDict) -> None:
    """`folder` for a file of arrays, `--config.data.dir=FILE.npz`: docs/data.md."""
    folder(config)
    defaults.own_arrays(config)


def cifar10(config: ConfigDict) -> None:
    """CoNR's base, after ProPos: ResNet-18, batch 512, 1,000 epochs (cluster ACC 87.8, NMI 79.4).

    The scores are on training and test images together. Weight decay applies to all parameters,
    BatchNorm and biases included; the predictor's rate is ten times the others'.

    The published number was made with BatchNorm statistics over four devices of 128 images each,
    shuffled for the keys (--config.model.bn_groups=4 --config.method.shuffle, which the row
    `byol-cifar10-1000` of `experiments/reproduce.py` sets), and ProPos's code moves the target
    before the optimiser step (--config.method.moves=before). Here all three are off.
    """
    config.data.update(name="cifar10", whole=True)
    config.augment = dict(pair=defaults.view(32))
    config.epochs = 1000
    config.batch_size = 512
    config.method.predictor_std = 0.01
    config.optim.update(name="sgd", learning_rate=0.05, base_batch_size=256, weight_decay=5e-4)
    defaults.line_cosine(config, warmup=0.05, cosine=1.0)
    config.evals = dict(
        clustering=config.evals.clustering, knn=config.evals.knn, linear=config.evals.linear
    )
    config.evals.knn.update(k=200, feature="backbone")
    config.evals.clustering.iterations = 300
    config.best = "eval/clustering/acc"


def cifar20(config: ConfigDict) -> None:
    """CIFAR-100 with its 20 coarse classes, batch 256 (ACC 53.9, NMI 55.5)."""
    cifar10(config)
    config.data.update(name="cifar100", labels="coarse")
    config.batch_size = 256


def imagenet(config: ConfigDict) -> None:
    """The paper's recipe: ResNet-50, LARS, batch 4096, 1,000 epochs (linear top-1: 74.3 %).

    Cost: eight hours on 512 TPU v3 cores. BatchNorm and biases get neither LARS nor weight decay;
    the last layers have no bias. The paper's shorter runs change more than the number of epochs:
    300 epochs (72.5 %) use --config.optim.learning_rate=0.3 --config.optim.weight_decay=1e-6
    --config.method.momentum=0.99; 100 epochs, in the released code, use the same with a rate of
    0.45.

    The rate scales with the batch size. Jitter here is torchvision's; the authors add to the
    brightness and change contrast around each channel's mean.

    Pictures are kept whole, as squares of 480, and decoded whenever a batch needs them: decoded
    they would take 0.92 TB. --config.data.store=cache --config.data.size=256 takes 262 GB instead
    and decodes each once; docs/data.md says what that changes.
    """
    config.data.update(name="folder", size=480, store="stream")
    config.data.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    jitter = dict(count=1, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    config.augment = dict(
        first=defaults.view(224, blur=1.0, **jitter),
        second=defaults.view(224, blur=0.1, solarize=0.2, **jitter),
    )
    config.epochs = 1000
    config.batch_size = 4096
    config.model.update(depth=50, stem="imagenet", dtype="bfloat16")
    config.head.output_bias = False
    config.method.update(loss_scale=4.0, fresh_target=True)
    config.optim.update(name="lars", learning_rate=0.2, base_batch_size=256, weight_decay=1.5e-6)
    config.optim.schedule.update(name="line_cosine", warmup_epochs=10.0)
    config.optim.groups = dict(plain=defaults.group("(bias|scale)$", name="sgd", weight_decay=0.0))
    config.baselines = False
    config.evals = dict(knn=config.evals.knn, crop=0.875)
    config.evals.knn.update(k=20, feature="backbone")


VARIANTS = defaults.by_name(digits, folder, array, cifar10, cifar20, imagenet)
