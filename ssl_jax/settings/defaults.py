"""Every setting of a run with its default. The files in `configs/` start from here."""

from ml_collections import ConfigDict

from ssl_jax.settings.resolve import SettingError


def get_config() -> ConfigDict:
    """Settings common to all methods; `method` and `augment` are left to the config file."""
    config = ConfigDict()
    config.seed = 0
    config.epochs = 200
    config.batch_size = 256  # over all devices of all hosts, whether or not it divides by them
    config.accumulate = 1  # nothing else: parts of a batch are no batch to these losses and to BatchNorm
    config.init_from = ""  # a run folder: go on from its last checkpoint, under this config's stages and schedules
    config.init_epoch = 0.0  # which of its checkpoints; 0 = the last
    config.init_fresh = False  # from that checkpoint take networks, banks and queues only; epochs start at zero
    config.resident_gb = 8.0  # training images up to this lie on the device; larger sets stay on the host

    config.data = ConfigDict(
        {
            "name": "digits",  # digits, cifar10, cifar100, folder, array, tfds:<name>
            "dir": "",  # folder or file of the data set, where it has any
            "limit": 0,  # first so many training images; 0 = all
            "labels": "fine",  # or coarse (CIFAR-100), or none
            "size": 128,  # side in pixels of the squares that images of folder and tfds are stored as
            "whole": False,  # train on the test images, too (deep clustering)
            "unlabelled": "",  # a split of a tfds data set, added to the training images
            "test_share": 0.1,  # held out of each class where there is no test split
            "skip_corrupt": False,  # leave out image files that cannot be read
            "download": False,  # fetch what is missing (CIFAR)
            "cache": "",  # folder for decoded images and downloads; empty = ~/.cache/ssl_jax
            "store": "cache",  # or stream: images of folder and tfds are decoded whenever they are wanted, never stored
            "workers": 0,  # processes that decode a stream; 0 = threads of this one
            "mean": (),  # of each channel, pixels in 0..1; empty = the data set's own
            "std": (),  # likewise
        }
    )
    # Groups of views, each a data.augment.View; larger views come first, groups of one size by name.
    config.augment = ConfigDict()

    config.model = ConfigDict(
        {
            "name": "resnet",  # resnet, preact_resnet, alexnet, vgg; each takes those of the settings below that it has
            "depth": 18,  # of residual networks: 10, 18, 34, 50
            "width": 64,  # channels of the first stage, the others in proportion; 128 of a ResNet-50 is w2
            "stem": "cifar",  # or imagenet
            "hidden": (4096, 4096),  # of alexnet and vgg: fully connected layers; () pools the last map
            "dtype": "float32",  # bfloat16: the backbone's activations and products; all else stays float32
            "remat": False,  # keep only each block's input for the backward pass: less memory, a third more work
            "bn_groups": 1,  # BatchNorm statistics over so many parts of the batch; 1 = over all of it
            "bn_momentum": 0.1,  # by how much running statistics move with a batch, as torch counts it
            "init": "torchvision",  # how convolutions start: torchvision (He's fan-out), torch, tensorflow
        }
    )
    config.head = ConfigDict(
        {
            "dim": 128,
            "hidden": (),
            "batch_norm": True,  # of the hidden layers
            "bias": True,  # of the hidden linear layers
            "output_norm": "",  # BatchNorm on the output: affine or plain
            "output_bias": True,
        }
    )
    config.base = ""  # of configs/conr.py: byol, simsiam, moco; chosen when the config is made
    config.method = ConfigDict()
    config.positives = ConfigDict({"name": "instance"})

    config.optim = ConfigDict(
        {
            "name": "sgd",  # larc, lars, sgd, adam; each takes those of the settings below that it has
            "learning_rate": 0.03,
            "base_batch_size": 0,  # rates are for a batch of this size and scale with it; 0 = rates as given
            "weight_decay": 0.0,  # coupled, as in torch.optim
            "momentum": 0.9,
            "nesterov": False,
            "trust": 0.001,
            "clip": False,
            "b1": 0.9,
            "b2": 0.999,
            "schedule": {
                "name": "warmup_cosine",  # constant, warmup_cosine, line_cosine, drops
                "warmup_epochs": 0.0,
                "cosine_epochs": 0.0,  # of line_cosine, after the warm-up; 0 = to the end of the run
                "start": 0.0,
                "final": 0.0,
                "at_epochs": (),
                "factor": 0.1,
                "repeats": 1,  # the whole schedule so many times over the run (the rounds of anchor_neighbourhood)
            },
            # name -> pattern (regular expression on "network/backbone/conv1/conv/kernel"), name (another optimiser),
            # factor, fixed_rate, weight_decay, frozen_epochs; the first group by name whose pattern is found decides.
            "groups": {},
        }
    )
    # name -> until_epoch, and overrides of method, positives, augment or optim that hold until then; 0: never.
    config.stages = ConfigDict()

    # What follows does not change the training: it may differ when a run is resumed.
    config.evals = ConfigDict(  # evaluators by name, each a file of evaluation/
        {
            "knn": {"k": 20, "temperature": 0.1, "feature": "embedding", "source": "recomputed"},  # or bank
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
    config.keep_checkpoints = 2  # so many of the latest, and the best; 0 = all
    config.log_steps = 10
    config.baselines = True  # score raw pixels and the untrained encoder once
    config.best = "eval/knn/top1"  # the score that the best checkpoint is kept by
    return config


def view(size: int, **changes) -> dict:
    """A group of views with all settings of `data.augment.View`, so that each can be given on the command line."""
    values = dict(size=size, count=2, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5)
    values |= dict(jitter=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale=0.2)
    values |= dict(blur=0.0, sigma=(0.1, 2.0), kernel=0, solarize=0.0, threshold=0.5)
    return values | changes


def digits_view(**changes) -> dict:
    """A view for handwritten digits of 8x8 pixels: a crop keeps most of a digit, and only its contrast changes."""
    shape = dict(scale=(0.6, 1.0), ratio=(3 / 5, 5 / 3), flip=0.0)
    colours = dict(jitter=1.0, brightness=0.6, contrast=0.6, saturation=0.0, hue=0.0, grayscale=0.0)
    return view(8, **shape | colours | changes)


def group(pattern: str, **changes) -> dict:
    """A group of parameters with all its settings, for `optim.groups`."""
    values = dict(pattern=pattern, name="", factor=1.0, fixed_rate=False, weight_decay=-1.0, frozen_epochs=0.0)
    return values | changes


def line_cosine(config: ConfigDict, *, warmup: float, cosine: float) -> None:
    """The schedule `line_cosine` with parts that are shares of `config.epochs`, also where those are overridden."""
    epochs = config.get_oneway_ref("epochs").to_float()
    config.optim.schedule.update(name="line_cosine", warmup_epochs=epochs * warmup, cosine_epochs=epochs * cosine)


def by_name(*variants) -> dict:
    """The variants of a config file, functions of a config, by their names; `VARIANTS` of the file."""
    return {variant.__name__: variant for variant in variants}


def apply_variant(config: ConfigDict, name: str, variants: dict) -> ConfigDict:
    """`config` after `variants[name](config)`, for the part of --config=NAME:VARIANT behind the colon.

    Raises:
        SettingError: no such variant; lists those that exist.
    """
    if name not in variants:
        raise SettingError(f"variant {name!r} is not known; choose one of: {', '.join(variants)}")
    variants[name](config)
    return config


_PLACES = ("data.dir", "data.cache", "data.download", "data.store", "data.workers")
_OBSERVING = ("evals", "eval_epochs", "checkpoint_epochs", "keep_checkpoints", "log_steps", "baselines", "best")


def only_observes(name: str) -> bool:
    """Whether the setting `name` ("evals.knn.k", "data.dir") leaves the training as it is."""
    return name.split(".")[0] in _OBSERVING or name in _PLACES
