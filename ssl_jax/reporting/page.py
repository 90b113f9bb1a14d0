"""The page: sections, filled into page.html."""

import dataclasses
import datetime
import json

import jinja2

from ssl_jax.reporting import pictures, tables
from ssl_jax.settings.text import encodable


@dataclasses.dataclass
class Section:
    """A heading with what stands below it; `folded` are (title, text) that open on a click."""

    title: str
    text: str = ""
    tables: list = dataclasses.field(default_factory=list)
    pictures: list = dataclasses.field(default_factory=list)  # of (heading, Picture)
    folded: list = dataclasses.field(default_factory=list)


def sections(runs, features, attempt) -> list[Section]:
    """All that can be made of the runs.

    Args:
        runs: `Record`s.
        features: {name: `Features`} of those runs whose data and checkpoint are there.
        attempt: `attempt(what, function)` gives the function's value, or None after noting why there is none.
    """
    found = [_scores(runs), _training(runs, attempt)]
    discovering = [r for r in runs if any("refresh/anchors" in x for x in r.records)]
    if discovering:
        drawn = attempt("rounds", lambda: pictures.rounds(discovering))
        found.append(Section("Rounds of neighbourhood discovery", pictures=[("", drawn)]))
    each = lambda title, make, wanted=lambda x: True: Section(
        title,
        pictures=[
            (n, attempt(f"{title.lower()} of {n}", lambda x=x, n=n: make(n, x)))
            for n, x in features.items()
            if wanted(x)
        ],
    )
    labelled = lambda x: (x.labels >= 0).any()
    found.append(each("Nearest neighbours", lambda n, x: pictures.neighbours(x)))
    drawn = [
        f"of {n}, {len(x.points):,} of {x.of:,} training images" for n, x in features.items() if len(x.points) < x.of
    ]
    found[-1].text = f"Drawn for this and what follows: {'; '.join(drawn)}." if drawn else ""
    found.append(each("Map of the embedding", lambda n, x: pictures.tsne(x)))
    found.append(each("Chosen classes", lambda n, x: pictures.class_map(x), labelled))
    if features:
        drawn = attempt("densities", lambda: pictures.densities(features))
        found.append(Section("Density", pictures=[("", drawn)]))
    found.append(each("Purity", lambda n, x: pictures.purity(x), labelled))
    records = {run.name: run.records for run in runs}
    scored = lambda x: x.scores is not None
    found.append(each("Prototypes", lambda n, x: pictures.prototypes(x, records[n]), scored))
    found += [_settings(runs), _environment(runs)]
    for section in found:
        section.tables = [x for x in section.tables if x]
        section.pictures = [(name, x) for name, x in section.pictures if x]
    return [s for s in found if s.tables or s.pictures or s.folded or s.title in ("Scores", "Where and when")]


def _scores(runs):
    own = tables.scores(runs)
    text = (
        "At the last evaluation of each run, which is the number to report; fractions, the best of a column in bold. "
        "The best epoch was chosen by the same test images that it is scored on, and stands only beside it."
    )
    trained = any(kind == "own" for kind, _ in own.rows) if own else False
    section = Section("Scores", text if trained else "No scores of a trained encoder are on record yet.", [own])
    for run in runs:
        found = tables.evaluations(run)
        if found:
            section.tables.append(dataclasses.replace(found, note=f"Evaluated later: {run.name}"))
            everything = json.dumps(run.evaluations, indent=2)
            section.folded.append((f"All scores and settings of these evaluations of {run.name}", everything))
    return section


def _training(runs, attempt):
    return Section("Training", pictures=[("", attempt("training curves", lambda: pictures.training(runs)))])


def _settings(runs):
    own = tables.differences(runs) if len(runs) > 1 else None
    some = tables.unshared(runs)
    folded = [("Settings that not all of the runs have", some)] if some else []
    folded += [(f"All settings of {run.name}", json.dumps(run.settings, indent=2)) for run in runs]
    same = "All runs have the same settings." if not some else "Settings that all runs have are the same."
    text = "" if len(runs) == 1 else "What differs among the settings that all runs have:" if own else same
    return Section("Settings", text, [own], folded=folded)


def _environment(runs):
    lacking = [run.name for run in runs if not run.starts]
    text = f"Not on record for {', '.join(lacking)}." if lacking else ""
    return Section("Where and when", text, [tables.environments(runs)])


def summary(run) -> str:
    """A run in one line: "SwAV on digits, 1,437 images, epoch 40 of 40"."""
    settings = run.settings
    method = settings["method"].get("name", "")
    if settings.get("positives", {}).get("name", "instance") == "contextual":
        method = f"CoNR on {method}"
    count = f", {run.facts['shape'][0]:,} images" if run.facts.get("shape") else ""
    return f"{method} on {settings['data']['name']}{count}, epoch {round(run.epoch, 2):g} of {settings['epochs']}"


def render(runs, found, notes) -> str:
    """The HTML of a report; everything in it, nothing loaded."""
    now = datetime.date.today()
    loader = jinja2.PackageLoader("ssl_jax.reporting", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("page.html").render(
        title=", ".join(run.name for run in runs),
        summaries=[(run.name, summary(run)) for run in runs],
        sections=found,
        notes=notes,
        date=f"{now.day} {now:%B %Y}",
        several=len(runs) > 1,
    )
    return encodable(page)
