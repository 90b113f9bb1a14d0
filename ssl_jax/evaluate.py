"""Scores a trained run, on its own or on other data, or a weight file:

    python -m ssl_jax.evaluate --workdir=RUN --evals=knn,linear --checkpoint=best
    python -m ssl_jax.evaluate --workdir=RUN --data.name=cifar100 --data.dir=DIR
    python -m ssl_jax.evaluate --weights=FILE --data.dir=DIR --append=scores.jsonl
    python -m ssl_jax.evaluate --workdir=RUN --preset=voc07 --data.dir=DIR

Flags set any setting of an evaluator, as in --config.evals.knn.k=50; --data.NAME is short for
--config.data.NAME. For other data, name, size, bands and cache are taken from the run, and values
of more than 8 bits are scaled as in training; all other settings of `data` start from their
defaults. --preset stands for the data set, the evaluator and the settings of a published transfer,
each of which a flag can change. A run of grey images takes colour images, as grey, and a run of
colour images takes grey ones. The scores are printed as tables, with the recall of each class, and
appended to RUN/evaluations.jsonl, or to --append=FILE, one line per call.

A weight file in place of a run, of any library that makes ResNets, has no data: --data.name is a
folder unless given, and all settings of `data` start from their defaults. The evaluators are knn,
linear and clustering unless --evals names others; those of the embedding take the backbone if the
file has no head. The scores are only printed, unless --append is given.
"""

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line, presets, weight_flags  # noqa: F401 - defines --weights
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import encodable, printable

if TYPE_CHECKING:  # imported late, since jax takes seconds to import
    from rich.console import Console

    from ssl_jax.inference.transfer import Evaluation
    from ssl_jax.runs.restore import Run

WORKDIR = flags.DEFINE_string("workdir", None, "Run folder, as ssl_jax.main writes it.")
EVALS = flags.DEFINE_string(
    "evals",
    "",
    "Evaluators, separated by commas; your own by dotted name. Default: those of the run's config; "
    "of a weight file knn, linear and clustering.",
)
CHECKPOINT = flags.DEFINE_string("checkpoint", "latest", "latest, best, or a step.")
flags.DEFINE_string(
    "preset",
    "",
    f"Data and evaluator of a published transfer: {', '.join(presets.PRESETS)}.",
)
APPEND = flags.DEFINE_string(
    "append",
    "",
    "JSON Lines file that the scores are appended to; default: RUN/evaluations.jsonl, or none for "
    "a weight file.",
)


def main() -> None:
    from functools import partial

    import jax
    from rich.console import Console

    from ssl_jax.inference.command_encoder import open_given
    from ssl_jax.inference.transfer import evaluation_of
    from ssl_jax.ops.mesh import make_mesh
    from ssl_jax.runs.console import print_plain
    from ssl_jax.runs.restore import other_data
    from ssl_jax.runtime import compilation

    compilation.enable_cache()
    console = Console()
    path = _append()
    if path:
        append(path, "")
    run, settings = open_given(
        WORKDIR.value,
        CHECKPOINT.value,
        takes=("data.", "evals.", "resident_gb"),
        show=partial(print_plain, console),
    )
    with jax.set_mesh(make_mesh()):
        if not path and not run.from_file:
            path = run.folder / "evaluations.jsonl"
        settings = other_data(settings, command_line.overrides("data"), run.plan.source)
        evaluation = evaluation_of(run, settings)
        if path:
            append(path, "")
        message = printable(f"{run.title}, on {evaluation.data}")
        for line in (message, *evaluation.notes):
            print_plain(console, line)
        scores, failed, stopped = _evaluate(evaluation, console)
    if stopped and not scores:
        raise stopped
    record = dict(
        **_encoder_record(run),
        data=evaluation.data,
        scores=scores,
        largest_class=evaluation.scorer.largest_class(scores),
        by_class=evaluation.by_class(),
        failed=failed,
        settings=evaluation.settings,
        date=str(datetime.date.today()),
    )
    _show(console, printable(run.folder), record, evaluation.scorer.tests)
    if path:
        append(path, json.dumps(record) + "\n")
    if stopped:
        raise stopped
    if failed:
        command_line.fail("; ".join(f"{name} failed ({why})" for name, why in failed.items()), 1)


def prepared(argv: list[str]) -> list[str]:
    """The command line with the flags of its preset, and the settings of its run or weights."""
    return command_line.with_run(presets.with_preset(argv))


def _append() -> Path | None:
    """The file of --append; None without.

    Raises:
        SettingError: no file can have this path, or not such a name.
    """
    path = user_path(APPEND.value, "--append") if APPEND.value else None
    if path and path.suffix != ".jsonl":
        raise SettingError(f"--append={printable(path)}: give a file that ends in .jsonl")
    return path


def _encoder_record(run: "Run") -> dict[str, Any]:
    """What a line of scores says of the encoder: the run's step, or the file and its images."""
    if not run.from_file:
        return {"step": run.step}
    stage = run.plan.stages[-1]
    return {
        "weights": encodable(run.folder),
        "size": stage.views[0].size,
        "mean": stage.mean,
        "std": stage.std,
    }


def _show(console: "Console", title: str, record: dict[str, Any], tests: int) -> None:
    """Prints the tables of an evaluation.

    Args:
        console: where to print.
        title: of the first table.
        record: the line of scores.
        tests: number of labelled test images.
    """
    from ssl_jax.runs.console import print_plain, table_width
    from ssl_jax.runs.score_tables import class_table, every_score
    from ssl_jax.runs.scores import FEATURES, LARGEST_CLASS, few_images, score_table, shown_scores

    scores = record["scores"]
    rows = {FEATURES["eval"]: scores}
    shown = shown_scores(rows)
    floor = {name: x for name, x in record["largest_class"].items() if name in shown}
    if floor:
        rows = {FEATURES[LARGEST_CLASS]: floor, **rows}
    tables = every_score(scores)
    if shown:
        tables = [score_table(title, rows), *tables]
    if record["by_class"]:
        tables.append(class_table(record["by_class"]))
    for table in tables:
        console.print(table, width=table_width(console))
    if note := few_images(tests):
        print_plain(console, note)


def _evaluate(
    evaluation: "Evaluation", console: "Console"
) -> tuple[dict[str, float], dict[str, str], KeyboardInterrupt | None]:
    """Scores by name, reasons of failures by evaluator, and the interrupt that ended it, if any."""
    from ssl_jax.runs.console import Status
    from ssl_jax.runs.scores import format_scores, shown_scores

    scores = {}
    failed = {}
    try:
        with Status(console) as progress:
            for name, values in evaluation(progress.status):
                if isinstance(values, Exception):
                    failed[name] = command.reason(values)
                    continue
                scores |= values
                if shown_scores({"": values}) == list(values):
                    line = format_scores({f"eval/{key}": x for key, x in values.items()})
                else:
                    line = f"{name}: {len(values)} scores"
                progress.note(line)
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
    command.start(main, prepare=prepared)
