"""From run folders to the page; what cannot be made is named, and the rest is there."""

import jax

from ssl_jax.ops.mesh import make_mesh
from ssl_jax.reporting import features, page
from ssl_jax.runs.metrics import write_atomically
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import encodable


class Attempts:
    """Calling it with what is made and a function gives the function's value, or None and a line in `notes`."""

    def __init__(self, say):
        self.notes, self._say = [], say

    def __call__(self, what, function):
        self._say(what)
        try:
            return function()
        except Exception as error:  # one part's failure is not the others'
            why = str(error) if isinstance(error, SettingError) else f"{type(error).__name__}: {error}"
            why = encodable(" ".join(why.split()))
            self.notes.append(f"{what}: {why}")
            self._say(f"  left out: {why}")
            return None


def write(runs, path, *, given=None, most: int = features.MOST, say=print) -> list[str]:
    """Writes the report on `runs`, whole or not at all, and returns what is not in it, a line each.

    Args:
        runs: `record.Record`s.
        path: of the HTML file.
        given: settings of the data ({"data.dir": ...}) in place of those of the runs.
        most: training images that are embedded, at most.
        say: takes progress, line by line.
    """
    attempt, mesh = Attempts(say), make_mesh()
    with jax.set_mesh(mesh):
        own = lambda run: features.of_run(run.folder, mesh, given or {}, most=most)
        found = {
            run.name: attempt(f"figures from the features of {run.name}", lambda run=run: own(run)) for run in runs
        }
        sections = page.sections(runs, {name: x for name, x in found.items() if x is not None}, attempt)
    write_atomically(path, page.render(runs, sections, attempt.notes))
    return attempt.notes
