"""The published numbers, each as a row that `reproduce.py` trains.

A row has a config, settings, the number, and how it was measured.
"""

import dataclasses

BEST_LIVE = "kNN, best epoch on the test set, live bank"
BEST = "kNN, best epoch on the test set"
CLUSTERS = "NMI / ACC / ARI of k-means on all images trained on; epoch not stated"


@dataclasses.dataclass(frozen=True)
class Score:
    """A number that is measured on the finished run of a row, by `ssl_jax.evaluate`.

    Attributes:
        evaluator: its name.
        published: the number, in percent.
        protocol: how the published number was measured.
        source: paper or code, and its table.
        settings: of the evaluator, where they are not the defaults.
    """

    evaluator: str
    published: str
    protocol: str
    source: str
    settings: dict = dataclasses.field(default_factory=dict)

    def flags(self) -> list[str]:
        """The flags of `python -m ssl_jax.evaluate`, beside --workdir."""
        prefix = f"--config.evals.{self.evaluator}"
        texts = {name: str(x).replace("'", '"') for name, x in self.settings.items()}
        settings = [f"{prefix}.{name}={text.replace(' ', '')}" for name, text in texts.items()]
        return [f"--evals={self.evaluator}", *settings]


@dataclasses.dataclass(frozen=True)
class Row:
    """One reproduction.

    Attributes:
        config: file and variant.
        settings: overrides by dotted name.
        published: the number, in percent; "-" if none is published.
        protocol: how the published number was measured, as far as is known.
        source: paper or code, and its table.
        scores: further numbers that are measured on the finished run.
        supervised: the row of the supervised twin, whose numbers stand beside this one's.
    """

    config: str
    settings: dict = dataclasses.field(default_factory=dict)
    published: str = "-"
    protocol: str = "-"
    source: str = "-"
    scores: tuple[Score, ...] = ()
    supervised: str = ""


# SwAV's numbers are of 800 epochs; they are quoted from memory.
_FINETUNE = Score(
    "finetune",
    "with 1 %: top-1 53.9, top-5 78.5; with 10 %: 70.2, 89.9 (from memory)",
    "the whole backbone, 20 epochs; the authors take SimCLR's lists of files",
    "SwAV, semi-supervised learning",
)
_TEN_CROP = Score(
    "augmented",
    "linear 60.2",
    "linear on the best stage, mean probability over ten crops",
    "LA, transfer on ImageNet",
    {
        "features": ("stage1", "stage2", "stage3", "stage4", "stage5"),
        "batch_size": 128,
        "learning_rate": 0.01,
        "base_batch_size": 0,
        "weight_decay": 1e-4,
        "schedule": "drops",
        "drops": (30, 60),
        "epochs": 70,
        "scale": (0.77, 0.77),
        "ratio": (1.0, 1.0),
        "ten_crop": 0.875,
    },
)


@dataclasses.dataclass(frozen=True)
class Detector:
    """One number of object detection on PASCAL VOC, which `detection.py` measures.

    Attributes:
        train: "voc07" or "voc07+12", see `detection_parts/voc.py`.
        backbone: config and variant that train it; "-" if it has labels.
        published: the number, in percent.
        source: paper or code.
        depth: of the ResNet.
    """

    train: str
    backbone: str
    published: str
    source: str
    depth: int = 50


def _digits() -> dict[str, Row]:
    """Runs of minutes on a CPU; no numbers are published for them."""
    rows = {
        f"{name}-digits": Row(f"configs/{name}.py")
        for name in ("swav", "instance", "anchor_neighbourhood", "local_aggregation", *_BASES)
    }
    return rows | {f"conr-{base}-digits": Row(f"configs/conr.py:digits+{base}") for base in _BASES}


def _small() -> dict[str, Row]:
    """A quarter of an hour on a CPU; convolutions are initialised as in the recorded runs."""
    small = {
        "data.limit": 10_000,
        "model.width": 16,
        "model.init": "torchvision",
        "batch_size": 128,
        "epochs": 10,
    }
    # One view per image, so twice the epochs; both methods share a schedule.
    bank = small | {"epochs": 20, "optim.schedule.name": "constant", "optim.nesterov": True}
    return {
        "swav-cifar10-small": Row("configs/swav.py:cifar10", small | {"method.joint_views": True}),
        "instance-cifar10-small": Row("configs/instance.py:cifar10", bank),
        "anchor_neighbourhood-cifar10-small": Row(
            "configs/anchor_neighbourhood.py:cifar10", bank | {"eval_epochs": 4}
        ),
    }


