"""The train step, and the loop around it: the only place that knows all the rest. What it says is in `telling`."""

import contextlib
import math
import sys
from pathlib import Path

import jax
import optax
from rich.console import Console

from ssl_jax import adoption, checkpoint, hosts, signals, writer
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
from ssl_jax.telling import Teller

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
    if "://" in str(workdir):
        raise hosts.Agreed(f"workdir {workdir}: a folder is wanted; mount the bucket as one")
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
    """One run: its devices, checkpoints and the state that is being trained."""

    def __init__(self, plan: Plan, folder, mesh, console, stop, adopted=None):
        self.plan, self.folder, self.mesh, self.stop, self.adopted = plan, folder, mesh, stop, adopted
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
        self.teller = Teller(plan, folder, console, self.feed)

    def run(self):
        saved = hosts.share(self.checkpoints.latest() or 0)
        start = saved or (self.adopted.first_step if self.adopted else 0)
        self.teller.recall(start)
        if start >= self.plan.total_steps:
            self.checkpoints.close()
            self.teller.say(f"{self.folder} is finished ({start} steps)")
            return self.teller.conclude()
        state = hosts.agree(lambda: self.restore(saved) if saved else self.fresh())
        self.teller.open(saved, start)
        try:
            if start or self.adopted:
                how = f"resuming {self.folder}" if saved else f"going on from {self.plan.config.init_from}"
                self.teller.say(f"{how} at step {start} of {self.plan.total_steps}")
            if not saved:
                self.teller.introduce("adopted" if self.adopted else "untrained", self.scorer, state, start)
                if signum := self.stop.after(start):
                    self.checkpoints.close()
                    raise signals.Stopped(signum, "stopped before the first step; the same command begins anew")
            self.teller.begin(start)
            self.train(state, start)
        finally:
            self.teller.bar.close()
            self.feed.close()
            self.teller.metrics.close()
            if hosts.count() == 1 or not sys.exc_info()[0]:  # others may be gone, and this waits for them
                self.checkpoints.close()
        return self.teller.conclude()

    def fresh(self):
        """The first state, laid out where the step wants it."""
        state = fresh_state(self.plan, self.key, self.shardings)
        return self.adopted.adopt(state, self.shardings, replicated(self.mesh)) if self.adopted else state

    def restore(self, step):
        return self.checkpoints.restore(step, self.plan.shapes, self.shardings)

    def train(self, state, start):
        """Steps from `start` to the end. Logs one step late, so that the host never waits for the device."""
        plan, pending = self.plan, None
        for step in range(start, plan.total_steps):
            stage = plan.stage_at(step)
            where, anew = (self.feed.images, self.shardings, step, self.key), step == start and self.adopted
            state, found = refresh(stage, state, *where, report=self.teller.bar.status, anew=bool(anew))
            if found is not None:
                self.teller.refreshed(step, found)
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

    def log(self, step, metrics):
        """Reads the loss of `step`, which the device has left behind, and tells of it."""
        self.teller.log(step, self.check_finite(metrics["loss"], "loss", step), metrics)

    def boundary(self, state, step, stopping):
        """Evaluation and checkpoint where due, in this order: a checkpoint's scores are on disk before it."""
        if self.plan.due(step, self.plan.config.eval_epochs) and self.plan.evaluators:
            scores = self.scorer.encoder("eval", self.plan.stage_at(step), state, self.teller.bar.status)
            self.teller.scored(step, scores)
            if self.plan.config.best in scores:
                self.by_step[step] = scores[self.plan.config.best]
        self.teller.metrics.flush()
        if stopping or self.plan.due(step, self.plan.config.checkpoint_epochs):
            self.check_finite(_sum(state.params), "sum of the parameters", step)
            self.checkpoints.save(step, state)
        self.teller.reached(step)
        if stopping and step < self.plan.total_steps:
            self.checkpoints.close()
            raise signals.Stopped(
                stopping,
                f"stopped at step {step} of {self.plan.total_steps}, saved in {self.folder}; the same command goes on",
            )

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


_sum = jax.jit(optax.tree_utils.tree_sum)
