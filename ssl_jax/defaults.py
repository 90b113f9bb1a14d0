"""Every setting of a run with its default. The files in `configs/` start from here."""

from ml_collections import ConfigDict

from ssl_jax.settings import SettingError


def get_config() -> ConfigDict:
    """Settings common to all methods; `method` and `augment` are left to the config file."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 200
    config.batch_size = 256  # over all devices

    config.data = ConfigDict(
        {
            "name": "digits",  # digits, cifar10, cifar100
            "dir": "",  # folder of the files, where the data set has any
            "limit": 0,  # first so many training images; 0 = all
            "labels": "fine",  # or coarse (CIFAR-100)
        }
    )
    # Groups of views, each a data.augment.View; larger views come first, groups of one size by name.
    config.augment = ConfigDict()

    config.model = ConfigDict({"name": "resnet", "depth": 18, "width": 64, "stem": "cifar"})
    config.head = ConfigDict({"dim": 128, "hidden": (), "batch_norm": True})
    config.method = ConfigDict()
    config.positives = ConfigDict({"name": "instance"})

    config.optim = ConfigDict(
        {
            "name": "sgd",  # larc, sgd, adam; each takes those of the settings below that it has
            "learning_rate": 0.03,
            "weight_decay": 0.0,  # coupled, as in torch.optim
            "momentum": 0.9,
            "nesterov": False,
            "trust": 0.001,
            "clip": False,
            "b1": 0.9,
            "b2": 0.999,
            "schedule": {
                "name": "warmup_cosine",  # constant, warmup_cosine, drops
                "warmup_epochs": 0.0,
                "start": 0.0,
                "final": 0.0,
                "at_epochs": (),
                "factor": 0.1,
            },
            # name -> pattern (regular expression on "network/backbone/conv1/conv/kernel"), factor, fixed_rate,
            # weight_decay, frozen_epochs; the first group by name whose pattern is found decides.
            "groups": {},
        }
    )
    # name -> until_epoch, and overrides of method, positives, augment or optim that hold until then.
    config.stages = ConfigDict()

    # What follows does not change the training: it may differ when a run is resumed.
    config.evals = ConfigDict(  # evaluators by name, each a file of evaluation/
        {
            "knn": {"k": 20, "temperature": 0.1, "feature": "embedding"},
            "linear": {
                "feature": "backbone",
                "steps": 1000,
                "batch_size": 512,
                "learning_rate": 0.01,
                "weight_decay": 1e-4,
            },
            "clustering": {
                "feature": "embedding",
                "clusters": 0,  # 0 = the number of classes
                "restarts": 10,
                "iterations": 50,
                "metric": "cosine",  # or euclidean
            },
        }
    )
    config.eval_epochs = 10  # every so many epochs, and at the end
    config.checkpoint_epochs = 10  # likewise
    config.log_steps = 10
    config.baselines = True  # score raw pixels and the untrained encoder once
    config.best = "eval/knn/top1"  # the score that the best checkpoint is kept by
    return config


def apply_variant(config: ConfigDict, name: str, variants: dict) -> ConfigDict:
    """`config` after `variants[name](config)`, for the part of --config=FILE:NAME behind the colon."""
    if name not in variants:
        raise SettingError(f"variant {name!r} is not known; choose one of: {', '.join(variants)}")
    variants[name](config)
    return config


_OBSERVING = ("evals", "eval_epochs", "checkpoint_epochs", "log_steps", "baselines", "best")


def only_observes(name: str) -> bool:
    """Whether the setting `name` ("evals.knn.k", "data.dir") leaves the training as it is."""
    return name.split(".")[0] in _OBSERVING or name == "data.dir"