def _swav() -> dict[str, Row]:
    lightly = "lightly's benchmark of CIFAR-10"
    solo = "solo-learn's results"
    paper = "SwAV, table 1"
    rows = {
        "swav-cifar10-200": Row(
            "configs/swav.py:cifar10", {"epochs": 200}, "kNN 84.2", BEST, lightly
        ),
        "swav-cifar10-800": Row(
            "configs/swav.py:cifar10", {"epochs": 800}, "kNN 88.4", BEST, lightly
        ),
        "swav-cifar100-1000": Row(
            "configs/swav.py:cifar100",
            {},
            "linear 64.9",
            "last epoch, trained beside the encoder",
            solo,
        ),
    }
    linear = "linear on the frozen backbone"
    for epochs, top1 in ((100, 72.1), (200, 73.9), (400, 74.6), (800, 75.3)):
        name = f"swav-imagenet-{epochs}"
        rows[name] = Row(
            "configs/swav.py:imagenet",
            {"epochs": epochs},
            f"linear {top1}",
            linear,
            paper,
            (_FINETUNE,) if epochs == 800 else (),
        )
    for epochs, top1 in ((200, 72.7), (400, 74.3)):
        name = f"swav-imagenet_bs256-{epochs}"
        rows[name] = Row(
            "configs/swav.py:imagenet_bs256", {"epochs": epochs}, f"linear {top1}", linear, paper
        )
    return rows


def _instance() -> dict[str, Row]:
    alexnet = "AND, small scale evaluation"
    both = f"{BEST_LIVE}; linear on conv5"
    rows = {}
    for data, number, source in (
        ("cifar10", "kNN 80.8", "Instance Discrimination's code"),
        ("cifar100", "kNN 50.7", "AND's code"),
        ("svhn", "kNN 93.6", "AND's code"),
    ):
        rows[f"instance-{data}-200"] = Row(
            f"configs/instance.py:{data}", {}, number, BEST_LIVE, source
        )
    for data, number in (
        ("cifar10", "kNN 60.3, linear 70.1"),
        ("cifar100", "kNN 32.7, linear 39.4"),
        ("svhn", "kNN 79.8, linear 89.3"),
    ):
        name = f"instance-{data}-alexnet-200"
        rows[name] = Row(f"configs/instance.py:{data}_alexnet", {}, number, both, alexnet)
    last = "kNN, features recomputed"
    source = "Instance Discrimination's code"
    for depth, number in ((18, "kNN 41.0"), (50, "kNN 46.8")):
        name = f"instance-imagenet-resnet{depth}-200"
        rows[name] = Row(f"configs/instance.py:imagenet_resnet{depth}", {}, number, last, source)
    return rows


def _local_aggregation() -> dict[str, Row]:
    config = "configs/local_aggregation.py"
    rows = {
        f"local_aggregation-cifar10-{epochs}": _schedule(f"{config}:cifar10", epochs)
        for epochs in (100, 200)
    }
    protocol = "kNN, last epoch, features recomputed"
    for net, epochs, number in (
        ("resnet18", 200, "kNN 45.0"),
        ("resnet50", 200, "kNN 49.4"),
        ("alexnet", 160, "kNN 38.1"),
        ("vgg16", 168, "-"),
    ):
        name = f"local_aggregation-imagenet-{net}-{epochs}"
        rows[name] = Row(
            f"{config}:imagenet_{net}",
            {},
            number,
            protocol,
            "LA, transfer on ImageNet",
            (_TEN_CROP,) if net == "resnet50" else (),
        )
    return rows


def _schedule(config: str, epochs: int) -> Row:
    """A run of another length, with drops at 60 and 80 % of it."""
    drops = {"optim.schedule.at_epochs": (0.6 * epochs, 0.8 * epochs)}
    return Row(config, {"epochs": epochs} | drops)


