"""A model card: what an exported encoder is, what its scores are of, and how to load it."""

import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssl_jax import __version__
from ssl_jax.runs import data_record
from ssl_jax.runs.metrics import read_records
from ssl_jax.runs.restore import Run
from ssl_jax.runs.scores import FEATURES, score_label, shown_scores
from ssl_jax.settings import eval_settings
from ssl_jax.settings.text import counted, encodable, printable

_SPECIAL = re.compile(r"([\\`*_\[\]|~#!])")  # characters that mean something in Markdown
_LONGEST = 200  # characters of a name
_TRAINED = "eval"  # prefix of the trained encoder's scores
_LICENCES = "https://huggingface.co/docs/hub/repositories-licenses"


def card(
    run: Run,
    tensors: Mapping[str, Any],
    images: str,
    loading: Mapping[str, Sequence[str]],
    *,
    for_timm: bool,
) -> str:
    """The card in Markdown, with the front matter of Hugging Face's hub.

    Names from the run, such as those of its folder and its data, are escaped.

    Args:
        run: that was exported.
        tensors: of the file, by name.
        images: a sentence on the images it takes.
        loading: lines of Python that load the file, by what they need ("PyTorch, with timm").
        for_timm: whether timm loads the folder.
    """
    settings = run.plan.record
    method = type(run.plan.stages[-1].method).__name__
    tags = ["self-supervised-learning", "image-feature-extraction", _slug(method)]
    front = [
        "---",
        f"# license: choose one before you publish the file, see {_LICENCES}",
        f"library_name: {'timm' if for_timm else 'ssl_jax'}",
        "pipeline_tag: image-feature-extraction",
        "tags:",
        *[f"- {tag}" for tag in tags],
        "---",
    ]
    parts = [
        "\n".join(front),
        f"# {_plain(run.folder.name)}",
        f"An image encoder trained without labels: {_plain(method)} with {_network(run)}. "
        f"{_plain(images[:1].upper() + images[1:])}.",
        _facts(run, settings, tensors),
        "## Data and licence\n\nTo be filled in: what the images show, where they are from, and "
        "under which licences the images and this file may be used.",
        f"## Scores\n\n{_scores(run, settings)}",
        "## How to load it",
        *[f"{title}:\n\n```python\n{_code(lines)}\n```" for title, lines in loading.items()],
    ]
    return "\n\n".join(parts) + "\n"


def _network(run: Run) -> str:
    method: Any = run.plan.stages[-1].method
    backbone = method.network.backbone
    return f"a ResNet-{backbone.depth} of width {backbone.width}, stem {backbone.stem}"


def _facts(run: Run, settings: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    """Data, training and sizes, as a table."""
    stage = run.plan.stages[-1]
    parameters = sum(x.size for name, x in tensors.items() if "running_" not in name)
    rows = {
        "method": type(stage.method).__name__,
        "network": _network(run),
        "features": f"{_width(tensors):,} numbers (backbone, averaged over the last map)",
        "parameters": f"{parameters:,} in {counted(len(tensors), 'tensor')}",
        "data": f"{settings['data']['name']}, {_numbers(run)}",
        "views": f"{stage.views[0].size} pixels",
        "epochs": f"{run.epoch:g}",
        "batch size": f"{settings['batch_size']:,}",
        "optimiser": settings["optim"]["name"],
        "made with": f"ssl_jax {__version__}",
    }
    lines = [_row(["", ""]), _row(["---", "---"])]
    lines += [_row([name, _plain(value)]) for name, value in rows.items()]
    return "\n".join(lines)


def _width(tensors: Mapping[str, Any]) -> int:
    """D of the backbone's features: the outputs of its last convolution."""
    last = [name for name in tensors if re.fullmatch(r"layer4\.\d+\.conv\d\.weight", name)]
    return tensors[max(last)].shape[0]


def _numbers(run: Run) -> str:
    """How many images there are, as far as the run folder says."""
    train = counted(len(run.plan.dataset.train), "training image")
    try:
        record = json.loads((run.folder / data_record.FILE).read_text("utf-8"))
        return f"{train}, {counted(int(record['test']), 'test image')}"
    except (OSError, ValueError, KeyError, TypeError):  # runs of early versions have none
        return train


def _scores(run: Run, settings: Mapping[str, Any]) -> str:
    """A table of the scores on record, and how they were measured."""
    rows, epoch = _on_record(run)
    if not rows:
        return "None on record."
    names = shown_scores(rows)
    lines = [
        _row(["features", *[_plain(score_label(name)) for name in names]]),
        _row(["---", *["---:"] * len(names)]),
    ]
    for label, scores in rows.items():
        cells = [f"{scores[name]:.4f}" if name in scores else "-" for name in names]
        lines.append(_row([_plain(label), *cells]))
    text = (
        "Fractions. Classifiers are scored on the test images, clusterings on the training images; "
        "labels are used for scoring only."
    )
    if epoch != run.epoch:
        text += f" These are of epoch {epoch:g}, the file is of epoch {run.epoch:g}."
    crop = eval_settings.shared(settings["evals"]).crop
    seen = f"the central square of {crop:g} of the short side" if crop else "all of it"
    protocol = [f"- seen of an image: {seen}"]
    for key, values in eval_settings.evaluators(settings["evals"]).items():
        listed = ", ".join(f"{name} {value}" for name, value in values.items())
        protocol.append(f"- {_plain(key)}: {_plain(listed) or 'defaults'}")
    return "\n\n".join(["\n".join(lines), text, "Protocol:", "\n".join(protocol)])


def _on_record(run: Run) -> tuple[dict[str, Mapping[str, float]], float]:
    """Scores by kind of features, and the epoch of the trained encoder's.

    Those of the exported step if it was scored, else the latest.
    """
    rows: dict[str, Mapping[str, float]] = {}
    epoch = run.epoch
    exact = False
    for record in read_records(run.folder):
        for prefix, label in FEATURES.items():
            scores = {
                name.partition("/")[2]: value
                for name, value in record.items()
                if name.startswith(f"{prefix}/")
            }
            if not scores or (prefix == _TRAINED and exact):
                continue
            rows[label] = scores
            if prefix == _TRAINED:
                exact = record.get("step") == run.step
                epoch = float(record.get("epoch", run.epoch))
    ordered = {label: rows[label] for label in FEATURES.values() if label in rows}
    return ordered, epoch


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(lines: Sequence[str]) -> str:
    """Lines in a fenced block, which no line may end."""
    return "\n".join(line.replace("```", "'''") for line in lines)


def _plain(text: object) -> str:
    """Text that is only text in Markdown and HTML, on one line."""
    line = printable(encodable(text))
    if len(line) > _LONGEST:
        line = f"{line[:_LONGEST]}…"
    return html.escape(_SPECIAL.sub(r"\\\1", line), quote=False)


def _slug(text: str) -> str:
    """A tag for the front matter: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "method"
