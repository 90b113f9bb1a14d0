"""What a run tells of itself: records in its folder; lines, a bar and tables on the console."""

import time

from rich.console import Console

from ssl_jax.build import Plan
from ssl_jax.inference.scorer import Scorer
from ssl_jax.interface import no_progress
from ssl_jax.runs import provenance
from ssl_jax.runs.console import ProgressBar, table_width
from ssl_jax.runs.metrics import MetricsWriter, read_records
from ssl_jax.runs.scores import FEATURES, compare_scores, format_scores, latest_scores, score_label, score_table
from ssl_jax.runtime import processes
from ssl_jax.training.batches import Batches
from ssl_jax.training.collapse_monitor import CollapseMonitor


class NullWriter:
    """Stands in for a writer on all processes but the first, and before there is one: every call does nothing."""

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


class RunLogger:
    """Writes metrics.jsonl and environment.json of one run, on the first host only, and prints its progress.

    All hosts call `introduce` and `conclude` at the same point of the run: they share scores.

    Args:
        plan: what is trained.
        folder: the run folder.
        console: where to print.
        batches: know how long the devices waited for images; reset after each log record.

    Attributes:
        metrics: a `MetricsWriter`, from `open` on.
        bar: a `ProgressBar`, from `begin` on.
    """

    def __init__(self, plan: Plan, folder, console: Console, batches: Batches):
        self._plan, self._folder, self._console, self._batches = plan, folder, console, batches
        self.metrics = self.bar = self._began = NullWriter()
        self._watch, self._scores = CollapseMonitor(plan.steps_per_epoch), {}
        self._speed, self._starved = float("nan"), 0.0
        self._without_events = False
        self._said = None  # the step of the last refresh that was told of

    def recall(self, step: int) -> None:
        """Shows the collapse watch what is on record up to `step`, and prints the plan's notes."""
        for record in read_records(self._folder):
            if record["step"] <= step:
                self._observe(record["step"], record)
        for note in self._plan.notes:
            self.say(note)

    def open(self, saved: int, start: int) -> None:
        """Begins to write at step `start`; `saved` is the run's own checkpoint that it goes on from, or 0."""
        if processes.is_first():
            self.metrics, self._began = MetricsWriter(self._folder, saved), provenance.Start(self._folder, start)
            if count := self.metrics.damaged:
                lines = "a damaged line" if count == 1 else f"{count} damaged lines"
                self.say(f"{self._folder}/metrics.jsonl: left out {lines}; the file as it was is metrics.jsonl.damaged")
        self._scores = _evaluated(latest_scores(self._folder))

    def introduce(self, kind: str, scorer: Scorer, state, step: int, report=no_progress) -> None:
        """Parameter table, and the scores of raw pixels and of the encoder as it is, called `kind`."""
        from clu import parameter_overview  # nothing else of a step needs clu

        table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
        table = table.splitlines()[-1] if self._console.is_jupyter else table  # a page of it is too much between cells
        self.say(table)
        if self._plan.settings.baselines and self._plan.evaluators:
            stage = self._plan.stage_at(step)
            if why := scorer.too_many_pixels():
                self.say(why)
            else:
                self._write(step, scorer.pixels(stage, report))
            self._write(step, scorer.encoder(kind, stage, state, report))
            self.metrics.flush()
            self._show("before training", latest_scores(self._folder))

    def begin(self, step: int) -> None:
        """The bar appears and the clock runs: the step after `step` comes next."""
        self.bar = ProgressBar(self._console, self._plan.settings.epochs, self._plan.total_steps, step)
        self._clock = time.monotonic(), step

    def refreshed(self, step: int, found) -> None:
        """On record; and in a line of its own, unless another one was less than `eval_epochs` ago."""
        self._write(step, {"refresh": True, **found})
        if self._said is None or step - self._said >= self._plan.settings.eval_epochs * self._plan.steps_per_epoch:
            self._said = step
            values = "  ".join(f"{name.partition('/')[2]} {value:.4g}" for name, value in found.items())
            self.bar.note(f"before epoch {step // self._plan.steps_per_epoch + 1}: {values}")

    def log(self, step: int, loss: float, metrics) -> None:
        """Shows the `loss` after `step`; every `log_steps` all `metrics` go on record, and the watch sees them."""
        ends = step % self._plan.steps_per_epoch == 0
        if step % self._plan.settings.log_steps == 0 or ends:
            now, (began, first) = time.monotonic(), self._clock
            self._speed = (step - first) * self._plan.batch_size / max(now - began, 1e-9)
            self._starved = min(self._batches.waited / max(now - began, 1e-9), 1.0)
            self._clock, self._batches.waited = (now, step), 0.0
            values = {f"train/{k}": float(v) for k, v in metrics.items()}
            speed = {"speed/images_per_second": round(self._speed, 1), "speed/data_wait": round(self._starved, 4)}
            self._write(step, values | speed)
            if said := self._observe(step, values):
                self._write(step, {"note": said})
                self.bar.note(said)
        best, scores = self._plan.settings.best, self._scores
        last = f"  {score_label(best.partition('/')[2])} {scores[best]:.4f}" if best in scores else ""
        waits = f" ({self._starved:.0%} of the time no image was ready)" if self._starved > 0.1 else ""
        text = f"loss {loss:.4f}{last}  {self._speed:,.0f} images/s{waits}"
        self.bar.update(step, step / self._plan.steps_per_epoch, text, line=ends)

    def scored(self, step: int, scores) -> None:
        """On record and in a line: what the encoder scores at `step`."""
        self._write(step, scores)
        self.metrics.flush()
        self._scores = scores
        self.bar.note(f"epoch {step // self._plan.steps_per_epoch}: {format_scores(scores)}")

    def reached(self, step: int) -> None:
        """Evaluation and checkpoint at `step` are done; the clock of the images a second begins anew after them."""
        self._began.reached(step)
        self._clock = time.monotonic(), step

    def conclude(self) -> dict[str, float]:
        """The final table, from the records of the run; returns the last scores."""
        rows = processes.share(latest_scores(self._folder))
        if rows:
            self._show(str(self._folder), rows)
        for sentence in compare_scores(rows) if len(rows) > 1 else ():
            self.say(sentence)
        if self._watch.standing:
            self.say(self._watch.standing)
        return _evaluated(rows)

    def say(self, text: str) -> None:
        """Prints a line, or several, as they are."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _write(self, step, values):
        self.metrics.write(step, step / self._plan.steps_per_epoch, values)
        failure = self.metrics.events_failure
        if isinstance(failure, str) and failure and not self._without_events:
            self._without_events = True
            self.say(f"no more events for TensorBoard ({failure}); metrics.jsonl goes on")

    def _observe(self, step, record):
        """What the collapse watch says to the metrics of `step`."""
        own = {k.removeprefix("train/"): v for k, v in record.items() if k.startswith("train/")}
        return self._watch.add(step, own, self._plan.stage_at(step - 1).method) if own else None

    def _show(self, title, rows):
        """A table of scores."""
        self._console.print(score_table(title, rows), width=table_width(self._console))


def _evaluated(rows):
    """The scores of the trained encoder among `rows`, as {"eval/knn/top1": ...}."""
    return {f"eval/{name}": value for name, value in rows.get(FEATURES["eval"], {}).items()}