def _anchors() -> dict[str, Row]:
    config = "configs/anchor_neighbourhood.py"
    table = "AND, small scale evaluation"
    rows = {}
    for data, number in (("cifar10", "kNN 86.3"), ("cifar100", "kNN 57.2"), ("svhn", "kNN 94.4")):
        name = f"anchor_neighbourhood-{data}-1000"
        rows[name] = Row(f"{config}:{data}", {}, number, f"{BEST_LIVE}, ResNet-18", "AND's code")
    short = {"epochs": 200, "optim.schedule.at_epochs": (24.0, 32.0)}
    rows["anchor_neighbourhood-cifar10-200"] = Row(f"{config}:cifar10", short)  # five rounds of 40
    for data, number in (
        ("cifar10", "kNN 74.8, linear 77.6"),
        ("cifar100", "kNN 41.5, linear 47.9"),
        ("svhn", "kNN 90.9, linear 93.7"),
    ):
        name = f"anchor_neighbourhood-{data}-alexnet-1000"
        rows[name] = Row(
            f"{config}:{data}_alexnet", {}, number, f"{BEST_LIVE}; linear on conv5", table
        )
    rows["anchor_neighbourhood-imagenet-1000"] = Row(
        f"{config}:imagenet",
        {},
        "kNN 31.3, linear 39.7 on conv4",
        "not stated",
        "AND, large scale evaluation",
    )
    for data, number in (("cub200", "kNN 14.4"), ("dogs", "kNN 32.3")):
        name = f"anchor_neighbourhood-{data}-1000"
        rows[name] = Row(
            f"{config}:{data}", {}, number, "not stated", "AND, fine-grained evaluation"
        )
    return rows


_BASES = ("byol", "simsiam", "moco")
# NMI / ACC / ARI in CoNR's tables 1 and 4: the base alone, and with CoNR.
_TABLES = {
    ("byol", 10): ("79.4 / 87.8 / 76.6", "86.7 / 93.2 / 86.1"),
    ("byol", 20): ("55.5 / 53.9 / 37.6", "60.4 / 60.4 / 44.3"),
    ("simsiam", 10): ("78.6 / 85.6 / 73.6, ResNet-34", "85.2 / 91.4 / 83.6"),
    ("simsiam", 20): ("52.2 / 48.5 / 32.7, ResNet-34", "59.4 / 59.2 / 43.1"),
    ("moco", 10): ("66.9 / 77.6 / 60.8, ResNet-34", "81.4 / 88.9 / 79.1"),
    ("moco", 20): ("39.0 / 39.7 / 24.2, ResNet-34", "52.6 / 54.5 / 37.7"),
}
# BYOL's numbers were made with BatchNorm statistics over four devices.
_GROUPS = {"model.bn_groups": 4, "method.shuffle": True}


def _bases() -> dict[str, Row]:
    """The base methods, with the numbers of their own papers."""
    return {
        "byol-imagenet-1000": Row(
            "configs/byol.py:imagenet",
            {},
            "linear 74.3",
            "linear on the frozen backbone",
            "BYOL, table 1",
        ),
        "simsiam-cifar10-200": Row("configs/simsiam.py:cifar10", {"epochs": 200}),
        "simsiam-cifar10-800": Row(
            "configs/simsiam.py:cifar10", {}, "linear 91.8", "last epoch", "SimSiam, appendix D"
        ),
        "simsiam-imagenet-100": Row(
            "configs/simsiam.py:imagenet", {}, "linear 68.1", "last epoch", "SimSiam, table 4"
        ),
        "moco-cifar10-200": Row(
            "configs/moco.py:cifar10",
            {},
            "kNN 82.6",
            "kNN on the query embedding, last epoch",
            "MoCo's demonstration",
        ),
        "moco-imagenet-200": Row(
            "configs/moco.py:imagenet", {}, "linear 67.5", "last epoch", "MoCo v2, table 1"
        ),
    }


def _clustering() -> dict[str, Row]:
    """CoNR's tables: 1,000 epochs as published, and separate rows of 250."""
    rows = {}
    for (base, classes), (alone, with_conr) in _TABLES.items():
        table = "CoNR, table 1" if base == "byol" else "CoNR, table 4"
        if base == "byol":
            base_config = f"configs/byol.py:cifar{classes}"
            settings = _GROUPS
        else:
            base_config = f"configs/{base}.py:cifar{classes}_propos"
            settings = {}
        for epochs in (250, 1000):
            name = f"{base}-cifar{classes}"
            length = {"epochs": epochs}
            full_length = epochs == 1000
            protocol = CLUSTERS if full_length else "-"
            source = table if full_length else "-"
            number = alone if full_length else "-"
            rows[f"{name}-{epochs}"] = Row(base_config, settings | length, number, protocol, source)
            number = with_conr if full_length else "-"
            config = f"configs/conr.py:paper_cifar{classes}+{base}"
            if (base, classes) == ("byol", 10):  # the released settings made the paper's number
                rows[f"conr-{name}-{epochs}"] = Row(config, length)
                name = f"released-{name}"
                config = "configs/conr.py:released_cifar10+byol"
            rows[f"conr-{name}-{epochs}"] = Row(config, length, number, protocol, source)
    for variant, number, table in (
        ("stl10", "85.2 / 92.6 / 84.6", "CoNR, table 1"),
        ("imagenet10", "91.1 / 96.4 / 92.2", "CoNR, table 1"),
        ("imagenet_dogs", "74.4 / 79.4 / 66.7", "CoNR, table 1"),
        ("tiny_imagenet", "46.2 / 30.8 / 18.4", "CoNR, table 5"),
    ):
        rows[f"conr-byol-{variant}-1000"] = Row(
            f"configs/conr.py:{variant}+byol", {}, number, CLUSTERS, table
        )
    return rows


