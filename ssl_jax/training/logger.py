"""The log of a run: records in its folder; lines, a progress bar and tables on the console."""

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ssl_jax.build import Plan
from ssl_jax.inference.scorer import Scorer
from ssl_jax.interface import TrainState, no_progress
from ssl_jax.runs import by_class, data_record, provenance
from ssl_jax.runs.console import ProgressBar, print_plain, table_width
from ssl_jax.runs.in_use import means, short, shown_signs
from ssl_jax.runs.metrics import MetricsWriter, read_records
from ssl_jax.runs.scores import (
    FEATURES,
    LARGEST_CLASS,
    compare_scores,
    few_images,
    format_scores,
    latest_scores,
    score_label,
    score_table,
)
from ssl_jax.runtime import processes
from ssl_jax.runtime.atomic_file import write_atomically
from ssl_jax.training import first_screen
from ssl_jax.training.batches import Batches
from ssl_jax.training.collapse_monitor import CollapseMonitor
from ssl_jax.training.verdict import verdict


class NullWriter:
    """Stands in for a writer before it exists and on all processes but the first: does nothing."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


class RunLogger:
    """Writes the records of a run on the first host, and prints its progress.

    All hosts must call `score_baselines` and `conclude` at the same point of the run: they share
    scores.

    Args:
        plan: what is trained.
        folder: the run folder.
        console: where to print.
        batches: measures how long the devices waited for images; reset after each log record.
        scorer: scores the features.

    Attributes:
        metrics: a `MetricsWriter`, once `open` was called.
        bar: a `ProgressBar`, once `begin` was called.
    """

    def __init__(
        self, plan: Plan, folder: Path, console: Console, batches: Batches, scorer: Scorer
    ):
        self._plan = plan
        self._folder = folder
        self._console = console
        self._batches = batches
        self._scorer = scorer
        self.metrics: MetricsWriter | NullWriter = NullWriter()
        self.bar: ProgressBar | NullWriter = NullWriter()
        self._start: provenance.Start | NullWriter = NullWriter()
        self._monitor = CollapseMonitor(plan.steps_per_epoch)
        self._scores: dict[str, float] = {}
        self._speed = float("nan")  # images per second
        self._timed_records = 0  # since the start: the first one's speed includes compilation
        self._wait_share = 0.0  # of the time, in which the devices waited for images
        self._events_stopped = False
        self._last_shown_refresh: int | None = None
        self._latest: dict[str, float] = {}  # metrics of the last log record or refresh
        self._largest_class: dict[str, float] = {}  # as on record

    def recall(self, step: int) -> None:
        """Replays the records up to `step` to the collapse monitor."""
        for record in read_records(self._folder):
            if record["step"] <= step:
                self._monitor_record(record["step"], record)
                self._latest |= short(record)

    def open(self, saved: int, start: int) -> None:
        """Opens the files, and writes those that describe the run.

        Args:
            saved: step of the run's own checkpoint that it resumes from, or 0.
            start: step that this start of the run begins at.
        """
        if processes.is_first():
            self.metrics = MetricsWriter(self._folder, saved)
            self._start = provenance.Start(self._folder, start)
            data_record.write(self._folder, self._plan.dataset, self._plan.source)
            write_atomically(
                self._folder / first_screen.PARAMETERS,
                first_screen.parameter_table(self._plan.shapes.params),
            )
            if count := self.metrics.damaged:
                lines = "1 damaged line" if count == 1 else f"{count} damaged lines"
                self.say(
                    f"{self._folder}/metrics.jsonl: dropped {lines}; "
                    "the original is kept as metrics.jsonl.damaged"
                )
        rows = latest_scores(self._folder)
        self._scores = _encoder_scores(rows)
        self._largest_class = dict(rows.get(FEATURES[LARGEST_CLASS], {}))

    def introduce(self, *, resumes: bool, hashed: bool) -> None:
        """Prints what is read and trained, on which devices and where, and the plan's notes.

        Args:
            resumes: fewer lines, for a run that has been introduced before.
            hashed: whether the name of the run folder ends in a hash of the changed settings.
        """
        if resumes:
            lines = first_screen.resumed_lines(self._plan)
        else:
            lines = first_screen.lines(self._plan, self._folder, hashed=hashed)
        for line in lines:
            self.say(line)

    def score_baselines(self, kind: str, state: TrainState, step: int, report=no_progress) -> None:
        """Scores raw pixels and the encoder before training, unless switched off.

        Args:
            kind: prefix of the encoder's scores, a key of `FEATURES`.
            state: the state that the run begins with.
            step: the step that it begins at.
            report: takes progress lines.
        """
        if not self._plan.settings.baselines or not self._plan.evaluators:
            return
        stage = self._plan.stage_at(step)
        if why := self._scorer.too_many_pixels():
            self.say(why)
        else:
            self._write(step, self._scorer.pixels(stage, report))
        scores = self._scorer.encoder(kind, stage, state, report)
        self._write(step, scores)
        self._record_largest_class(step, scores)
        self.metrics.flush()
        self._print_table("before training", latest_scores(self._folder))

    def begin(self, step: int) -> None:
        """Shows the bar and starts the clock, right before the step after `step`."""
        self.bar = ProgressBar(
            self._console, self._plan.settings.epochs, self._plan.total_steps, step
        )
        self._restart_clock(step)

    def refreshed(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records a refresh; prints it at most once every `eval_epochs`."""
        self._write(step, {"refresh": True, **metrics})
        self._latest |= short(metrics)
        interval = self._plan.settings.eval_epochs * self._plan.steps_per_epoch
        if self._last_shown_refresh is None or step - self._last_shown_refresh >= interval:
            self._last_shown_refresh = step
            values = "  ".join(
                f"{name.partition('/')[2]} {value:.4g}" for name, value in metrics.items()
            )
            self.bar.note(f"before epoch {step // self._plan.steps_per_epoch + 1}: {values}")

    def log(self, step: int, loss: float, metrics: Mapping[str, Any]) -> None:
        """Shows the `loss` after `step`; records all `metrics` every `log_steps` and each epoch."""
        epoch_ends = step % self._plan.steps_per_epoch == 0
        if step % self._plan.settings.log_steps == 0 or epoch_ends:
            self._record(step, metrics)
        text = f"loss {loss:.4f}"
        if not self._plan.evaluators:
            signs = shown_signs(self._latest)
            text += "".join(f"  {label} {value}" for label, value in signs.items())
        best = self._plan.settings.best
        if best in self._scores:
            text += f"  {score_label(best.partition('/')[2])} {self._scores[best]:.4f}"
        if self._timed_records > 1:
            text += f"  {self._speed:,.0f} images/s"
        if self._wait_share > 0.1:
            text += f" (waiting for images {self._wait_share:.0%} of the time)"
        self.bar.update(step, text, line=epoch_ends)

    def _record(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Writes metrics and speed, and prints what the collapse monitor says of them."""
        seconds = max(time.monotonic() - self._clock_time, 1e-9)
        self._speed = (step - self._clock_step) * self._plan.batch_size / seconds
        self._wait_share = min(self._batches.waited / seconds, 1.0)
        self._timed_records += 1
        self._restart_clock(step)
        self._batches.waited = 0.0
        values = {f"train/{name}": float(value) for name, value in metrics.items()}
        speed = {
            "speed/images_per_second": round(self._speed, 1),
            "speed/data_wait": round(self._wait_share, 4),
        }
        self._write(step, values | speed)
        self._latest |= short(values)
        if message := self._monitor_record(step, values):
            self._write(step, {"note": message})
            self.bar.note(message)

    def scored(self, step: int, scores: dict[str, float]) -> None:
        """Records and prints the encoder's scores at `step`."""
        self._record_largest_class(step, scores)
        self._write(step, scores)
        if processes.is_first():
            recalls = by_class.by_class(self._scorer.accuracies, self._scorer.classes)
            by_class.write(self._folder, step, recalls)
        self.metrics.flush()
        self._scores = scores
        self.bar.note(f"epoch {step // self._plan.steps_per_epoch}: {format_scores(scores)}")

    def reached(self, step: int) -> None:
        """Records that evaluation and checkpoint at `step` are done, and restarts the clock."""
        self._start.reached(step)
        self._restart_clock(step)

    def conclude(self) -> dict[str, float]:
        """Prints the final table and the verdict, or what comes next; returns the last scores."""
        rows = processes.share(latest_scores(self._folder))
        if rows:
            self._print_table(str(self._folder), rows)
        for sentence in compare_scores(rows) if len(rows) > 1 else ():
            self.say(sentence)
        if rows and (note := few_images(self._scorer.tests)):
            self.say(note)
        if text := self._verdict(rows):
            self.say(text)
        if not self._plan.evaluators:
            folder = shlex.quote(str(self._folder))
            self.say(f"the run is in {self._folder}; to see its clusters:")
            self.say(f"python -m ssl_jax.assign --workdir={folder}")
        return _encoder_scores(rows)

    def _verdict(self, rows: Mapping[str, Mapping[str, float]]) -> str:
        images = self._plan.dataset.train.images
        return verdict(
            rows,
            means(read_records(self._folder)),
            self._plan.record,
            tests=self._scorer.tests,
            stored=min(images.shape[1:3]),
            standing=self._monitor.standing,
        )

    def say(self, text: str) -> None:
        """Prints one or several lines verbatim."""
        print_plain(self._console, text)

    def _restart_clock(self, step: int) -> None:
        self._clock_time = time.monotonic()
        self._clock_step = step

    def _record_largest_class(self, step: int, scores: Mapping[str, float]) -> None:
        """Records the largest class's share beside the accuracies in `scores`, once."""
        names = [name.partition("/")[2] for name in scores]
        shares = self._scorer.largest_class(names)
        if shares.keys() - self._largest_class.keys():
            self._largest_class |= shares
            record = {f"{LARGEST_CLASS}/{name}": x for name, x in self._largest_class.items()}
            self._write(step, record)

    def _write(self, step: int, values: Mapping[str, Any]) -> None:
        self.metrics.write(step, step / self._plan.steps_per_epoch, values)
        failure = self.metrics.events_failure
        if isinstance(failure, str) and failure and not self._events_stopped:
            self._events_stopped = True
            self.say(f"TensorBoard events stopped ({failure}); metrics.jsonl continues")

    def _monitor_record(self, step: int, record: Mapping[str, Any]) -> str | None:
        """What the collapse monitor says of the metrics logged at `step`, if anything."""
        metrics = {
            name.removeprefix("train/"): value
            for name, value in record.items()
            if name.startswith("train/")
        }
        if not metrics:
            return None
        return self._monitor.add(step, metrics, self._plan.stage_at(step - 1).method)

    def _print_table(self, title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
        self._console.print(score_table(title, rows), width=table_width(self._console))


def _encoder_scores(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The scores of the trained encoder among `rows`, as {"eval/knn/top1": ...}."""
    return {f"eval/{name}": value for name, value in rows.get(FEATURES["eval"], {}).items()}
