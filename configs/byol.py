"""BYOL (Grill et al. 2020), and the form of it that CoNR builds on.

python -m ssl_jax.main --config=configs/byol.py                               # handwritten digits, embedded
python -m ssl_jax.main --config=configs/byol.py:cifar10 --config.data.download
python -m ssl_jax.main --config=configs/byol.py:imagenet --config.data.dir=IMAGENET

Digits: about two minutes on two CPU cores; seeds 0, 1, 2 end at cluster ACC 0.746, 0.802, 0.819 and kNN 0.939, 0.919,
0.933 (by `experiments/conr_ablation.py`, last epoch, jax 0.10.2).
CIFAR and ImageNet: made for GPUs. The numbers in their docstrings are the authors', none our own; on ImageNet the
backbone computes in bfloat16 (--config.model.dtype=float32: all of it in single precision).
"""

from ssl_jax.settings import defaults


def get_config(variant="digits"):
    config = defaults.get_config()
    config.method = defaults.method("byol")
    config.head.update(dim=256, hidden=(4096,))
    config.optim.groups = dict(predictor=defaults.group("^predictor", factor=10.0))
    return defaults.apply_variant(config, variant, VARIANTS)


def digits(config):
    """1,437 handwritten digits of 8x8 pixels."""
    config.augment = dict(pair=defaults.digits_view(count=2))
    config.epochs, config.batch_size = 60, 128
    config.model.update(depth=10, width=16)
    config.head.update(dim=64, hidden=(128,))
    config.method.update(predictor=(128,), momentum=0.97)
    config.optim.update(name="sgd", learning_rate=0.1, weight_decay=5e-4)
    config.optim.schedule.warmup_epochs = 5.0


def cifar10(config):
    """CoNR's base, after ProPos: ResNet-18, batch 512, 1,000 epochs (cluster ACC 87.8, NMI 79.4, of train and test).

    Weight decay on everything, BatchNorm and biases too; the predictor's rate is ten times the others'. The number was
    made with BatchNorm statistics of four devices of 128 images each, shuffled for the keys (--config.model.bn_groups=4
    --config.method.shuffle; so is the row `byol-cifar10-1000` of `experiments/reproduce.py`), and in ProPos's code the
    target moves before the optimiser does (--config.method.moves=before). Here all three are off.
    """
    config.data.update(name="cifar10", whole=True)
    config.augment = dict(pair=defaults.view(32))
    config.epochs, config.batch_size = 1000, 512
    config.method.predictor_std = 0.01
    config.optim.update(name="sgd", learning_rate=0.05, base_batch_size=256, weight_decay=5e-4)
    defaults.line_cosine(config, warmup=0.05, cosine=1.0)
    config.evals = dict(clustering=config.evals.clustering, knn=config.evals.knn, linear=config.evals.linear)
    config.evals.knn.update(k=200, feature="backbone")
    config.evals.clustering.iterations = 300
    config.best = "eval/clustering/acc"


def cifar20(config):
    """CIFAR-100 with its 20 coarse classes, batch 256 (ACC 53.9, NMI 55.5)."""
    cifar10(config)
    config.data.update(name="cifar100", labels="coarse")
    config.batch_size = 256


def imagenet(config):
    """The paper's: ResNet-50, LARS, batch 4096, 1,000 epochs (linear top-1: 74.3 %; eight hours on 512 TPU v3 cores).

    Neither LARS nor weight decay on BatchNorm and biases, no bias in the last layers. Its runs of other lengths differ
    in more than epochs: 300 (72.5 %) have --config.optim.learning_rate=0.3 --config.optim.weight_decay=1e-6
    --config.method.momentum=0.99, and 100, by the released code, the same with a rate of 0.45.

    With another batch the rate follows by itself. Here jitter is torchvision's: the authors add to the brightness and
    turn contrast about each channel's mean.
    """
    config.data.update(name="folder", size=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    colours = dict(count=1, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    config.augment = dict(
        first=defaults.view(224, blur=1.0, **colours),
        second=defaults.view(224, blur=0.1, solarize=0.2, **colours),
    )
    config.epochs, config.batch_size = 1000, 4096
    config.model.update(depth=50, stem="imagenet", dtype="bfloat16")
    config.head.output_bias = False
    config.method.update(loss_scale=4.0, fresh_target=True)
    config.optim.update(name="lars", learning_rate=0.2, base_batch_size=256, weight_decay=1.5e-6)
    config.optim.schedule.update(name="line_cosine", warmup_epochs=10.0)
    config.optim.groups = dict(plain=defaults.group("(bias|scale)$", name="sgd", weight_decay=0.0))
    config.baselines = False
    config.evals = dict(knn=config.evals.knn)
    config.evals.knn.update(k=20, feature="backbone")


VARIANTS = defaults.by_name(digits, cifar10, cifar20, imagenet)
