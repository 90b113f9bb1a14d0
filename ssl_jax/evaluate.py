"""Scores a trained run:  python -m ssl_jax.evaluate --workdir=RUN [--evals=knn,linear] [--checkpoint=best]

On the data it was trained on, or on others:  --config.data.name=cifar100 --config.data.dir=DIR. Any setting of an
evaluator is a flag: --config.evals.knn.k=50. The scores become a line of RUN/evaluations.jsonl.
"""

import datetime
import json

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder, as ssl_jax.main made it.")
EVALS = flags.DEFINE_string("evals", "", "Evaluators, by commas, your own by dotted name; default: the config's.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")


def main():
    import jax
    from rich.console import Console

    from ssl_jax.build import completed
    from ssl_jax.inference.transfer import evaluation_of
    from ssl_jax.ops.mesh import make_mesh
    from ssl_jax.runs.console import Status, table_width
    from ssl_jax.runs.restore import open_run, other_data
    from ssl_jax.runs.scores import FEATURES, format_scores, score_table, shown_scores
    from ssl_jax.runtime import compilation

    compilation.enable_cache()
    console, mesh = Console(), make_mesh()
    with jax.set_mesh(mesh):
        run = open_run(WORKDIR.value, mesh, CHECKPOINT.value)
        settings = completed(command_line.CONFIG.value)
        settings = other_data(settings, command_line.overrides("data"), run.plan.source)
        evaluation = evaluation_of(run, settings)
        path = run.folder / "evaluations.jsonl"
        append(path, "")
        said = printable(f"{run.folder} at epoch {run.epoch:g}, on {evaluation.data}")
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        found, failed, stopped = {}, {}, None
        try:
            with Status(console) as progress:
                for name, values in evaluation(progress.status):
                    if isinstance(values, Exception):
                        failed[name] = command.reason(values)
                        continue
                    found |= values
                    progress.note(format_scores({f"eval/{k}": v for k, v in values.items()}, every=True))
        except KeyboardInterrupt as interrupt:
            stopped = interrupt
            done = {name.partition("/")[0] for name in found} | set(failed)
            failed |= {name: "stopped before its end" for name in evaluation.scorer.keys if name not in done}
    if stopped and not found:
        raise stopped
    record = dict(step=run.step, data=evaluation.data, scores=found, failed=failed, settings=evaluation.settings)
    record["date"] = str(datetime.date.today())
    rows = {FEATURES["eval"]: found}
    if shown_scores(rows):
        console.print(score_table(printable(run.folder), rows), width=table_width(console))
    append(path, json.dumps(record) + "\n")
    if stopped:
        raise stopped
    if failed:
        command_line.fail("; ".join(f"{name} failed ({why})" for name, why in failed.items()), 1)


def append(path, text):
    """Adds a line to a file, or with an empty text sees whether it could; a line that a kill has torn stays lost.

    Raises:
        SettingError: it cannot be written.
    """
    if path.exists() and not path.is_file():
        raise SettingError(f"{path}, where the scores go, is not a regular file; move it away")
    try:
        torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size
        with path.open("a") as file:
            file.write("\n" * bool(torn and text) + text)
        if not path.stat().st_size:
            path.unlink()
    except OSError as error:
        raise SettingError(f"{path}, where the scores go, cannot be written ({error.strerror or error})") from error


if __name__ == "__main__":
    command.start(main, prepare=command_line.with_run)