def _supervised() -> dict[str, Row]:
    """Supervised twins: those of recipes with published supervised numbers, and of the digits.

    SwAV's and BYOL's 76.5 is quoted from memory and was not checked against the papers, which train
    with a recipe of their own for about a hundred epochs.
    """
    config = "configs/supervised.py"
    rows = {
        "supervised-digits": Row(config),
        "supervised-resnet10-digits": Row(f"{config}:byol+digits"),
        "supervised-cifar10-200": Row(f"{config}:cifar10"),
        "supervised-imagenet-resnet50-100": Row(
            f"{config}:imagenet",
            {"epochs": 100},
            "top-1 76.5",
            "its own classifier; from memory",
            "SwAV, table 1",
        ),
        "supervised-imagenet-alexnet-90": Row(
            f"{config}:anchor_neighbourhood+imagenet",
            {"epochs": 90},
            "linear 48.3 on conv4, 50.5 on conv5",
            "not stated",
            "AND, large scale evaluation",
        ),
    }
    for data, number in (
        ("cifar10", "kNN 91.9, linear 91.8"),
        ("cifar100", "kNN 69.7, linear 71.0"),
        ("svhn", "kNN 96.5, linear 96.1"),
    ):
        rows[f"supervised-{data}-alexnet-200"] = Row(
            f"{config}:instance+{data}_alexnet",
            {},
            number,
            "kNN; linear on conv5",
            "AND, small scale evaluation",
        )
    return rows


def _twin(name: str) -> str:
    """The row of the supervised twin of row `name`: the same data and backbone; "" without."""
    if name.endswith("-digits"):
        has_resnet10 = any(base in name for base in _BASES)
        return "supervised-resnet10-digits" if has_resnet10 else "supervised-digits"
    data = name.split("-")[1]
    if "alexnet" in name and data in ("cifar10", "cifar100", "svhn"):
        return f"supervised-{data}-alexnet-200"
    if name == "anchor_neighbourhood-imagenet-1000":
        return "supervised-imagenet-alexnet-90"
    if name.startswith("swav-cifar10-") and not name.endswith("-small"):
        return "supervised-cifar10-200"
    has_resnet50 = name.startswith(("swav-", "byol-", "simsiam-", "moco-", "instance-")) and (
        "resnet18" not in name
    )
    is_imagenet = data in ("imagenet", "imagenet_bs256")
    return "supervised-imagenet-resnet50-100" if is_imagenet and has_resnet50 else ""


def _beside_supervised(rows: dict[str, Row]) -> dict[str, Row]:
    """`rows` with their supervised twins, which follow."""
    named = {name: dataclasses.replace(row, supervised=_twin(name)) for name, row in rows.items()}
    return named | _supervised()


ROWS = _beside_supervised(
    _digits()
    | _small()
    | _swav()
    | _instance()
    | _local_aggregation()
    | _anchors()
    | _bases()
    | _clustering()
)

# Instance Discrimination also lists AlexNet (48.1) and VGG16 (60.5), which have no detector here.
DETECTORS = {
    "swav-voc07+12": Detector(
        "voc07+12", "configs/swav.py:imagenet", "AP50 82.6 [m]", "SwAV, transfer"
    ),
    "supervised-voc07+12": Detector("voc07+12", "-", "AP50 81.3 [m]", "SwAV, transfer"),
    "instance-voc07+12": Detector(
        "voc07+12",
        "configs/instance.py:imagenet_resnet50",
        "AP50 80.0, AP 54.1, AP75 59.5",
        "OpenSelfSup's run of Instance Discrimination",
    ),
    "local_aggregation-voc07": Detector(
        "voc07", "configs/local_aggregation.py:imagenet_resnet50", "mAP 69.1 [m]", "LA, detection"
    ),
    "instance-voc07": Detector(
        "voc07",
        "configs/instance.py:imagenet_resnet50",
        "mAP 65.4 [m]",
        "Instance Discrimination, detection",
    ),
    "supervised-voc07": Detector(
        "voc07", "-", "mAP 76.2 [m]", "Instance Discrimination, detection"
    ),
}
