"""SwAV.

    python -m ssl_jax.main --config=configs/swav.py             # handwritten digits, embedded
    python -m ssl_jax.main --config=configs/swav.py:cifar10 --config.data.dir=DIR
"""

from ssl_jax import defaults


def get_config(variant="digits"):
    config = defaults.get_config()
    config.method = dict(
        name="swav",
        prototypes=128,
        temperature=0.1,
        epsilon=0.05,
        sinkhorn_iterations=3,
        assign=(0, 1),
        hard=False,
        queue_length=0,
        queue_starts_epoch=15.0,
    )
    config.optim.groups = dict(prototypes=dict(pattern="^prototypes", frozen_epochs=1.0))
    view = dict(size=8, count=2, scale=(0.4, 1.0), ratio=(3 / 4, 4 / 3), flip=0.0, jitter=0.8, brightness=0.4,
                contrast=0.4, saturation=0.0, hue=0.0, grayscale=0.0)
    config.augment = dict(large=view)
    config.evals = dict(
        knn=dict(k=20, temperature=0.1, feature="embedding"),
        linear=dict(feature="backbone"),
        clustering=dict(restarts=10, feature="embedding"),
    )
    config.epochs = 50
    config.batch_size = 128
    config.model.width = 16
    config.head = dict(dim=32, hidden=(128,), batch_norm=True)
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 1e-6
    return config
