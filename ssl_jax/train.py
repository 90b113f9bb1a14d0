"""The train step, and the loop around it: the only place that knows all the rest."""

import contextlib
import math
import sys
import time
from pathlib import Path

import jax
import optax
from rich.console import Console

from ssl_jax import adoption, checkpoint, environment, hosts, scoring, signals, writer
from ssl_jax.build import Plan, build, fresh_state, init_state
from ssl_jax.compilation import convolution_options
from ssl_jax.data.augment import draw_views
from ssl_jax.data.pipeline import LOSS, VIEWS, stream
from ssl_jax.feed import Feed
from ssl_jax.folder import claim
from ssl_jax.interface import Batch
from ssl_jax.ops.mesh import ROWS, constrain, make_mesh
from ssl_jax.refreshing import refresh
from ssl_jax.scoring import Scorer
from ssl_jax.sharding import put, replicated, state_shardings
from ssl_jax.stages import Stage
from ssl_jax.watch import Watch

__all__ = ["build", "init_state", "train_step", "jit_step", "run", "NotFinite"]


class NotFinite(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the last good checkpoint."""


def train_step(stage: Stage, state, images, index, key):
    """One step of any method; pure.

    Args:
        stage: method, optimiser and views, static.
        state: `TrainState` before the step.
        images: [N, H, W, C] uint8, the resident data set; or this batch's own, in the order of `index`, with further
            ones at the end where B does not divide by the devices.
        index: [B] int32 rows of this batch.
        key: of the run; streams are folded out of it with the step.

    Returns:
        the state after the step, and scalar metrics.
    """
    index = constrain(index, ROWS)
    pixels = constrain(images[index] if stage.resident else images[: len(index)], ROWS)
    views = draw_views(stream(key, VIEWS, state.step), pixels, stage.views, stage.mean, stage.std)
    batch = Batch(views, index)

    def loss(params):
        return stage.method.loss(state.replace(params=params), batch, stream(key, LOSS, state.step))

    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = stage.tx.update(grads, state.opt_state, state.params)
    metrics = {"loss": value, "learning_rate": stage.schedule(state.step), **aux.metrics}
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        batch_stats=aux.batch_stats,
    )
    return stage.method.post_step(state, aux, batch), metrics


def jit_step(mesh, shardings):
    """`train_step`, jitted over `mesh` with the state donated and laid out as `shardings`."""
    out = (shardings, replicated(mesh))
    options = convolution_options()
    return jax.jit(train_step, static_argnums=0, donate_argnums=1, out_shardings=out, compiler_options=options)


def run(config, workdir, *, console: Console | None = None) -> dict[str, float]:
    """Trains as `config` says in the folder `workdir`, or goes on where it stopped, and returns the last scores.

    Args:
        config: a ConfigDict, as the files in `configs/` make it.
        workdir: the run folder; one folder belongs to one config.
        console: where to print; standard output by default.

    Raises:
        SettingError: something in the config, the data or the folder cannot be used.
        NotFinite: the loss became NaN or infinite.
        signals.Stopped: Ctrl-C or SIGTERM; the state is saved.
        hosts.Agreed: with several processes, a SettingError of any of them, raised by all.
    """
    console = (console or Console()) if hosts.is_first() else Console(quiet=True, force_terminal=False)
    hosts.check_devices()
    plan = hosts.agree(lambda: build(config))
    folder, mesh = Path(workdir), make_mesh()
    adopted = hosts.agree(lambda: adoption.find(plan, folder))
    with contextlib.ExitStack() as held:
        _claim(folder, plan, held)
        stop = held.enter_context(signals.StopRequest())
        held.enter_context(jax.set_mesh(mesh))
        return _Loop(plan, folder, mesh, console, stop, adopted).run()


def _claim(folder, plan, held):
    """The run folder for this run, until `held` is closed; all hosts see it, and have the same config and data."""
    known = hosts.agree(lambda: (plan.dataset.fingerprint(), plan.dataset.facts()))
    settings = {k: v for k, v in plan.config.to_dict().items() if k != "data"}
    settings |= dict(folder=folder.name, resident=plan.stages[0].resident)  # which makes other programs
    hosts.same(settings, "its config; give all processes the same flags")
    hosts.same(known, "its images; data.dir must hold the same data set on every host")
    hosts.agree(lambda: held.enter_context(claim(folder, plan.config, *known)) if hosts.is_first() else None)
    hosts.check_shared(folder)


class _Loop:
    """One run: its devices, files and the state that is being trained."""

    def __init__(self, plan: Plan, folder, mesh, console, stop, adopted=None):
        self.adopted = adopted
        self.plan, self.folder, self.mesh, self.console, self.stop = plan, folder, mesh, console, stop
        self.shardings = state_shardings(mesh, plan.shapes)
        self.step_fn = jit_step(mesh, self.shardings)
        known = [(r["step"], r[plan.config.best]) for r in writer.read(folder) if plan.config.best in r]
        self.by_step = dict(map(tuple, hosts.share(known)))
        self.checkpoints = checkpoint.Checkpoints(folder, self.by_step, plan.config.keep_checkpoints)
        self.key = jax.jit(lambda: jax.random.key(plan.config.seed), out_shardings=replicated(mesh))()
        resident = plan.stages[0].resident
        how = dict(batch_size=plan.batch_size, resident=resident, workers=plan.config.data.workers)
        self.feed = hosts.agree(lambda: Feed(plan.dataset.train.images, mesh, self.key, **how))
        test = plan.dataset.test.images
        self.scorer = Scorer(plan, self.feed.images, put(test, replicated(mesh)) if resident else test)
        self.speed, self.starved = float("nan"), 0.0
        self.watch = Watch(plan.steps_per_epoch)
        self.said = None  # the step of the last refresh that was told of

    def run(self):
        saved = hosts.share(self.checkpoints.latest() or 0)
        start = saved or (self.adopted.first_step if self.adopted else 0)
        for record in writer.read(self.folder):
            if record["step"] <= start:
                self.observe(record["step"], record)
        for note in self.plan.notes:
            self.console.print(note, highlight=False, soft_wrap=True)
        if start >= self.plan.total_steps:
            self.checkpoints.close()
            self.console.print(f"{self.folder} is finished ({start} steps)", highlight=False, soft_wrap=True)
            return self.conclude()
        state = hosts.agree(lambda: self.restore(saved) if saved else self.fresh())
        self.metrics = self.began = writer.Nowhere()
        if hosts.is_first():
            self.metrics, self.began = writer.Metrics(self.folder, saved), environment.Start(self.folder, start)
        self.scores, self.bar = _evaluated(scoring.on_record(self.folder)), None
        try:
            if start or self.adopted:
                how = f"resuming {self.folder}" if saved else f"going on from {self.plan.config.init_from}"
                self.console.print(f"{how} at step {start} of {self.plan.total_steps}", highlight=False, soft_wrap=True)
            if not saved:
                self.introduce(state, start)
            epochs = self.plan.config.epochs
            self.bar = writer.Bar(self.console, epochs, self.plan.total_steps, start)
            self.train(state, start)
        finally:
            if self.bar:
                self.bar.close()
            self.feed.close()
            self.metrics.close()
            if hosts.count() == 1 or not sys.exc_info()[0]:  # others may be gone, and this waits for them
                self.checkpoints.close()
        return self.conclude()

    def fresh(self):
        """The first state, laid out where the step wants it."""
        state = fresh_state(self.plan, self.key, self.shardings)
        return self.adopted.adopt(state, self.shardings, replicated(self.mesh)) if self.adopted else state

    def restore(self, step):
        return self.checkpoints.restore(step, self.plan.shapes, self.shardings)

    def introduce(self, state, start):
        """Parameter table, and the scores of raw pixels and of the encoder as it is."""
        from clu import parameter_overview  # nothing else of a step needs clu

        table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
        table = table.splitlines()[-1] if self.console.is_jupyter else table  # a page of it is too much between cells
        self.console.print(table, markup=False, highlight=False, soft_wrap=True)
        if self.plan.config.baselines and self.plan.evaluators:
            stage, epoch = self.plan.stage_at(start), start / self.plan.steps_per_epoch
            self.metrics.write(start, epoch, self.scorer.pixels(stage))
            kind = "adopted" if self.adopted else "untrained"
            self.metrics.write(start, epoch, self.scorer.encoder(kind, stage, state))
            self.metrics.flush()
            self.show("before training", scoring.on_record(self.folder))
        if signum := self.stop.after(start):
            self.checkpoints.close()
            raise signals.Stopped(signum, "stopped before the first step; the same command begins anew")

    def train(self, state, start):
        """Steps from `start` to the end. Logs one step late, so that the host never waits for the device."""
        plan, pending, self.clock = self.plan, None, (time.monotonic(), start)
        for step in range(start, plan.total_steps):
            stage = plan.stage_at(step)
            where, anew = (self.feed.images, self.shardings, step, self.key), step == start and self.adopted
            state, found = refresh(stage, state, *where, report=self.bar.status, anew=bool(anew))
            if found is not None:
                self.refreshed(step, found)
            images, index = self.feed.batch(step, running=pending and pending[1]["loss"])
            state, metrics = self.step_fn(stage, state, images, index, self.key)
            if pending:
                self.log(*pending)
            pending = (step + 1, metrics)
            boundary = plan.due(step + 1, plan.config.eval_epochs) or plan.due(step + 1, plan.config.checkpoint_epochs)
            if boundary:
                self.log(*pending)
            stopping = self.stop.after(step + 1)
            if stopping and not boundary:
                self.log(*pending)
            if boundary or stopping:
                pending = None
                self.boundary(state, step + 1, stopping)

    def refreshed(self, step, found):
        """On record; and in a line of its own, unless another one was less than `eval_epochs` ago."""
        self.metrics.write(step, step / self.plan.steps_per_epoch, {"refresh": True, **found})
        if self.said is None or step - self.said >= self.plan.config.eval_epochs * self.plan.steps_per_epoch:
            self.said = step
            values = "  ".join(f"{name.partition('/')[2]} {value:.4g}" for name, value in found.items())
            self.bar.note(f"before epoch {step // self.plan.steps_per_epoch + 1}: {values}")

    def boundary(self, state, step, stopping):
        """Evaluation and checkpoint where due, in this order: a checkpoint's scores are on disk before it."""
        if self.plan.due(step, self.plan.config.eval_epochs) and self.plan.evaluators:
            scores = self.scorer.encoder("eval", self.plan.stage_at(step), state, self.bar.status)
            self.metrics.write(step, step / self.plan.steps_per_epoch, scores)
            self.scores = scores
            if self.plan.config.best in scores:
                self.by_step[step] = scores[self.plan.config.best]
            self.bar.note(f"epoch {step // self.plan.steps_per_epoch}: {writer.listed(scores)}")
        self.metrics.flush()
        if stopping or self.plan.due(step, self.plan.config.checkpoint_epochs):
            self.check_finite(_sum(state.params), "sum of the parameters", step)
            self.checkpoints.save(step, state)
        self.began.reached(step)
        self.clock = time.monotonic(), step
        if stopping and step < self.plan.total_steps:
            self.checkpoints.close()
            raise signals.Stopped(
                stopping,
                f"stopped at step {step} of {self.plan.total_steps}, saved in {self.folder}; the same command goes on",
            )

    def log(self, step, metrics):
        """Reads the loss of `step`, which the device has left behind; every `log_steps` also the rest."""
        loss = self.check_finite(metrics["loss"], "loss", step)
        epoch = step / self.plan.steps_per_epoch
        ends = step % self.plan.steps_per_epoch == 0
        if step % self.plan.config.log_steps == 0 or ends:
            now, (began, first) = time.monotonic(), self.clock
            self.speed = (step - first) * self.plan.batch_size / max(now - began, 1e-9)
            self.starved = min(self.feed.waited / max(now - began, 1e-9), 1.0)
            self.clock, self.feed.waited = (now, step), 0.0
            values = {f"train/{k}": float(v) for k, v in metrics.items()}
            speed = {"speed/images_per_second": round(self.speed, 1), "speed/data_wait": round(self.starved, 4)}
            self.metrics.write(step, epoch, values | speed)
            if said := self.observe(step, values):
                self.metrics.write(step, epoch, {"note": said})
                self.bar.note(said)
        best = self.plan.config.best
        last = f"  {writer.label(best.partition('/')[2])} {self.scores[best]:.4f}" if best in self.scores else ""
        waits = f" ({self.starved:.0%} of the time no image was ready)" if self.starved > 0.1 else ""
        self.bar.update(step, epoch, f"loss {loss:.4f}{last}  {self.speed:,.0f} images/s{waits}", line=ends)

    def observe(self, step, record):
        """What the collapse watch says to the metrics of `step`."""
        own = {k.removeprefix("train/"): v for k, v in record.items() if k.startswith("train/")}
        return self.watch.add(step, own, self.plan.stage_at(step - 1).method) if own else None

    def check_finite(self, value, name, step):
        """`value` as a float; ends the run where it is not finite."""
        value = float(value)
        if math.isfinite(value):
            return value
        self.checkpoints.close()
        last = self.checkpoints.latest()
        kept = f"the last good checkpoint is step {last} in {self.folder}" if last else "there is no checkpoint yet"
        raise NotFinite(
            f"the {name} is {value} at step {step}; {kept}; try a lower optim.learning_rate in a new folder"
        )

    def conclude(self):
        """The final table, from the records of the run; returns the last scores."""
        rows = hosts.share(scoring.on_record(self.folder))
        if rows:
            self.show(str(self.folder), rows)
        for sentence in writer.comparison(rows) if len(rows) > 1 else ():
            self.console.print(sentence, highlight=False, soft_wrap=True)
        if self.watch.standing:
            self.console.print(self.watch.standing, highlight=False, soft_wrap=True)
        return _evaluated(rows)

    def show(self, title, rows):
        """A table of scores."""
        self.console.print(writer.table(title, rows), width=writer.wide(self.console))


_sum = jax.jit(optax.tree_utils.tree_sum)


def _evaluated(rows):
    """The scores of the trained encoder among `rows`, as {"eval/knn/top1": ...}."""
    return {f"eval/{name}": value for name, value in rows.get(scoring.FEATURES["eval"], {}).items()}
