"""A run of seconds on 256 digits: SwAV with a queue and two stages, or another method."""

import sys
from pathlib import Path

from ml_collections import ConfigDict

from ssl_jax.settings import defaults

TESTS = str(Path(__file__).parent.parent)
if TESTS not in sys.path:  # so that commands find the backbone in tests/plugins
    sys.path.append(TESTS)


def get_config(variant: str = "swav") -> ConfigDict:
    config = defaults.get_config()
    config.epochs = 4
    config.batch_size = 32
    config.data.limit = 256
    config.model.update(name="plugins.models.tiny", depth=10, width=8)
    config.head.update(dim=8, hidden=(16,))
    if variant == "swav":
        config.method = dict(
            name="swav", prototypes=16, queue_length=64, queue_starts_epoch=0.5, epsilon=0.05
        )
        config.augment = dict(
            large=dict(size=8, count=2, scale=(0.6, 1.0)),
            small=dict(size=5, count=1, scale=(0.3, 0.6), jitter=0.0, grayscale=0.0),
        )
        config.optim.groups = dict(prototypes=dict(pattern="^prototypes", frozen_epochs=1.0))
        config.stages = dict(
            first=dict(until_epoch=1.5, method=dict(epsilon=0.1), optim=dict(learning_rate=0.02))
        )
    elif variant == "instance":
        config.method = dict(name="instance", temperature=0.1)
        config.augment = dict(one=dict(size=8, count=1, jitter=0.0, grayscale=0.0))
    elif variant == "anchors":
        config.method = dict(name="anchor_neighbourhood", rounds=1, neighbours=2)
        config.optim.schedule.repeats = config.method.get_oneway_ref("rounds") + 1
        config.augment = dict(one=dict(size=8, count=1, jitter=0.0, grayscale=0.0))
        config.evals.neighbourhood = dict(k=2)
    elif variant == "aggregation":
        config.method = dict(
            name="local_aggregation", background=64, clusters=8, clusterings=3, refresh_steps=3
        )
        config.stages.warmup = dict(until_epoch=0.5, method=dict(objective="nce", samples=32))
        config.augment = dict(one=dict(size=8, count=1, jitter=0.0, grayscale=0.0))
    elif variant == "byol" or variant == "conr":
        config.method = dict(name="byol", predictor=(16,), momentum=0.9)
        config.augment = dict(pair=dict(size=8, count=2, jitter=0.0, grayscale=0.0))
        if variant == "conr":
            boundary = dict(keep=0.5, relax=False, clusters=5, restarts=2, iterations=5)
            config.positives = dict(name="contextual", k=3, k1=5, k2=2, boundary=boundary)
            config.stages.pretrain = dict(until_epoch=0.75, positives=dict(name="instance"))
    elif variant == "supervised":
        config.method = dict(name="supervised", label_smoothing=0.1)
        config.augment = dict(one=dict(size=8, count=1, jitter=0.0, grayscale=0.0, flip=0.0))
        config.optim.learning_rate = 0.1
    else:  # the method in tests/plugins
        config.method = dict(name="plugins.methods.target", momentum=0.9)
        config.augment = dict(pair=dict(size=8, count=2, jitter=0.0, grayscale=0.0))
    config.optim.momentum = 0.5
    config.evals = dict(
        knn=dict(k=5, temperature=0.1),
        linear=dict(steps=20, batch_size=64),
        clustering=dict(restarts=2, iterations=5),
    )
    config.eval_epochs = config.checkpoint_epochs = 1
    config.log_steps = 1
    return config
