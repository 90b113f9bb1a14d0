"""Instance Discrimination (Wu et al. 2018): full non-parametric softmax, or NCE on ImageNet.

    python -m ssl_jax.main --config=configs/instance.py                   # digits, no download
    python -m ssl_jax.main --config=configs/instance.py:cifar10 --config.data.download
    python -m ssl_jax.main --config=configs/instance.py:folder --config.data.dir=PICTURES
    python -m ssl_jax.main --config=configs/instance.py:array --config.data.dir=FILE.npz
    python -m ssl_jax.main --config=configs/instance.py:imagenet_resnet18 \
        --config.data.dir=IMAGENET

Digits: 90 seconds on two CPU cores. Expect kNN 0.96 and cluster ACC 0.55: medians of seeds 0, 1
and 2 at the last epoch, measured with this command (jax 0.10.2; cluster ACC of single seeds ranges
from 0.51 to 0.60).

CIFAR and ImageNet: meant for GPUs. We have no numbers of our own yet; those in the docstrings are
the authors'. The released code normalises CIFAR with a standard deviation of about 0.2; we use
that of the pixels (0.247, 0.244, 0.262).
"""

from ml_collections import ConfigDict

from ssl_jax.settings import defaults


def get_config(variant: str = "digits") -> ConfigDict:
    config = defaults.get_config()
    config.method = defaults.method("instance")
    config.optim.update(name="sgd", learning_rate=0.03, momentum=0.9, weight_decay=5e-4)
    return defaults.apply_variant(config, variant, VARIANTS)


def digits(config: ConfigDict) -> None:
    """1,437 handwritten digits of 8x8 pixels."""
    config.augment = dict(one=defaults.digits_view(count=1))
    config.epochs = 80
    config.batch_size = 64
    config.model.width = 16
    config.head.dim = 32


def folder(config: ConfigDict) -> None:
    """Your own pictures, any number from a few dozen on; docs/methods.md says what is chosen.

    Not a published recipe: CIFAR-10's rate, weight decay and temperature, with flips, weaker
    colours and a cosine. The batch is at most CIFAR-10's 128.
    """
    defaults.own_images(config, large=defaults.view(1, count=1, scale=(0.2, 1.0)))
    config.head.dim = 128


def array(config: ConfigDict) -> None:
    """`folder` for a file of arrays, `--config.data.dir=FILE.npz`: docs/data.md."""
    folder(config)
    defaults.own_arrays(config)


def cifar10(config: ConfigDict) -> None:
    """The released settings: ResNet-18, batch 128, no flip, drops at 120 and 160 (kNN 80.8 %).

    The published number is the best epoch's, scored against the live memory bank: `knn_live`.
    Convolutions are initialised as in PyTorch, as released.
    """
    config.data.name = "cifar10"
    config.augment = dict(
        one=defaults.view(32, count=1, scale=(0.2, 1.0), flip=0.0, jitter=1.0, hue=0.4)
    )
    config.epochs = 200
    config.batch_size = 128
    config.head.dim = 128
    config.model.init = "torch"
    config.optim.schedule.update(name="drops", at_epochs=(120.0, 160.0), factor=0.1)
    config.evals.knn.k = 200
    config.evals.knn_live = dict(config.evals.knn, name="knn", source="bank")


def cifar100(config: ConfigDict) -> None:
    """CIFAR-10's settings on CIFAR-100 (kNN 50.7 %, as run by AND's authors)."""
    cifar10(config)
    config.data.name = "cifar100"


def svhn(config: ConfigDict) -> None:
    """CIFAR-10's settings on the 73,257 digits of SVHN's training split (kNN 93.6 %).

    The number is from AND's authors.
    """
    cifar10(config)
    config.data.update(name="tfds:svhn_cropped", size=32)


def cifar10_alexnet(config: ConfigDict) -> None:
    """AlexNet for 32 pixels, as in AND's table (kNN 60.3 %, linear on conv5 70.1 %).

    All other settings are those of `cifar10`. No paper describes this AlexNet; ours is in
    `models/alexnet.py`. The linear score is on conv5, pooled to about 9,000 features.
    """
    cifar10(config)
    _alexnet(config)


def cifar100_alexnet(config: ConfigDict) -> None:
    """`cifar10_alexnet` on CIFAR-100 (kNN 32.7 %, linear on conv5 39.4 %)."""
    cifar100(config)
    _alexnet(config)


def svhn_alexnet(config: ConfigDict) -> None:
    """`cifar10_alexnet` on SVHN (kNN 79.8 %, linear on conv5 89.3 %)."""
    svhn(config)
    _alexnet(config)


def _alexnet(config: ConfigDict) -> None:
    config.model.name = "alexnet"
    config.evals.linear.feature = "stage5"


def imagenet_resnet18(config: ConfigDict) -> None:
    """The released settings: ResNet-18, NCE with 4,096 noise rows, batch 256 (kNN 41.0 %).

    200 epochs with drops at 120 and 160; kNN over the 200 nearest. Weight decay on all parameters.
    BatchNorm spans the whole batch; theirs spans each device's share. As in their code, Z is
    estimated from the first batch, times N, and then kept. They turn a view grey before changing
    its colours; we do so after. --config.method.objective=sampled --config.method.samples=65536 is
    the authors' later model (ResNet-50: linear 58.5 % instead of 54.0 %).

    Pictures are kept whole, as squares of 480, and decoded whenever a batch needs them: decoded
    they would take 0.92 TB. --config.data.store=cache --config.data.size=256 takes 262 GB instead
    and decodes each once; docs/data.md says what that changes.
    """
    config.data.update(name="folder", size=480, store="stream")
    config.data.update(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    config.augment = dict(one=defaults.view(224, count=1, scale=(0.2, 1.0), jitter=1.0, hue=0.4))
    config.epochs = 200
    config.batch_size = 256
    config.model.update(depth=18, stem="imagenet", dtype="bfloat16", init="torch")
    config.head.dim = 128
    config.method.update(objective="nce", temperature=0.07)
    config.optim.weight_decay = 1e-4
    config.optim.schedule.update(name="drops", at_epochs=(120.0, 160.0), factor=0.1)
    config.baselines = False
    config.evals = dict(knn=config.evals.knn, crop=0.875)
    config.evals.knn.update(k=200, temperature=0.07)


def imagenet_resnet50(config: ConfigDict) -> None:
    """As ResNet-18 (kNN 46.5 % in the paper, 46.8 % released; linear 54.0 %).

    Cost: three days on eight V100, according to the authors. The bank takes 656 MB.
    """
    imagenet_resnet18(config)
    config.model.depth = 50


VARIANTS = defaults.by_name(
    digits,
    folder,
    array,
    cifar10,
    cifar100,
    svhn,
    cifar10_alexnet,
    cifar100_alexnet,
    svhn_alexnet,
    imagenet_resnet18,
    imagenet_resnet50,
)
