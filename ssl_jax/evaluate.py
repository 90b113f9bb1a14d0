"""Scores a trained run, on its own or on other data:

    python -m ssl_jax.evaluate --workdir=RUN --evals=knn,linear --checkpoint=best
    python -m ssl_jax.evaluate --workdir=RUN --data.name=cifar100 --data.dir=DIR

Flags set any setting of an evaluator, as in --config.evals.knn.k=50; --data.NAME is short for
--config.data.NAME. The scores are printed and appended to RUN/evaluations.jsonl, one line per call.
"""

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

if TYPE_CHECKING:  # imported late, since jax takes seconds to import
    from rich.console import Console

    from ssl_jax.inference.transfer import Evaluation

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder, as ssl_jax.main writes it.")
EVALS = flags.DEFINE_string(
    "evals",
    "",
    "Evaluators, separated by commas; your own by dotted name. Default: those of the run's config.",
)
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")


def main() -> None:
    import jax
    from rich.console import Console

    from ssl_jax.build import completed
    from ssl_jax.inference.transfer import evaluation_of
    from ssl_jax.ops.mesh import make_mesh
    from ssl_jax.runs.console import table_width
    from ssl_jax.runs.restore import open_run, other_data
    from ssl_jax.runs.scores import FEATURES, score_table, shown_scores
    from ssl_jax.runtime import compilation

    compilation.enable_cache()
    console = Console()
    mesh = make_mesh()
    with jax.set_mesh(mesh):
        run = open_run(WORKDIR.value, mesh, CHECKPOINT.value)
        settings = completed(command_line.CONFIG.value)
        settings = other_data(settings, command_line.overrides("data"), run.plan.source)
        evaluation = evaluation_of(run, settings)
        path = run.folder / "evaluations.jsonl"
        append(path, "")
        message = printable(f"{run.folder} at epoch {run.epoch:g}, on {evaluation.data}")
        console.print(message, markup=False, highlight=False, soft_wrap=True)
        scores, failed, stopped = _evaluate(evaluation, console)
    if stopped and not scores:
        raise stopped
    record = dict(
        step=run.step,
        data=evaluation.data,
        scores=scores,
        failed=failed,
        settings=evaluation.settings,
        date=str(datetime.date.today()),
    )
    rows = {FEATURES["eval"]: scores}
    if shown_scores(rows):
        console.print(score_table(printable(run.folder), rows), width=table_width(console))
    append(path, json.dumps(record) + "\n")
    if stopped:
        raise stopped
    if failed:
        command_line.fail("; ".join(f"{name} failed ({why})" for name, why in failed.items()), 1)


def _evaluate(
    evaluation: "Evaluation", console: "Console"
) -> tuple[dict[str, float], dict[str, str], KeyboardInterrupt | None]:
    """Scores by name, reasons of failures by evaluator, and the interrupt that ended it, if any."""
    from ssl_jax.runs.console import Status
    from ssl_jax.runs.scores import format_scores

    scores = {}
    failed = {}
    try:
        with Status(console) as progress:
            for name, values in evaluation(progress.status):
                if isinstance(values, Exception):
                    failed[name] = command.reason(values)
                    continue
                scores |= values
                logged = {f"eval/{key}": value for key, value in values.items()}
                progress.note(format_scores(logged, every=True))
    except KeyboardInterrupt as stopped:
        done = {name.partition("/")[0] for name in scores} | set(failed)
        for name in evaluation.scorer.keys:
            if name not in done:
                failed[name] = "interrupted"
        return scores, failed, stopped
    return scores, failed, None


def append(path: Path, text: str) -> None:
    """Appends `text` to a file, on a new line even after an incomplete one; checks access if empty.

    Raises:
        SettingError: the file cannot be written.
    """
    if path.exists() and not path.is_file():
        raise SettingError(f"{path}, where the scores go, is not a regular file; move it away")
    try:
        incomplete = path.exists() and path.stat().st_size and path.read_bytes()[-1:] != b"\n"
        with path.open("a") as file:
            file.write(f"\n{text}" if incomplete and text else text)
        if not path.stat().st_size:
            path.unlink()
    except OSError as error:
        raise SettingError(
            f"{path}, where the scores go, cannot be written ({error.strerror or error})"
        ) from error


if __name__ == "__main__":
    command.start(main, prepare=command_line.with_run)
