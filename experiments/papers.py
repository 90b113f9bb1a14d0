"""What the papers report, and the command for each: a table in docs/results.md.

`python experiments/reproduce.py table` writes it. RUN is the folder of a finished run, such as
runs/reproduce/ROW-seed0, DIR the data, FILE an exported backbone.
"""

import dataclasses
from collections.abc import Iterator

from published import DETECTORS, ROWS
from transfers import TRANSFERS

MARKS = ("<!-- papers: python experiments/reproduce.py table -->", "<!-- end of papers -->")
_REPORT = "python -m ssl_jax.report RUN"
_EVALUATE = "python -m ssl_jax.evaluate --workdir=RUN"
_PROBE = f"{_EVALUATE} --evals=probe"
_STAGES = '"stage1","stage2","stage3","stage4","stage5"'
_EACH_LAYER = f"{_PROBE} '--config.evals.probe.features=({_STAGES})'"
_CONV5 = f"{_PROBE} '--config.evals.probe.features=(\"stage5\",)'"


@dataclasses.dataclass(frozen=True)
class Item:
    """A table, a figure or an experiment of a paper.

    Attributes:
        paper: its method.
        what: what it shows, with its number in the paper where that is known.
        commands: what makes it, one after the other.
        note: what to know of it, or how it differs.
    """

    paper: str
    what: str
    commands: tuple[str, ...]
    note: str = ""


def _row(name: str) -> str:
    data = "" if name.endswith("-digits") else " --data=DIR"
    return f"python experiments/reproduce.py run {name}{data}"


def _sweep(name: str) -> str:
    return f"python experiments/sweep.py --named={name}"


def _detection(name: str) -> str:
    return f"python experiments/detection.py --row={name} --backbone=FILE --voc=VOCdevkit"


def _transfer(preset: str) -> str:
    (command,) = {x.command for x in TRANSFERS if x.preset == preset}
    return command


_ON_DIGITS = "on the digits; give a config beside it for other data"

SWAV = (
    Item(
        "SwAV",
        "linear accuracy on ImageNet by epochs, batches of 4096 and of 256 (table 1)",
        (_row("swav-imagenet-800"), f"{_EVALUATE} --evals=augmented"),
        "the rows `swav-imagenet-*` and `swav-imagenet_bs256-*`",
    ),
    Item(
        "SwAV",
        "wider networks",
        (
            "python -m ssl_jax.main --config=configs/swav.py:imagenet --config.model.width=128 "
            "--config.data.dir=DIR",
        ),
        "ResNet-50-w2; 256 and 320 are w4 and w5",
    ),
    Item("SwAV", "1 % and 10 % of the labels", (f"{_EVALUATE} --evals=finetune",)),
    Item("SwAV", "transfer: linear on Places205", (_transfer("places205"),)),
    Item("SwAV", "transfer: SVMs on VOC07", (_transfer("voc07"),)),
    Item("SwAV", "transfer: linear on iNat18", (_transfer("inat18"),)),
    Item("SwAV", "transfer: detection on VOC07+12", (_detection("swav-voc07+12"),)),
    Item(
        "SwAV",
        "transfer: detection on COCO",
        ("python -m ssl_jax.export --workdir=RUN --out=FILE",),
        "the backbone under torchvision's names; DETR and Mask R-CNN themselves are not here",
    ),
    Item(
        "SwAV",
        "supervised ResNet-50 beside it",
        (_row("supervised-imagenet-resnet50-100"),),
        "and of every other recipe, see `configs/supervised.py`",
    ),
    Item("SwAV", "multi-crop against two crops", (_sweep("swav-crops"),), _ON_DIGITS),
    Item("SwAV", "number of prototypes", (_sweep("swav-prototypes"),), _ON_DIGITS),
    Item("SwAV", "epsilon of Sinkhorn-Knopp", (_sweep("swav-epsilon"),), _ON_DIGITS),
    Item("SwAV", "queue of small batches", (_sweep("swav-queue"),), _ON_DIGITS),
    Item(
        "SwAV",
        "time and memory of multi-crop",
        ("python experiments/bench_step.py --config=configs/swav.py:imagenet",),
        "memory: XLA's bound by bytes is in experiments/roofline.py",
    ),
)

