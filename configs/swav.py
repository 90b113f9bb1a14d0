"""SwAV (Caron et al. 2020).

python -m ssl_jax.main --config=configs/swav.py                               # handwritten digits, embedded
python -m ssl_jax.main --config=configs/swav.py:cifar10 --config.data.dir=DIR

Digits: about three minutes on two CPU cores. Expect kNN 0.97 and cluster ACC 0.94: medians of seeds 0, 1, 2 at the last
epoch, measured with this command (jax 0.10.2; single seeds lie between 0.94 and 0.98, and 0.84 and 0.95).
CIFAR: made for a GPU. No number of our own yet; those in the docstrings below are the recipe's authors'.
"""

from ssl_jax import defaults


def get_config(variant="digits"):
    config = defaults.get_config()
    config.method = dict(
        name="swav",
        prototypes=512,
        temperature=0.1,
        epsilon=0.05,
        sinkhorn_iterations=3,
        assign=(0, 1),
        hard=False,
        queue_length=0,
        queue_starts_epoch=15.0,
    )
    config.optim.groups = dict(prototypes=dict(pattern="^prototypes", frozen_epochs=1.0))
    return defaults.apply_variant(config, variant, dict(digits=digits, cifar10=cifar10, cifar100=cifar100))


def digits(config):
    """1,437 handwritten digits of 8x8 pixels; a crop keeps most of a digit, and only its contrast changes."""
    view = dict(size=8, count=2, scale=(0.6, 1.0), ratio=(3 / 5, 5 / 3), flip=0.0)
    view |= dict(jitter=1.0, brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0, grayscale=0.0)
    config.augment = dict(large=view)
    config.epochs, config.batch_size = 100, 64
    config.model.width = 16
    config.head.update(dim=32, hidden=(128,))
    config.method.prototypes = 128
    config.optim.update(name="adam", learning_rate=2e-3, weight_decay=1e-6)


def cifar10(config):
    """Two 32x32 views without blur, Adam: the recipe of lightly's CIFAR-10 benchmark (its kNN: 84.2 %)."""
    config.data.name = "cifar10"
    view = dict(size=32, count=2, scale=(0.14, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5)
    view |= dict(jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale=0.2)
    config.augment = dict(large=view)
    config.epochs, config.batch_size = 200, 512
    config.head.update(dim=128, hidden=(512,))
    config.optim.update(name="adam", learning_rate=4e-3, weight_decay=1e-6)
    config.evals.knn.update(k=200, feature="backbone")


def cifar100(config):
    """As CIFAR-10, with about ten prototypes a class."""
    cifar10(config)
    config.data.name = "cifar100"
    config.method.prototypes = 1000
