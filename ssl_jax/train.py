"""The train step, and the loop around it: the only place that knows all the rest."""

import contextlib
import dataclasses
import math
import sys
from pathlib import Path

import jax
import optax
from rich.console import Console

from ssl_jax.build import Plan, build, completed, fresh_state, init_state
from ssl_jax.data.augment import draw_views
from ssl_jax.data.rng import LOSS, VIEWS, key_for
from ssl_jax.inference.scorer import Scorer
from ssl_jax.interface import Batch
from ssl_jax.ops.mesh import ROWS, constrain, make_mesh
from ssl_jax.runs import checkpoint, warm_start
from ssl_jax.runs.metrics import read_records
from ssl_jax.runs.run_folder import claim, with_kept_settings
from ssl_jax.runtime import preemption, processes
from ssl_jax.runtime.compilation import convolution_options
from ssl_jax.runtime.sharding import put, replicated, state_shardings
from ssl_jax.runtime.storage import StorageError, storage_failure
from ssl_jax.settings.resolve import SettingError
from ssl_jax.stages import Stage
from ssl_jax.training.batches import Batches
from ssl_jax.training.logger import RunLogger
from ssl_jax.training.refresh import refresh

__all__ = ["build", "init_state", "train_step", "jit_step", "run", "NotFinite", "StorageError"]


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
    views = draw_views(key_for(key, VIEWS, state.step), pixels, stage.views, stage.mean, stage.std)
    batch = Batch(views, index)

    def loss(params):
        return stage.method.loss(state.replace(params=params), batch, key_for(key, LOSS, state.step))

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


def run(config, workdir, *, console: Console | None = None, given=()) -> dict[str, float]:
    """Trains as `config` says in the folder `workdir`, or goes on where it stopped, and returns the last scores.

    Args:
        config: a ConfigDict, as the files in `configs/` make it.
        workdir: the run folder; one folder belongs to one config.
        console: where to print; standard output by default.
        given: names of settings that were given by hand; a run that is older than one of them does not drop it.

    Raises:
        SettingError: something in the config, the data or the folder cannot be used.
        NotFinite: the loss became NaN or infinite.
        StorageError: the disk is full, or fails.
        preemption.Stopped: Ctrl-C or SIGTERM; the state is saved.
        processes.Agreed: with several processes, a SettingError of any of them, raised by all.
    """
    try:
        return _run(config, workdir, console, given)
    except Exception as error:
        # A SettingError on another place, such as the cache, says already where the disk is full.
        elsewhere = isinstance(error, SettingError) and f"workdir {workdir}" not in str(error)
        if (failure := storage_failure(error)) and not elsewhere:
            last = max((int(p.name) for p in Path(workdir).glob("checkpoints/*") if p.name.isdigit()), default=None)
            kept = "there is no checkpoint yet" if last is None else f"the last good checkpoint is step {last}"
            raise StorageError(f"{failure} in {workdir}; {kept}; free space and rerun the same command") from error
        raise


def _run(config, workdir, console, given):
    console = (console or Console()) if processes.is_first() else Console(quiet=True, force_terminal=False)
    processes.check_devices()
    if "://" in str(workdir):
        raise processes.Agreed(f"workdir {workdir}: a folder is wanted; mount the bucket as one")
    processes.agree(lambda: checkpoint.check_path(workdir))
    folder, mesh = Path(workdir), make_mesh()
    config, notes = processes.agree(lambda: with_kept_settings(completed(config), folder, given))
    plan = processes.agree(lambda: build(config))
    plan = dataclasses.replace(plan, notes=plan.notes + notes)
    start_from = processes.agree(lambda: warm_start.find(plan, folder))
    with contextlib.ExitStack() as held:
        _claim(folder, plan, held)
        stop = held.enter_context(preemption.StopRequest())
        held.enter_context(jax.set_mesh(mesh))
        return _Loop(plan, folder, mesh, console, stop, start_from).run()


def _claim(folder, plan, held):
    """The run folder for this run, until `held` is closed; all hosts see it, and have the same config and data."""
    known = processes.agree(lambda: (plan.dataset.fingerprint(), plan.dataset.facts()))
    settings = {k: v for k, v in plan.config.to_dict().items() if k != "data"}
    settings |= dict(folder=folder.name, resident=plan.stages[0].resident)  # which makes other programs
    processes.same(settings, "its config; give all processes the same flags")
    processes.same(known, "its images; data.dir must hold the same data set on every host")
    processes.agree(lambda: held.enter_context(claim(folder, plan.config, *known)) if processes.is_first() else None)
    processes.check_shared(folder)


