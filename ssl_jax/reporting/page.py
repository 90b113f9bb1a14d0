"""The page of a report: its sections, and page.html filled with them."""

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jinja2

from ssl_jax.interface import Report, no_progress
from ssl_jax.reporting import pictures, tables
from ssl_jax.reporting.attention import attention
from ssl_jax.reporting.context import in_context
from ssl_jax.reporting.features import Features
from ssl_jax.reporting.pictures import Picture
from ssl_jax.reporting.record import Record
from ssl_jax.reporting.tables import Table
from ssl_jax.runs.attention_files import steps_in
from ssl_jax.settings.text import encodable

Attempt = Callable[[str, Callable[[], Any]], Any]  # see `make.Attempts`
_ALWAYS_SHOWN = ("Scores", "Where and when")


@dataclasses.dataclass
class Section:
    """A section of the page.

    Attributes:
        title: heading.
        text: paragraph below it.
        tables: shown next; None where there is nothing to show.
        pictures: (heading, picture) pairs; None where a picture could not be made.
        folded: (title, text) pairs that open on a click.
    """

    title: str
    text: str = ""
    tables: list[Table | None] = dataclasses.field(default_factory=list)
    pictures: list[tuple[str, Picture | None]] = dataclasses.field(default_factory=list)
    folded: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def sections(
    runs: Sequence[Record],
    features: Mapping[str, Features],
    attempt: Attempt,
    report: Report = no_progress,
) -> list[Section]:
    """All sections that can be made.

    Args:
        runs: the runs to report on.
        features: features by name of those runs whose data and checkpoint are available.
        attempt: returns a function's value, or None after noting its failure.
        report: takes progress lines.
    """
    records = {run.name: run.records for run in runs}
    return shown(
        [
            _scores(runs),
            _training(runs, attempt),
            *_rounds(runs, attempt),
            _attention(runs, attempt),
            *of_features(features, records, attempt, report),
            _settings(runs),
            _environment(runs),
        ]
    )


def of_features(
    features: Mapping[str, Features],
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    attempt: Attempt,
    report: Report = no_progress,
) -> list[Section]:
    """The sections of figures from features; some may be empty, see `shown`.

    Args:
        features: by name of the run or weight file.
        records: of the runs, by name; weight files have none.
        attempt: as in `sections`.
        report: as in `sections`.
    """
    labelled = {name: x for name, x in features.items() if (x.labels >= 0).any()}
    scored = {name: x for name, x in features.items() if x.scores is not None and name in records}

    def each_run(
        title: str, make: Callable[..., Picture], chosen: Mapping[str, Features] = features
    ) -> Section:
        """A section with one picture for each of the chosen runs."""
        drawn = [
            (name, attempt(f"{title.lower()} of {name}", partial(make, name, x)))
            for name, x in chosen.items()
        ]
        return Section(title, pictures=drawn)

    made = [each_run("Nearest neighbours", lambda name, x: pictures.neighbours(x))]
    made[-1].text = _sample_sizes(features)
    made.append(each_run("Map of the embedding", lambda name, x: pictures.tsne(x)))
    made.append(each_run("Chosen classes", lambda name, x: pictures.class_map(x), labelled))
    made += _density(features, attempt, report)
    made.append(each_run("Neighbours in context", lambda name, x: in_context(x)))
    made.append(each_run("Purity", lambda name, x: pictures.purity(x), labelled))
    made.append(
        each_run("Prototypes", lambda name, x: pictures.prototypes(x, records[name]), scored)
    )
    return made


def shown(made: Sequence[Section]) -> list[Section]:
    """The sections that have something to show, and those that always appear."""
    for section in made:
        section.tables = [table for table in section.tables if table]
        section.pictures = [(name, picture) for name, picture in section.pictures if picture]
    return [
        section
        for section in made
        if section.tables or section.pictures or section.folded or section.title in _ALWAYS_SHOWN
    ]