LOCAL_AGGREGATION = (
    Item(
        "LA",
        "kNN on ImageNet by architecture",
        tuple(
            _row(f"local_aggregation-imagenet-{network}")
            for network in ("resnet18-200", "resnet50-200", "alexnet-160", "vgg16-168")
        ),
    ),
    Item("LA", "linear accuracy on ImageNet by layer", (_EACH_LAYER,)),
    Item(
        "LA",
        "linear accuracy over ten crops",
        (f"{_EVALUATE} --evals=augmented --config.evals.augmented.ten_crop=0.875",),
        "LA's settings of the classifier are with the row "
        "`local_aggregation-imagenet-resnet50-200` above",
    ),
    Item("LA", "transfer to Places205 by layer", (_transfer("places205_la"),)),
    Item("LA", "detection on VOC07", (_detection("local_aggregation-voc07"),)),
    Item("LA", "local and background density", (_REPORT,), "over all training images"),
    Item("LA", "nearest neighbours, successes and failures", (_REPORT,)),
    Item("LA", "multi-dimensional scaling of classes", (_REPORT,)),
    Item("LA", "background neighbours (ablation)", (_sweep("la-background"),), _ON_DIGITS),
    Item("LA", "clusterings H and close sets (ablation)", (_sweep("la-close"),), _ON_DIGITS),
    Item("LA", "clusters m (ablation)", (_sweep("la-clusters"),), _ON_DIGITS),
)

ANCHORS = (
    Item(
        "AND",
        "kNN on CIFAR-10, CIFAR-100 and SVHN",
        tuple(
            _row(f"anchor_neighbourhood-{data}-alexnet-1000")
            for data in ("cifar10", "cifar100", "svhn")
        ),
        "Instance Discrimination and supervised: the rows `instance-*` and `supervised-*`",
    ),
    Item("AND", "linear accuracy on conv5", (_CONV5,)),
    Item(
        "AND",
        "linear accuracy by layer and kNN on ImageNet",
        (_row("anchor_neighbourhood-imagenet-1000"), _EACH_LAYER),
    ),
    Item(
        "AND",
        "kNN on CUB200 and Dogs",
        (_row("anchor_neighbourhood-cub200-1000"), _row("anchor_neighbourhood-dogs-1000")),
    ),
    Item(
        "AND",
        "neighbourhood quality by round",
        (f"{_EVALUATE} --evals=neighbourhood", _REPORT),
        "the report has the curve over rounds",
    ),
    Item(
        "AND",
        "learning attention dynamics",
        (
            "python -m ssl_jax.main --config=configs/anchor_neighbourhood.py "
            "--config.attention_images=8",
            "python experiments/attention.py runs/anchor_neighbourhood --out=attention.png",
        ),
        "Grad-CAM: our reading, as only the figure's title is known",
    ),
    Item("AND", "neighbourhood size k (ablation)", (_sweep("and-neighbours"),), _ON_DIGITS),
    Item("AND", "rounds (ablation)", (_sweep("and-rounds"),), _ON_DIGITS),
    Item("AND", "curriculum (ablation)", (_sweep("and-curriculum"),), _ON_DIGITS),
)

