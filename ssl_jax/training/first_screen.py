"""What a run prints first: what is read, trained and where it goes, one aligned line each."""

import textwrap
from pathlib import Path
from typing import Any

import jax

from ssl_jax.build import Plan
from ssl_jax.runs import data_record, provenance
from ssl_jax.settings.text import counted, encodable, printable

PARAMETERS = "parameters.txt"
_WIDTH = 80  # everywhere the same, so that logs, notebooks and terminals show the same
_LABEL = 10  # characters of the column of labels


def lines(plan: Plan, folder: Path, *, hashed: bool = False) -> list[str]:
    """The lines of a run that begins, with the plan's notes last.

    Args:
        plan: what is trained.
        folder: the run folder.
        hashed: whether its name ends in a hash of the changed settings.
    """
    named = printable(encodable(folder))
    if hashed:
        named += " (the hash stands for the changed settings)"
    return [
        *_read(plan),
        *_line("views", _views(plan)),
        *_line("devices", _devices()),
        *_line("run", named),
        *notes(plan),
    ]


def resumed_lines(plan: Plan) -> list[str]:
    """The lines of a run that resumes: what it reads and trains, and the notes."""
    return [*_read(plan), *notes(plan)]


def notes(plan: Plan) -> list[str]:
    """The plan's notes, wrapped."""
    return [line for note in plan.notes for line in _line("note", note)]


def _read(plan: Plan) -> list[str]:
    return [
        *_line("data", data_record.sentence(plan.dataset, plan.source.limit)),
        *_line("method", _method(plan)),
        *_line("network", _network(plan)),
    ]


def parameter_table(params: Any) -> str:
    """Name, shape and size of every parameter, and their sum."""
    from clu import parameter_overview  # used only here

    return parameter_overview.get_parameter_overview(params, include_stats=False) + "\n"


def _line(label: str, text: str) -> list[str]:
    """A label and its text, wrapped with a hanging indent; long words such as paths stay whole."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=label.ljust(_LABEL),
        subsequent_indent=" " * _LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _method(plan: Plan) -> str:
    """For example "SwAV, 100 epochs of 22 steps, batches of 64"."""
    name = type(plan.stages[-1].method).__name__
    if plan.record["positives"]["name"] == "contextual":
        name = f"CoNR on {name}"
    steps = "1 step" if plan.steps_per_epoch == 1 else f"{plan.steps_per_epoch:,} steps"
    epochs = plan.settings.epochs
    length = f"1 epoch of {steps}" if epochs == 1 else f"{epochs:,} epochs of {steps}"
    return f"{name}, {length}, batches of {plan.batch_size:,}"


def _network(plan: Plan) -> str:
    """For example "ResNet-18, width 64, 11.2 M parameters; head 512-128; 11.5 M in all"."""
    params = plan.shapes.params if plan.shapes is not None else {}
    network = getattr(plan.stages[-1].method, "network", None)
    total = f"{_millions(_size(params))} M in all ({PARAMETERS})"
    if network is None:
        return total
    backbone = network.backbone
    name = type(backbone).__name__
    if hasattr(backbone, "depth"):
        name += f"-{backbone.depth}"
    parts = [name]
    if hasattr(backbone, "width"):
        parts.append(f"width {backbone.width}")
    weights = params["network"]
    backbone_weights = weights.get("backbone", weights)
    parts.append(f"{_millions(_size(backbone_weights))} M parameters")
    head = ""
    if "head" in weights:
        head = f"head {'-'.join(map(str, (*network.head.hidden, network.head.dim)))}; "
    return f"{', '.join(parts)}; {head}{total}"


def _size(params: Any) -> int:
    """Number of parameters."""
    return sum(x.size for x in jax.tree.leaves(params))


def _millions(count: int) -> str:
    """Three digits, or two decimals of small numbers: "11.2", "0.72", "0.0031"."""
    return f"{count / 1e6:.3g}"


def _views(plan: Plan) -> str:
    """For example "2x96 + 4x48 of whole pictures as squares of 256 (1.97 GB), 3 channels".

    Counts and sides in pixels.
    """
    sizes = " + ".join(f"{view.count}x{view.size}" for view in plan.stages[-1].views)
    channels = plan.dataset.train.images.shape[-1]
    stored = data_record.stored(plan.dataset, plan.source)
    return f"{sizes} of {stored}, {counted(channels, 'channel')}"


def _devices() -> str:
    """For example "8 x NVIDIA H200 (gpu), 2 processes"."""
    here = provenance.here()
    names = [f"{count} x {provenance.device(kind)}" for kind, count in here["devices"].items()]
    if here["processes"] > 1:
        names.append(f"{here['processes']} processes")
    return ", ".join(names)
