"""Object detection on PASCAL VOC, from a trained backbone.

    python -m ssl_jax.export --workdir=RUN --out=resnet50.safetensors
    python experiments/detection.py --backbone=resnet50.safetensors --voc=VOCdevkit \
        --train=voc07+12 [--minutes=9]

trains Faster R-CNN of torchvision's parts on VOC2007's trainval pictures (`voc07`), or on those of
VOC2007 and VOC2012 (`voc07+12`), and scores it on VOC2007's test pictures. It needs the extra
`detection` (torch, torchvision, pycocotools), and runs on a GPU or, very slowly, on a CPU.
VOCdevkit is the official folder, see `detection_parts/voc.py`.

The backbone is a file that `ssl_jax.export` wrote, or any that `ssl_jax.load_encoder` reads
(torchvision's, SwAV's authors', ...): a ResNet-18, -34 or -50 of any width with ImageNet's stem.
AlexNet and VGG16, which Instance Discrimination also lists, are not built here.

It stops after `--minutes`, at Ctrl-C and at SIGTERM; rerun the same command to resume. A checkpoint
is written every `--save` iterations, so a kill loses no more. At the end AP50, AP (mean over
overlaps of 0.5 to 0.95) and AP75 are printed and become a line of experiments/detection.jsonl, as
COCO averages them (pycocotools) and as VOC of 2007 does (11 recalls); difficult objects are left
out of both, see `detection_parts/scores.py`.

What the papers did. [m]: from memory, not checked against the paper.

    SwAV: Faster R-CNN R50-C4 of Detectron2 on VOC07+12, 82.6 AP50, supervised 81.3 [m]. 24,000
        iterations of 16 pictures on 8 GPUs, all layers trained, SyncBN, also a new one behind
        layer4, short sides of 480 to 800 pixels, 800 in testing [m], the rate 0.02, dropped at
        18,000 and 22,000, warmed up for 100 (MoCo's configuration; SwAV's own rate is not known
        here).
    LA: Faster R-CNN on VOC07, 69.1 mAP with a ResNet-50 [m]. Instance Discrimination, which it
        follows, freezes the layers below the third kind of residual blocks, and all BatchNorm [m].
        Its schedule is not known here: 70,000 iterations of one picture at a rate of 0.001, dropped
        at 50,000, and a short side of 600 pixels are those of Faster R-CNN's own code [m].

`--train=voc07+12` has SwAV's settings, and `--train=voc07` LA's. What differs:

    C4 or FPN: C4, as in both papers; `--neck=fpn` is torchvision's feature pyramid, which is
        faster and usually better, and comparable with neither.
    BatchNorm: over the batch of one process, which is what SyncBN computes over GPUs; no new
        statistics are taken before testing (Detectron2's PreciseBN). With fewer pictures in a step
        (`--batch`) the statistics are others.
    Batch and schedule: another `--batch` scales rate and iterations, another `--iterations` the
        drops and the warm-up, unless they are given.
    Sizes: as above; pictures are padded to the largest of their batch, which is drawn without
        regard to their shapes (Detectron2 sorts wide ones from tall ones).
    Objects: difficult ones are trained on, as in Detectron2; Faster R-CNN's own code leaves them
        out.
    Heads: torchvision's, with its samples (512 regions of a picture, a quarter with objects) and
        initialisation; LA's regions are 128 of a picture [m].
    Scores: published ones are VOC's, mostly of 11 recalls ("voc/AP50"); COCO's stand beside them.
"""

import argparse
import dataclasses
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detection_parts import record
from detection_parts.backbone import Backbone
from detection_parts.backbone import read as read_backbone
from detection_parts.detector import detector
from detection_parts.limit import Interrupted, Limit
from detection_parts.protocol import PROTOCOLS, Protocol
from detection_parts.scores import scores
from detection_parts.training import detect, train
from detection_parts.voc import CLASSES, TEST, TRAIN
from detection_parts.voc import read as read_voc
from published import DETECTORS

from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import counted

_PROTOCOL = tuple(field.name for field in dataclasses.fields(Protocol))