CONR = (
    Item(
        "CoNR",
        "clustering of five data sets (table 1)",
        tuple(
            _row(f"conr-{name}-1000")
            for name in (
                "released-byol-cifar10",
                "byol-cifar20",
                "byol-stl10",
                "byol-imagenet10",
                "byol-imagenet_dogs",
            )
        ),
        "BYOL: the rows `byol-cifar10-1000`, `byol-cifar20-1000`",
    ),
    Item(
        "CoNR",
        "ablation of positives, filter and relaxation (table 2)",
        ("python experiments/conr_ablation.py --config=configs/conr.py:paper_cifar10 --data=DIR",),
    ),
    Item(
        "CoNR",
        "training speed beside BYOL (table 3)",
        (
            "python experiments/bench_step.py --config=configs/conr.py:paper_cifar10+byol "
            "--config.batch_size=256",
        ),
    ),
    Item(
        "CoNR",
        "on SimSiam and MoCo v2 (table 4)",
        tuple(
            _row(f"conr-{base}-{data}-1000")
            for base in ("simsiam", "moco")
            for data in ("cifar10", "cifar20")
        ),
    ),
    Item("CoNR", "Tiny-ImageNet (table 5)", (_row("conr-byol-tiny_imagenet-1000"),)),
    Item("CoNR", "Euclidean and contextual neighbours (figures 1b, 5)", (_REPORT,)),
    Item("CoNR", "purity of the K nearest (figure 2)", (_REPORT,)),
    Item(
        "CoNR", "share kept by the filter, fr(t0) (figure 3a)", (_sweep("conr-keep"),), _ON_DIGITS
    ),
    Item("CoNR", "k1 and k2 (figure 3b)", (_sweep("conr-graph"),), _ON_DIGITS),
    Item(
        "CoNR",
        "accuracy over epochs beside BYOL (figure 3c)",
        ("python -m ssl_jax.report RUN RUN2 --out=both.html",),
        "RUN2: of BYOL",
    ),
    Item("CoNR", "t-SNE with boundary samples (figure 4)", (_REPORT,)),
)

BASES = (
    Item(
        "Instance Discrimination",
        "kNN on CIFAR-10 and ImageNet",
        tuple(
            _row(f"instance-{name}-200")
            for name in ("cifar10", "imagenet-resnet18", "imagenet-resnet50")
        ),
    ),
    Item("Instance Discrimination", "linear accuracy by layer", (_EACH_LAYER,)),
    Item(
        "Instance Discrimination",
        "size of the embedding",
        (
            "python experiments/sweep.py configs/instance.py:cifar10 --over head.dim=32,64,128,256 "
            "--seeds 0 --set data.dir=DIR",
        ),
    ),
    Item("Instance Discrimination", "few labels", (f"{_PROBE}", f"{_EVALUATE} --evals=finetune")),
    Item("Instance Discrimination", "detection on VOC07", (_detection("instance-voc07"),)),
    Item("BYOL", "linear accuracy on ImageNet (table 1)", (_row("byol-imagenet-1000"), _PROBE)),
    Item(
        "SimSiam", "linear accuracy on ImageNet (table 4)", (_row("simsiam-imagenet-100"), _PROBE)
    ),
    Item("SimSiam", "linear accuracy on CIFAR-10 (appendix D)", (_row("simsiam-cifar10-800"),)),
    Item("MoCo v2", "linear accuracy on ImageNet (table 1)", (_row("moco-imagenet-200"), _PROBE)),
)

ITEMS = (*SWAV, *LOCAL_AGGREGATION, *ANCHORS, *CONR, *BASES)


def commands() -> Iterator[str]:
    """All commands of the table, and those of the rows, transfers and detectors, each once."""
    rows = (_row(name) for name in ROWS)
    detectors = (_detection(name) for name in DETECTORS)
    listed = (command for item in ITEMS for command in item.commands)
    yield from dict.fromkeys([*listed, *rows, *detectors, *(x.command for x in TRANSFERS)])


def table() -> str:
    """A line for each item: the paper, what it shows, the commands, a note."""
    lines = ["| paper | shows | command | note |", "| --- | --- | --- | --- |"]
    for item in ITEMS:
        code = "<br>".join(f"`{command}`" for command in item.commands)
        lines.append(f"| {item.paper} | {item.what} | {code} | {item.note or '-'} |")
    return "\n".join(lines)
