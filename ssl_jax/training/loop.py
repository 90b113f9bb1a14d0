"""The loop around the train step: steps, refreshes, evaluations and checkpoints of one run, in their order."""

import contextlib
import functools
import math
import os
import sys

import jax
import numpy as np
import optax

from ssl_jax.build import Plan, fresh_state
from ssl_jax.inference.scorer import Scorer
from ssl_jax.runs import checkpoint, warm_start
from ssl_jax.runs.metrics import read_records
from ssl_jax.runtime import preemption, processes
from ssl_jax.runtime.sharding import put, replicated
from ssl_jax.runtime.storage import StorageError, storage_failure
from ssl_jax.training import refresh
from ssl_jax.training.batches import Batches
from ssl_jax.training.logger import RunLogger


class NotFinite(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the last good checkpoint."""


class Loop:
    """One run: its devices, checkpoints and the state that is being trained."""

    def __init__(self, plan: Plan, folder, mesh, shardings, step_fn, console, stop, start_from=None, may_exit=False):
        self.plan, self.folder, self.mesh, self.stop = plan, folder, mesh, stop
        self.shardings, self.step_fn = shardings, step_fn
        self.warm_start: warm_start.WarmStart | None = start_from
        self.may_exit = may_exit
        on_record = read_records(folder)
        known = [(r["step"], r[plan.settings.best]) for r in on_record if plan.settings.best in r]
        self.by_step = dict(map(tuple, processes.share(known)))
        scored = {r["step"] for r in on_record if any(name.startswith("eval/") for name in r)}
        self.scored = set(processes.share(sorted(scored)))
        self.checkpoints = checkpoint.Checkpoints(folder, self.by_step, plan.settings.keep_checkpoints)
        self.key = jax.jit(lambda: jax.random.key(plan.settings.seed), out_shardings=replicated(mesh))()
        resident = plan.stages[0].resident
        how = dict(batch_size=plan.batch_size, resident=resident, workers=plan.source.workers)
        self.batches = processes.agree(lambda: Batches(plan.dataset.train.images, mesh, self.key, **how))
        test = plan.dataset.test.images
        self.scorer = Scorer(plan, self.batches.images, put(test, replicated(mesh)) if resident else test)
        self.logger = RunLogger(plan, folder, console, self.batches)

    def run(self):
        saved = processes.share(self.checkpoints.latest() or 0)
        self.scored = {step for step in self.scored if step <= saved}  # later records will be cut off
        if saved:
            processes.agree(lambda: self.checkpoints.verify(saved))
        start = saved or (self.warm_start.first_step if self.warm_start else 0)
        self.logger.recall(start)
        if start >= self.plan.total_steps and not self.unscored(saved):
            self.checkpoints.close()
            self.logger.say(f"{self.folder} is finished ({start} steps)")
            return self.logger.conclude()
        state = processes.agree(lambda: self.restore(saved) if saved else self.fresh())
        self.logger.open(saved, start)
        try:
            self.begin(state, saved, start)
            self.train(state, start, saved)
            if self.plan.evaluators:
                self.checkpoints.prune()
            self.close()
            self.check_folder(self.plan.total_steps)
        except Exception as error:
            self.check_folder()  # says why, where that is the reason
            place = (self.folder / "checkpoints").absolute()
            ours = isinstance(error, StorageError) or storage_failure(error)
            if str(place) in str(error) and not ours:  # orbax raises all kinds
                raise StorageError(f"{place} was removed while training; name another folder with --workdir") from error
            raise
        finally:
            if sys.exc_info()[0]:
                self.close(failing=True)
        return self.logger.conclude()

    def begin(self, state, saved, start):
        """What is said and scored before the first step."""
        if start or self.warm_start:
            how = f"resuming {self.folder}" if saved else f"going on from {self.plan.settings.init_from}"
            self.logger.say(f"{how} at step {start} of {self.plan.total_steps}")
        if not saved:
            try:
                with self.stop.leaving(self.leave if self.may_exit else None):
                    kind = "adopted" if self.warm_start else "untrained"
                    self.logger.introduce(kind, self.scorer, state, start, self.heed)
                self.heed()
            except preemption.Interrupted as interrupted:
                self.checkpoints.close()
                raise preemption.Stopped(interrupted.signum, _ANEW) from None
        self.logger.begin(start)
        if saved and self.unscored(saved):
            self.logger.say("the scores of this step come first, which the run was stopped before")
            if signum := self.evaluate(state, saved):
                self.end(saved, signum)

    def heed(self, text=""):
        """Shows a progress line; raises Interrupted where a stop is asked for."""
        self.stop.heed()
        if text:
            self.logger.bar.status(text)

    def unscored(self, step) -> bool:
        """Whether an evaluation is due at `step` and has left no scores."""
        due = self.plan.evaluators and self.plan.due(step, self.plan.settings.eval_epochs)
        return bool(due) and step not in self.scored

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

    def train(self, state, start, saved):
        """Steps from `start` to the end. Logs one step late, so that the host never waits for the device."""
        plan, pending = self.plan, None
        for step in range(start, plan.total_steps):
            stage = plan.stage_at(step)
            warm_start_now = step == start and self.warm_start is not None
            if refresh.due(stage, step, anew=warm_start_now):
                if pending:
                    self.log(*pending)
                    pending = None
                state = self.refresh(stage, state, step, warm_start_now, saves=bool(step > start or saved))
            images, index = self.batches.batch(step, running=pending and pending[1]["loss"])
            state, metrics = self.step_fn(stage, state, images, index, self.key)
            if pending:
                self.log(*pending)
            pending = (step + 1, metrics)
            boundary = plan.due(step + 1, plan.settings.eval_epochs) or plan.due(
                step + 1, plan.settings.checkpoint_epochs
            )
            if boundary:
                self.log(*pending)
            stopping = self.stop.asked()
            if stopping and not boundary:
                self.log(*pending)
            if boundary or stopping:
                pending = None
                self.boundary(state, step + 1, stopping)

    def refresh(self, stage, state, step, warm_start_now, saves):
        """The state with what is renewed before the batch of `step`; a signal stops it, and resuming begins it anew.

        `saves`: the state before it is a checkpoint that a resumed run begins like this one; the first of a run is not.
        """
        leave = functools.partial(self.leave, state=state, step=step) if saves else self.leave
        where = (self.batches.images, self.shardings, step, self.key)
        try:
            with self.stop.leaving(leave if self.may_exit else None):
                state, values = refresh.refresh(stage, state, *where, report=self.heed, anew=warm_start_now)
        except preemption.Interrupted as interrupted:
            if not saves:
                self.checkpoints.close()
                raise preemption.Stopped(interrupted.signum, _ANEW) from None
            self.logger.metrics.flush()
            self.save(state, step)
            self.end(step, interrupted.signum)
        if values is not None:
            self.logger.refreshed(step, values)
        return state

    def log(self, step, metrics):
        """Reads the loss of `step`, which the device has left behind, and tells of it."""
        self.logger.log(step, self.check_finite(metrics["loss"], "loss", step), metrics)

    def boundary(self, state, step, stopping):
        """Checkpoint and evaluation where due. A stop in between loses nothing: see `unscored`."""
        self.logger.metrics.flush()
        self.check_folder()
        if stopping or self.plan.due(step, self.plan.settings.checkpoint_epochs):
            self.save(state, step)
        unscored = self.unscored(step)
        if unscored and not stopping:
            stopping = self.evaluate(state, step)
        self.logger.reached(step)
        if stopping and (unscored or step < self.plan.total_steps):
            self.end(step, stopping)

    def save(self, state, step):
        """Starts to write a checkpoint, unless there is one."""
        self.check_finite(_sum(state.params), "sum of the parameters", step)
        self.checkpoints.save(step, state)

    def evaluate(self, state, step) -> int:
        """Scores of `step` on record; the signal where one came before they were, with the state saved."""
        leave = functools.partial(self.leave, state=state, step=step) if self.may_exit else None
        try:
            with self.stop.leaving(leave):
                scores = self.scorer.encoder("eval", self.plan.stage_at(step), state, self.heed)
        except preemption.Interrupted as interrupted:
            self.save(state, step)
            return interrupted.signum
        self.logger.scored(step, scores)
        self.scored.add(step)
        if self.plan.settings.best in scores:
            self.by_step[step] = scores[self.plan.settings.best]
        return 0

    def end(self, step, signum):
        """Raises Stopped once the checkpoint of `step` is on disk."""
        self.checkpoints.close()
        self.check_folder(step)
        raise preemption.Stopped(signum, self.stopped_at(step))

    def stopped_at(self, step) -> str:
        return f"stopped at step {step} of {self.plan.total_steps}, saved in {self.folder}; the same command goes on"

    def leave(self, signum, state=None, step=0):
        """Ends the process, in a thread beside an evaluation that XLA does not let go; see `StopRequest.leaving`.

        `state` is saved as the checkpoint of `step`, unless it has been, or is not finite; None before the first step.
        """
        said, code = _ANEW, 128 + signum
        try:
            if state is not None:
                finite = all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(state.params))
                if finite:
                    self.checkpoints.save(step, state)
                self.checkpoints.wait()
                said = self.stopped_at(step) if finite else f"error: the parameters are not finite at step {step}"
            self.logger.bar.close()
        except Exception as error:
            said = f"error: {' '.join(str(error).split())}"
        if said.startswith("error"):
            code = 1
        print(said, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

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


_ANEW = "stopped before the first step; the same command begins anew"
_sum = jax.jit(optax.tree_utils.tree_sum)
