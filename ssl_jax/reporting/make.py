"""Writes the report of several runs; parts that cannot be made are listed on the page."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from ssl_jax.ops.mesh import make_mesh
from ssl_jax.reporting import features, page
from ssl_jax.reporting.progress import occasionally
from ssl_jax.reporting.record import Record
from ssl_jax.runs.metrics import write_atomically
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import encodable


class Attempts:
    """Makes parts of a report; call it with a part's name and the function that makes it.

    A call returns the function's value, or None after a failure.

    Args:
        say: takes progress lines.

    Attributes:
        notes: a line on each failure.
    """

    def __init__(self, say: Callable[[str], Any]):
        self.notes: list[str] = []
        self._say = say

    def __call__(self, what: str, function: Callable[[], Any]) -> Any:
        self._say(what)
        try:
            return function()
        except Exception as error:  # a failure must not stop the other parts
            reason = str(error)
            if not isinstance(error, SettingError):
                reason = f"{type(error).__name__}: {reason}"
            reason = encodable(" ".join(reason.split()))
            self.notes.append(f"{what}: {reason}")
            self._say(f"  left out: {reason}")
            return None


def write(
    runs: Sequence[Record],
    path: Path,
    *,
    given: Mapping[str, Any] | None = None,
    most: int = features.MOST,
    most_for_density: int = 0,
    say: Callable[[str], Any] = print,
) -> list[str]:
    """Writes the report on `runs` atomically.

    Args:
        runs: what to report on.
        path: of the HTML file.
        given: settings of the data ({"data.dir": ...}) that replace those of the runs.
        most: maximum number of training images to embed.
        most_for_density: the same for the figure of densities; 0 for all.
        say: takes progress lines.

    Returns:
        a line on each part that could not be made.
    """
    attempt = Attempts(say)
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        features_of_runs = {}
        for run in runs:
            run_features = attempt(
                f"figures from the features of {run.name}",
                partial(
                    features.of_run,
                    run.folder,
                    mesh,
                    given or {},
                    most=most,
                    most_for_density=most_for_density,
                ),
            )
            if run_features is not None:
                features_of_runs[run.name] = run_features
        sections = page.sections(runs, features_of_runs, attempt, occasionally(say))
    summaries = [(run.name, page.summary(run)) for run in runs]
    write_atomically(path, page.render(summaries, sections, attempt.notes))
    return attempt.notes