def _scores(runs: Sequence[Record]) -> Section:
    table = tables.scores(runs)
    if table and any(kind == "own" for kind, _ in table.rows):
        several_data = len({run.fingerprint for run in runs}) > 1
        text = (
            "The last evaluation of each run: the scores to quote. Scores are fractions; the best "
            f"of each column{' on the same data' if several_data else ''} is in bold."
        )
        if any(kind == "quiet" for kind, _ in table.rows):
            text += (
                " Best epochs are for comparison only: they were selected on the test images that "
                "they are scored on."
            )
    elif all(run.facts and not run.facts.get("classes") for run in runs):
        text = "The images have no labels, so there are no scores."
    else:
        text = "The runs have no scores of a trained encoder yet."
    section = Section("Scores", text, [table, tables.signs(runs)])
    section.tables += [tables.classes(run) for run in runs]
    for run in runs:
        later = tables.evaluations(run)
        if later:
            section.tables.append(
                dataclasses.replace(later, note=f"Later evaluations of {run.name}")
            )
            title = f"All scores and settings of the later evaluations of {run.name}"
            shown = [
                {key: value for key, value in evaluation.items() if key != "by_class"}
                for evaluation in run.evaluations
            ]
            section.folded.append((title, json.dumps(shown, indent=2)))
    return section


def _training(runs: Sequence[Record], attempt: Attempt) -> Section:
    picture = attempt("training curves", lambda: pictures.training(runs))
    return Section("Training", pictures=[("", picture)])


def _rounds(runs: Sequence[Record], attempt: Attempt) -> list[Section]:
    """A section on the runs of Anchor Neighbourhood Discovery, if there are any."""
    runs = [run for run in runs if any("refresh/anchors" in record for record in run.records)]
    if not runs:
        return []
    picture = attempt("rounds", lambda: pictures.rounds(runs))
    return [Section("Rounds of neighbourhood discovery", pictures=[("", picture)])]


def _attention(runs: Sequence[Record], attempt: Attempt) -> Section:
    """The heat maps of the runs that recorded any."""
    runs = [run for run in runs if steps_in(run.folder)]
    drawn = [
        (run.name, attempt(f"attention of {run.name}", partial(attention, run))) for run in runs
    ]
    return Section("Attention", pictures=drawn)


def _density(features: Mapping[str, Features], attempt: Attempt, report: Report) -> list[Section]:
    if not features:
        return []
    picture = attempt("densities", lambda: pictures.densities(features, report))
    return [Section("Density", pictures=[("", picture)])]


def _sample_sizes(features: Mapping[str, Features]) -> str:
    """A sentence on the sizes of samples; empty if no run's images were sampled."""
    sizes = [
        f"{len(x.points):,} of {x.of:,} training images of {name}"
        for name, x in features.items()
        if len(x.points) < x.of
    ]
    if not sizes:
        return ""
    return f"This and the following figures, but for densities, use samples: {'; '.join(sizes)}."


def _settings(runs: Sequence[Record]) -> Section:
    table = tables.differences(runs) if len(runs) > 1 else None
    unshared = tables.unshared(runs)
    folded = [("Settings that only some of the runs have", unshared)] if unshared else []
    folded += [(f"All settings of {run.name}", json.dumps(run.settings, indent=2)) for run in runs]
    if len(runs) == 1:
        text = ""
    elif table:
        text = "Settings that all runs have, but with different values:"
    elif unshared:
        text = "Settings that all runs have are the same."
    else:
        text = "All runs have the same settings."
    return Section("Settings", text, [table], folded=folded)


def _environment(runs: Sequence[Record]) -> Section:
    missing = [run.name for run in runs if not run.starts]
    text = f"Not on record for {', '.join(missing)}." if missing else ""
    return Section("Where and when", text, [tables.environments(runs)])


def summary(run: Record) -> str:
    """A run in one line: "swav on digits, 1,437 images, epoch 40 of 40"."""
    settings = run.settings
    method = settings["method"].get("name", "")
    if settings.get("positives", {}).get("name", "instance") == "contextual":
        method = f"CoNR on {method}"
    data = settings["data"]["name"]
    if run.facts.get("shape"):
        data += f", {run.facts['shape'][0]:,} images"
    return f"{method} on {data}, epoch {round(run.epoch, 2):g} of {settings['epochs']}"


def render(
    summaries: Sequence[tuple[str, str]], found: Sequence[Section], notes: Sequence[str]
) -> str:
    """The HTML of a report, complete in itself.

    Args:
        summaries: name and `summary` of each run, or of a weight file.
        found: sections of the page.
        notes: a line on each part that could not be made.
    """
    today = datetime.date.today()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ssl_jax.reporting", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html").render(
        title=", ".join(name for name, _ in summaries),
        summaries=summaries,
        sections=found,
        notes=notes,
        date=f"{today.day} {today:%B %Y}",
        several=len(summaries) > 1,
    )
    return encodable(page)