class _Loop:
    """One run: its devices, checkpoints and the state that is being trained."""

    def __init__(self, plan: Plan, folder, mesh, console, stop, start_from: warm_start.WarmStart | None = None):
        self.plan, self.folder, self.mesh, self.stop, self.warm_start = plan, folder, mesh, stop, start_from
        self.shardings = state_shardings(mesh, plan.shapes)
        self.step_fn = jit_step(mesh, self.shardings)
        known = [(r["step"], r[plan.config.best]) for r in read_records(folder) if plan.config.best in r]
        self.by_step = dict(map(tuple, processes.share(known)))
        self.checkpoints = checkpoint.Checkpoints(folder, self.by_step, plan.config.keep_checkpoints)
        self.key = jax.jit(lambda: jax.random.key(plan.config.seed), out_shardings=replicated(mesh))()
        resident = plan.stages[0].resident
        how = dict(batch_size=plan.batch_size, resident=resident, workers=plan.config.data.workers)
        self.batches = processes.agree(lambda: Batches(plan.dataset.train.images, mesh, self.key, **how))
        test = plan.dataset.test.images
        self.scorer = Scorer(plan, self.batches.images, put(test, replicated(mesh)) if resident else test)
        self.logger = RunLogger(plan, folder, console, self.batches)

    def run(self):
        saved = processes.share(self.checkpoints.latest() or 0)
        start = saved or (self.warm_start.first_step if self.warm_start else 0)
        self.logger.recall(start)
        if start >= self.plan.total_steps:
            self.checkpoints.close()
            self.logger.say(f"{self.folder} is finished ({start} steps)")
            return self.logger.conclude()
        state = processes.agree(lambda: self.restore(saved) if saved else self.fresh())
        self.logger.open(saved, start)
        try:
            self.begin(state, saved, start)
            self.train(state, start)
            self.close()
            self.check_folder(self.plan.total_steps)
        except Exception as error:
            self.check_folder()  # says why, where that is the reason
            place = (self.folder / "checkpoints").absolute()
            if str(place) in str(error) and not storage_failure(error):  # orbax raises all kinds
                raise StorageError(f"{place} was removed while training; name another folder with --workdir") from error
            raise
        finally:
            if sys.exc_info()[0]:
                self.close(failing=True)
        return self.logger.conclude()

    def begin(self, state, saved, start):
        """What is said and scored before the first step."""
        if start or self.warm_start:
            how = f"resuming {self.folder}" if saved else f"going on from {self.plan.config.init_from}"
            self.logger.say(f"{how} at step {start} of {self.plan.total_steps}")
        if not saved:
            self.logger.introduce("adopted" if self.warm_start else "untrained", self.scorer, state, start)
            if signum := self.stop.after(start):
                self.checkpoints.close()
                raise preemption.Stopped(signum, "stopped before the first step; the same command begins anew")
        self.logger.begin(start)

    def close(self, failing=False):
        """Ends the bar, the reading ahead, the records and, last, the checkpoints, whatever one of them raises.

        `failing`: another error ends the run, which theirs must not hide. With several processes the checkpoints are
        left alone then: the others may be gone, and closing waits for them.
        """
        with contextlib.ExitStack() as closing:  # the last one first
            if failing:
                closing.enter_context(contextlib.suppress(Exception))
            if processes.count() == 1 or not failing:
                closing.callback(self.checkpoints.close)
            closing.callback(self.logger.metrics.close)
            closing.callback(self.batches.close)
            closing.callback(self.logger.bar.close)

    def check_folder(self, saved=None):
        """Ends the run where its folder, or the checkpoint of the step `saved`, has been removed meanwhile."""
        for path in (self.folder / "config.json", self.folder / "checkpoints"):
            if not path.exists():
                raise StorageError(f"{path} was removed while training; name another folder with --workdir")
        if saved is not None and not self.checkpoints.holds(saved):
            raise StorageError(
                f"checkpoint {saved} of {self.folder} was removed while training; rerun the same command"
            )

    def fresh(self):
        """The first state, laid out where the step wants it."""
        state = fresh_state(self.plan, self.key, self.shardings)
        return self.warm_start.load_into(state, self.shardings, replicated(self.mesh)) if self.warm_start else state

    def restore(self, step):
        return self.checkpoints.restore(step, self.plan.shapes, self.shardings)

    def train(self, state, start):
        """Steps from `start` to the end. Logs one step late, so that the host never waits for the device."""
        plan, pending = self.plan, None
        for step in range(start, plan.total_steps):
            stage = plan.stage_at(step)
            warm_start_now = step == start and self.warm_start is not None
            where = (self.batches.images, self.shardings, step, self.key)
            state, values = refresh(stage, state, *where, report=self.logger.bar.status, anew=warm_start_now)
            if values is not None:
                self.logger.refreshed(step, values)
            images, index = self.batches.batch(step, running=pending and pending[1]["loss"])
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
        self.logger.log(step, self.check_finite(metrics["loss"], "loss", step), metrics)

    def boundary(self, state, step, stopping):
        """Evaluation and checkpoint where due, in this order: a checkpoint's scores are on disk before it."""
        if self.plan.due(step, self.plan.config.eval_epochs) and self.plan.evaluators:
            scores = self.scorer.encoder("eval", self.plan.stage_at(step), state, self.logger.bar.status)
            self.logger.scored(step, scores)
            if self.plan.config.best in scores:
                self.by_step[step] = scores[self.plan.config.best]
        self.logger.metrics.flush()
        self.check_folder()
        if stopping or self.plan.due(step, self.plan.config.checkpoint_epochs):
            self.check_finite(_sum(state.params), "sum of the parameters", step)
            self.checkpoints.save(step, state)
        self.logger.reached(step)
        if stopping and step < self.plan.total_steps:
            self.checkpoints.close()
            self.check_folder(step)
            raise preemption.Stopped(
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
