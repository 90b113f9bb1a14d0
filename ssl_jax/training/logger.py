"""The log of a run: records in its folder; lines, a progress bar and tables on the console."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from ssl_jax.build import Plan
from ssl_jax.inference.scorer import Scorer
from ssl_jax.interface import TrainState, no_progress
from ssl_jax.runs import provenance
from ssl_jax.runs.console import ProgressBar, print_plain, table_width
from ssl_jax.runs.metrics import MetricsWriter, read_records
from ssl_jax.runs.scores import (
    FEATURES,
    compare_scores,
    format_scores,
    latest_scores,
    score_label,
    score_table,
)
from ssl_jax.runtime import processes
from ssl_jax.training.batches import Batches
from ssl_jax.training.collapse_monitor import CollapseMonitor


class NullWriter:
    """Stands in for a writer before it exists and on all processes but the first: does nothing."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


class RunLogger:
    """Writes metrics.jsonl and environment.json on the first host, and prints a run's progress.

    All hosts must call `introduce` and `conclude` at the same point of the run: they share scores.

    Args:
        plan: what is trained.
        folder: the run folder.
        console: where to print.
        batches: measures how long the devices waited for images; reset after each log record.

    Attributes:
        metrics: a `MetricsWriter`, once `open` was called.
        bar: a `ProgressBar`, once `begin` was called.
    """

    def __init__(self, plan: Plan, folder: Path, console: Console, batches: Batches):
        self._plan = plan
        self._folder = folder
        self._console = console
        self._batches = batches
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

    def recall(self, step: int) -> None:
        """Replays the records up to `step` to the collapse monitor, and prints the plan's notes."""
        for record in read_records(self._folder):
            if record["step"] <= step:
                self._monitor_record(record["step"], record)
        for note in self._plan.notes:
            self.say(note)

    def open(self, saved: int, start: int) -> None:
        """Opens the files.

        Args:
            saved: step of the run's own checkpoint that it resumes from, or 0.
            start: step that this start of the run begins at.
        """
        if processes.is_first():
            self.metrics = MetricsWriter(self._folder, saved)
            self._start = provenance.Start(self._folder, start)
            if count := self.metrics.damaged:
                lines = "1 damaged line" if count == 1 else f"{count} damaged lines"
                self.say(
                    f"{self._folder}/metrics.jsonl: dropped {lines}; "
                    "the original is kept as metrics.jsonl.damaged"
                )
        self._scores = _encoder_scores(latest_scores(self._folder))

    def introduce(
        self, kind: str, scorer: Scorer, state: TrainState, step: int, report=no_progress
    ) -> None:
        """Prints the parameter table, and scores raw pixels and the encoder before training.

        Args:
            kind: prefix of the encoder's scores, a key of `FEATURES`.
            scorer: scores the features.
            state: the state that the run begins with.
            step: the step that it begins at.
            report: takes progress lines.
        """
        from clu import parameter_overview  # slow to import, and used only here

        table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
        if self._console.is_jupyter:
            table = table.splitlines()[-1]  # the total; the whole table would fill a page
        self.say(table)
        if self._plan.settings.baselines and self._plan.evaluators:
            stage = self._plan.stage_at(step)
            if why := scorer.too_many_pixels():
                self.say(why)
            else:
                self._write(step, scorer.pixels(stage, report))
            self._write(step, scorer.encoder(kind, stage, state, report))
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
        best = self._plan.settings.best
        if best in self._scores:
            text += f"  {score_label(best.partition('/')[2])} {self._scores[best]:.4f}"
        if self._timed_records > 1:
            text += f"  {self._speed:,.0f} images/s"
        if self._wait_share > 0.1:
            text += f" (waiting for images {self._wait_share:.0%} of the time)"
        self.bar.update(step, step / self._plan.steps_per_epoch, text, line=epoch_ends)

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
        if message := self._monitor_record(step, values):
            self._write(step, {"note": message})
            self.bar.note(message)

    def scored(self, step: int, scores: dict[str, float]) -> None:
        """Records and prints the encoder's scores at `step`."""
        self._write(step, scores)
        self.metrics.flush()
        self._scores = scores
        self.bar.note(f"epoch {step // self._plan.steps_per_epoch}: {format_scores(scores)}")

    def reached(self, step: int) -> None:
        """Records that evaluation and checkpoint at `step` are done, and restarts the clock."""
        self._start.reached(step)
        self._restart_clock(step)

    def conclude(self) -> dict[str, float]:
        """Prints the final table from the records of the run; returns the last scores."""
        rows = processes.share(latest_scores(self._folder))
        if rows:
            self._print_table(str(self._folder), rows)
        for sentence in compare_scores(rows) if len(rows) > 1 else ():
            self.say(sentence)
        if self._monitor.standing:
            self.say(self._monitor.standing)
        return _encoder_scores(rows)

    def say(self, text: str) -> None:
        """Prints one or several lines verbatim."""
        print_plain(self._console, text)

    def _restart_clock(self, step: int) -> None:
        self._clock_time = time.monotonic()
        self._clock_step = step

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