def protocol_of(train: str, given: Mapping[str, Any]) -> Protocol:
    """The settings of a training set's paper, with those that are `given`.

    Rate and iterations follow the batch, drops and warm-up the iterations, unless they are given.
    """
    paper = PROTOCOLS[train]
    given = {name: value for name, value in given.items() if value is not None}
    share = max(given.get("batch", paper.batch), 1) / paper.batch
    iterations = given.get("iterations", round(paper.iterations / share))
    length = iterations / paper.iterations
    scaled = dict(
        rate=paper.rate * share,
        iterations=iterations,
        drops=tuple(round(drop * length) for drop in paper.drops),
        warmup=round(paper.warmup * length),
    )
    return dataclasses.replace(paper, **(scaled | given))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains and scores a detector, resuming where it stopped.

    Returns:
        The line of the results file.

    Raises:
        SettingError: something is missing or does not fit.
        Interrupted: before the end.
    """
    protocol = protocol_of(args.train, {name: getattr(args, name) for name in _PROTOCOL})
    device = _device(args.device)
    backbone = read_backbone(args.backbone, args.mean, args.std, args.prefix)
    if args.row and backbone.depth != DETECTORS[args.row].depth:
        raise SettingError(
            f"--row={args.row} is of a ResNet-{DETECTORS[args.row].depth}, and --backbone of a "
            f"ResNet-{backbone.depth}"
        )
    if not args.results.parent.is_dir():
        raise SettingError(f"--results={args.results}: no folder {args.results.parent}")
    root = user_path(args.voc, "--voc")
    pictures = read_voc(root, TRAIN[args.train])
    tests = read_voc(root, TEST)
    for line in (*backbone.notes, *_notes(backbone, protocol, pictures, tests)):
        print(line)
    name = f"{args.backbone.stem}-{args.train}-{protocol.neck}-seed{args.seed}"
    folder = user_path(args.workdir or f"runs/detection/{name}", "--workdir")
    shared = dict(train=args.train, row=args.row, seed=args.seed, backbone=backbone.digest)
    shared |= dict(mean=backbone.mean, std=backbone.std, prefix=args.prefix)
    shared |= dict(pictures=len(pictures), test_pictures=len(tests))
    record.check_settings(folder, shared | dataclasses.asdict(protocol))
    line = record.finished(folder)
    if line is None:
        line = _train_and_score(args, protocol, backbone, pictures, tests, folder, device)
    record.record(folder, args.results, line)
    return line


def _train_and_score(
    args: argparse.Namespace,
    protocol: Protocol,
    backbone: Backbone,
    pictures: Sequence,
    tests: Sequence,
    folder: Path,
    device: str,
) -> dict[str, Any]:
    """The line of the results file of a detector that is not finished yet."""
    import torch

    torch.manual_seed(args.seed)
    model = detector(backbone, protocol).to(device)
    limit = Limit(args.minutes)
    shared = dict(device=device, limit=limit, workers=args.workers)
    with limit.signals():
        commits = train(
            model,
            pictures,
            protocol,
            folder,
            seed=args.seed,
            every=args.save,
            commit=args.commit or record.current_commit(),
            **shared,
        )
        minutes = limit.total()
        detections = detect(model, tests, folder, **shared)
    numbers, by_class = scores(tests, detections)
    return dict(
        row=args.row,
        train=args.train,
        network=f"ResNet-{backbone.depth}, width {backbone.width}",
        backbone=f"{args.backbone.name} (SHA-256 {backbone.digest}...)",
        seed=args.seed,
        commit=", ".join(commits),
        minutes=round(minutes, 1),
        **record.origin(device),
        protocol=dataclasses.asdict(protocol),
        pictures=len(pictures),
        test_pictures=len(tests),
        numbers={name: round(value, 4) for name, value in numbers.items()},
        by_class={name: round(value, 4) for name, value in by_class.items()},
    )


def _device(name: str) -> str:
    """The device to use, once the libraries are there.

    Raises:
        SettingError: a library or the device is missing.
    """
    for library in ("torch", "torchvision", "pycocotools"):
        try:
            importlib.import_module(library)
        except (ImportError, RuntimeError) as error:
            raise SettingError(
                f"{library} cannot be imported ({' '.join(str(error).split())[:120]}); "
                "pip install -e '.[detection]'"
            ) from error
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise SettingError("--device=cuda: PyTorch finds no GPU; give --device=cpu")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _notes(
    backbone: Backbone, protocol: Protocol, pictures: Sequence, tests: Sequence
) -> list[str]:
    """What will be trained."""
    settings = ", ".join(
        f"{name} {value}" for name, value in dataclasses.asdict(protocol).items() if name != "sizes"
    )
    sizes = sorted({protocol.sizes[0], protocol.sizes[-1]})
    lines = [
        f"backbone: ResNet-{backbone.depth} of width {backbone.width}, pixels of mean "
        f"{backbone.mean} and std {backbone.std}",
        f"data: {counted(len(pictures), 'picture')} with "
        f"{counted(sum(len(p.boxes) for p in pictures), 'object')} to train on, "
        f"{counted(len(tests), 'test picture')} with "
        f"{counted(sum(int((~p.difficult).sum()) for p in tests), 'object')} that are not "
        "difficult",
        f"training: {settings}, short sides of {' to '.join(map(str, sizes))}",
    ]
    cut = sum(p.cut for p in (*pictures, *tests))
    if cut:
        lines.append(f"data: {cut} boxes reached beyond their pictures, and were cut there")
    return lines


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; settings of the protocol that are not given are None."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def whole(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(",") if part)

    def three(text: str) -> tuple[float, ...]:
        return tuple(map(float, text.split(",")))

    parser.add_argument("--backbone", type=Path, required=True, help="weight file")
    parser.add_argument("--voc", type=Path, required=True, help="the folder VOCdevkit")
    parser.add_argument("--train", choices=tuple(TRAIN), help="default: voc07, or that of --row")
    parser.add_argument(
        "--row", default="", choices=("", *DETECTORS), help="row of docs/results.md to record"
    )
    parser.add_argument("--prefix", help="of the network's names, if the file has several")
    parser.add_argument("--mean", type=three, default=(), help="of the pixels, as three numbers")
    parser.add_argument("--std", type=three, default=(), help="of the pixels, as three numbers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workdir", type=Path, help="default: a folder below runs/detection")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="stop after this time; 0 = run to the end"
    )
    parser.add_argument("--save", type=int, default=500, help="iterations between checkpoints")
    parser.add_argument(
        "--workers", type=int, help="processes that load pictures; default: cores less two, up to 8"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--results", type=Path, default=record.RESULTS)
    parser.add_argument("--commit", default="", help="commit to record, if there is no git")
    kinds = dict(neck=str, norm=str, sizes=whole, drops=whole, rate=float, decay=float)
    for name in _PROTOCOL:
        papers = " / ".join(f"{getattr(p, name)}" for p in PROTOCOLS.values())
        if name == "sizes":
            papers = "600 / 480 to 800"
        parser.add_argument(
            f"--{name}", type=kinds.get(name, int), help=f"default, voc07 / voc07+12: {papers}"
        )
    args = parser.parse_args(argv)
    row = DETECTORS[args.row].train if args.row else None
    if row and args.train not in (None, row):
        parser.error(f"--row={args.row} was trained on {row}, not --train={args.train}")
    args.train = args.train or row or "voc07"
    if args.workers is None:
        args.workers = min(max((os.cpu_count() or 1) - 2, 0), 8)
    if args.save < 1 or args.workers < 0 or args.minutes < 0 or args.seed < 0:
        parser.error("--save is at least 1; --workers, --minutes and --seed are at least 0")
    return args


def main() -> None:
    args = parse(sys.argv[1:])
    try:
        line = run(args)
    except SettingError as error:
        sys.exit(f"error: {error}")
    except Interrupted as stopped:
        print(stopped)
        sys.exit(stopped.code)
    for name in CLASSES:
        if name in line["by_class"]:
            print(f"{name:<12} AP50 {100 * line['by_class'][name]:5.1f}")
    for name, value in line["numbers"].items():
        print(f"{name:<12} {100 * value:10.1f}")
    print(f"recorded in {args.results}")


if __name__ == "__main__":
    main()
