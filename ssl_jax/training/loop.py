"""The loop around the train step: steps, refreshes, evaluations and checkpoints of one run."""

import contextlib
import functools
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from rich.console import Console

from ssl_jax.build import Plan, fresh_state
from ssl_jax.inference.scorer import Scorer
from ssl_jax.interface import TrainState
from ssl_jax.runs import checkpoint, warm_start
from ssl_jax.runs.metrics import read_records
from ssl_jax.runtime import preemption, processes
from ssl_jax.runtime.sharding import put, put_all, replicated
from ssl_jax.runtime.storage import StorageError, storage_failure
from ssl_jax.stages import Stage
from ssl_jax.training import first_screen, refresh
from ssl_jax.training.attention import AttentionRecorder
from ssl_jax.training.batches import Batches
from ssl_jax.training.logger import RunLogger

_NOT_STARTED = "stopped before the first step; rerun the same command to start again"


class NotFinite(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the last good checkpoint."""


class Loop:
    """One run: its devices, checkpoints and the state being trained.

    Args:
        plan: what is trained.
        folder: the run folder, claimed by this process.
        mesh: the devices.
        shardings: layout of the train state.
        step_fn: the jitted `train_step`.
        console: where to print.
        stop: the request to stop that a signal sets.
        start_from: another run's checkpoint to start from, or None.
        may_exit: a signal may end this process during an evaluation or refresh that takes too long,
            with everything saved.
        hashed: the name of the run folder ends in a hash of the changed settings.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        mesh: Mesh,
        shardings: Any,
        step_fn: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
        console: Console,
        stop: preemption.StopRequest,
        start_from: warm_start.WarmStart | warm_start.WeightsStart | None = None,
        may_exit: bool = False,
        hashed: bool = False,
    ):
        self.plan = plan
        self.folder = folder
        self.mesh = mesh
        self.shardings = shardings
        self.step_fn = step_fn
        self.stop = stop
        self.warm_start = start_from
        self.may_exit = may_exit
        self.hashed = hashed
        self.best_scores, self.scored = _scores_on_record(folder, plan.settings.best)
        self.checkpoints = checkpoint.Checkpoints(
            folder, self.best_scores, plan.settings.keep_checkpoints
        )
        self.key = jax.jit(
            lambda: jax.random.key(plan.settings.seed), out_shardings=replicated(mesh)
        )()
        self.attention = processes.agree(lambda: AttentionRecorder(plan, folder, mesh))
        self.batches = processes.agree(lambda: _batches(plan, mesh, self.key))
        self.labels = _labels(plan, mesh)
        test_images = plan.dataset.test.images
        if plan.stages[0].resident:
            test_images = put_all(test_images, replicated(mesh))
        self.scorer = Scorer(plan, self.batches.images, test_images)
        self.logger = RunLogger(plan, folder, console, self.batches, self.scorer)

    def run(self) -> dict[str, float]:
        """Trains to the end, from the last checkpoint if there is one; returns the last scores."""
        saved = processes.share(self.checkpoints.latest() or 0)
        # Later records will be cut off.
        self.scored = {step for step in self.scored if step <= saved}
        if saved:
            processes.agree(lambda: self.checkpoints.verify(saved))
        start = saved or (self.warm_start.first_step if self.warm_start else 0)
        self.logger.recall(start)
        if start >= self.plan.total_steps and not self.unscored(saved):
            self.checkpoints.close()
            for note in first_screen.notes(self.plan):
                self.logger.say(note)
            self.logger.say(f"{self.folder} is finished ({start} steps)")
            return self.logger.conclude()
        state = processes.agree(lambda: self.restore(saved) if saved else self.fresh())
        self.logger.open(saved, start)
        self.attention.open(saved)
        try:
            self.begin(state, saved, start)
            self.train(state, start, saved)
            if self.plan.evaluators:
                self.checkpoints.prune()
            self.close()
            self.check_folder(self.plan.total_steps)
        except Exception as error:
            self.check_folder()  # a removed folder is the better explanation
            path = (self.folder / "checkpoints").absolute()
            explained = isinstance(error, StorageError) or storage_failure(error)
            if str(path) in str(error) and not explained:  # orbax raises all kinds
                raise _removed(path) from error
            raise
        finally:
            if sys.exc_info()[0]:
                self.close(failing=True)
        return self.logger.conclude()

    def begin(self, state: TrainState, saved: int, start: int) -> None:
        """Prints where the run starts, and scores what is due before the first step."""
        self.logger.introduce(resumes=bool(saved), hashed=self.hashed)
        if saved:
            epoch = start / self.plan.steps_per_epoch
            self.logger.say(
                f"resuming {self.folder} at step {start} of {self.plan.total_steps} "
                f"(epoch {epoch:.4g} of {self.plan.settings.epochs})"
            )
        elif self.warm_start:
            source = self.plan.settings.init_from
            self.logger.say(f"starting from {source} at step {start} of {self.plan.total_steps}")
            for note in self.warm_start.notes:
                self.logger.say(note)
        if not saved:
            try:
                with self.stop.leaving(self.leave if self.may_exit else None):
                    kind = "adopted" if self.warm_start else "untrained"
                    self.logger.score_baselines(kind, state, start, self.heed)
                self.heed()
            except preemption.Interrupted as interrupted:
                self.checkpoints.close()
                raise preemption.Stopped(interrupted.signum, _NOT_STARTED) from None
            self.attention.record(self.plan.stage_at(start), state, start)
        self.logger.begin(start)
        if saved and self.unscored(saved):
            self.logger.say("evaluating this step first: the run was stopped before its evaluation")
            if signum := self.evaluate(state, saved):
                self.end(saved, signum)
        evaluated = saved and self.plan.due(saved, self.plan.settings.eval_epochs)
        if evaluated and self.attention.missing(saved):
            self.attention.record(self.plan.stage_at(saved), state, saved)

    def heed(self, text: str = "") -> None:
        """Shows a progress line; raises Interrupted if a stop was requested."""
        self.stop.heed()
        if text:
            self.logger.bar.status(text)

    def unscored(self, step: int) -> bool:
        """Whether an evaluation is due at `step` and its scores are not on record."""
        due = self.plan.evaluators and self.plan.due(step, self.plan.settings.eval_epochs)
        return bool(due) and step not in self.scored

    def close(self, failing: bool = False) -> None:
        """Closes bar, batches, records and checkpoints, even if one of them raises.

        Args:
            failing: another error ends the run, which errors in here must not hide. With several
                processes the checkpoints are then left alone: closing waits for the others, which
                may be gone.
        """
        with contextlib.ExitStack() as stack:  # closes the last one first
            if failing:
                stack.enter_context(contextlib.suppress(Exception))
            if processes.count() == 1 or not failing:
                stack.callback(self.checkpoints.close)
            stack.callback(self.logger.metrics.close)
            stack.callback(self.batches.close)
            stack.callback(self.logger.bar.close)

    def check_folder(self, saved: int | None = None) -> None:
        """Checks that the run folder, and the checkpoint of step `saved`, still exist.

        Raises:
            StorageError: somebody has removed them.
        """
        for path in (self.folder / "config.json", self.folder / "checkpoints"):
            if not path.exists():
                raise _removed(path)
        if saved is not None and not self.checkpoints.holds(saved):
            raise StorageError(
                f"checkpoint {saved} of {self.folder} was removed while training; "
                "rerun the same command"
            )

    def fresh(self) -> TrainState:
        """The state that the run begins with, laid out as the step needs it."""
        state = fresh_state(self.plan, self.key, self.shardings)
        if self.warm_start:
            state = self.warm_start.load_into(state, self.shardings, replicated(self.mesh))
        return state

    def restore(self, step: int) -> TrainState:
        """The state of the checkpoint of `step`."""
        return self.checkpoints.restore(step, self.plan.shapes, self.shardings)

    def train(self, state: TrainState, start: int, saved: int) -> None:
        """Runs the steps from `start` to the end.

        Metrics are read one step late, so that the host never waits for the device.
        """
        plan = self.plan
        pending = None  # the step and metrics to be logged next
        for step in range(start, plan.total_steps):
            stage = plan.stage_at(step)
            is_warm_start = step == start and self.warm_start is not None
            if refresh.due(stage, step, anew=is_warm_start):
                if pending:
                    self.log(*pending)
                    pending = None
                has_checkpoint = bool(step > start or saved)
                state = self.refresh(stage, state, step, is_warm_start, saves=has_checkpoint)
            images, index = self.batches.batch(step, running=pending and pending[1]["loss"])
            labels = self.labels if stage.method.needs_labels else None
            state, metrics = self.step_fn(stage, state, images, index, self.key, labels)
            if pending:
                self.log(*pending)
            pending = (step + 1, metrics)
            is_boundary = plan.due(step + 1, plan.settings.eval_epochs) or plan.due(
                step + 1, plan.settings.checkpoint_epochs
            )
            if is_boundary:
                self.log(*pending)
            stopping = self.stop.asked()
            if stopping and not is_boundary:
                self.log(*pending)
            if is_boundary or stopping:
                pending = None
                self.boundary(state, step + 1, stopping)

    def refresh(
        self, stage: Stage, state: TrainState, step: int, is_warm_start: bool, saves: bool
    ) -> TrainState:
        """The state after the refresh before the batch of `step`.

        A signal interrupts the refresh; resuming repeats it from the start.

        Args:
            stage: the stage of `step`.
            state: the state before the refresh.
            step: the step about to run.
            is_warm_start: whether this is the first step after a warm start.
            saves: whether an interrupted refresh saves the state before it. The state before the
                first step of a run is not saved.
        """
        leave = functools.partial(self.leave, state=state, step=step) if saves else self.leave
        try:
            with self.stop.leaving(leave if self.may_exit else None):
                state, values = refresh.refresh(
                    stage,
                    state,
                    self.batches.images,
                    self.shardings,
                    step,
                    self.key,
                    report=self.heed,
                    anew=is_warm_start,
                )
        except preemption.Interrupted as interrupted:
            if not saves:
                self.checkpoints.close()
                raise preemption.Stopped(interrupted.signum, _NOT_STARTED) from None
            self.logger.metrics.flush()
            self.save(state, step)
            self.end(step, interrupted.signum)
        if values is not None:
            self.logger.refreshed(step, values)
        return state

    def log(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Reads the loss of `step`, which the device has finished by now, and logs it."""
        self.logger.log(step, self.check_finite(metrics["loss"], "loss", step), metrics)

    def boundary(self, state: TrainState, step: int, stopping: int) -> None:
        """Checkpoint and evaluation, where due; raises Stopped if a stop was requested.

        A stop in between loses nothing: see `unscored`.
        """
        self.logger.metrics.flush()
        self.check_folder()
        if stopping or self.plan.due(step, self.plan.settings.checkpoint_epochs):
            self.save(state, step)
        unscored = self.unscored(step)
        if unscored and not stopping:
            stopping = self.evaluate(state, step)
        if self.plan.due(step, self.plan.settings.eval_epochs) and not stopping:
            self.attention.record(self.plan.stage_at(step), state, step)
        self.logger.reached(step)
        if stopping and (unscored or step < self.plan.total_steps):
            self.end(step, stopping)

    def save(self, state: TrainState, step: int) -> None:
        """Starts writing a checkpoint, unless there is one."""
        self.check_finite(_sum(state.params), "sum of the parameters", step)
        self.checkpoints.save(step, state)

    def evaluate(self, state: TrainState, step: int) -> int:
        """Scores the encoder at `step` and records it.

        Returns:
            0, or the signal that interrupted the evaluation; the state is then saved.
        """
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
            self.best_scores[step] = scores[self.plan.settings.best]
        return 0

    def end(self, step: int, signum: int) -> NoReturn:
        """Raises Stopped once the checkpoint of `step` is on disk."""
        self.checkpoints.close()
        self.check_folder(step)
        raise preemption.Stopped(signum, self.stopped_at(step))

    def stopped_at(self, step: int) -> str:
        """The last line of a run that was stopped."""
        return (
            f"stopped at step {step} of {self.plan.total_steps}, saved in {self.folder}; "
            "rerun the same command to resume"
        )

    def leave(self, signum: int, state: TrainState | None = None, step: int = 0) -> NoReturn:
        """Ends the process from a thread, while XLA keeps the main thread in a long computation.

        See `StopRequest.leaving`.

        Args:
            signum: the signal to stop for.
            state: saved as the checkpoint of `step`, unless that exists or the parameters are not
                finite; None before the first step.
            step: of the state.
        """
        message = _NOT_STARTED
        code = 128 + signum
        try:
            if state is not None:
                params = jax.tree.leaves(state.params)
                finite = all(np.isfinite(np.asarray(x)).all() for x in params)
                if finite:
                    self.checkpoints.save(step, state)
                self.checkpoints.wait()
                if finite:
                    message = self.stopped_at(step)
                else:
                    message = f"error: the parameters are not finite at step {step}"
                    code = 1
            self.logger.bar.close()
        except Exception as error:
            message = f"error: {' '.join(str(error).split())}"
            code = 1
        print(message, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def check_finite(self, value: Any, name: str, step: int) -> float:
        """`value` as a float.

        Raises:
            NotFinite: it is NaN or infinite.
        """
        value = float(value)
        if math.isfinite(value):
            return value
        self.checkpoints.close()
        if last := self.checkpoints.latest():
            saved = f"the last good checkpoint is step {last} in {self.folder}"
        else:
            saved = "there is no checkpoint yet"
        raise NotFinite(
            f"the {name} is {value} at step {step}; {saved}; "
            "try a lower optim.learning_rate in a new folder"
        )


def _batches(plan: Plan, mesh: Mesh, key: jax.Array) -> Batches:
    return Batches(
        plan.dataset.train.images,
        mesh,
        key,
        batch_size=plan.batch_size,
        resident=plan.stages[0].resident,
        workers=plan.source.workers,
    )


def _labels(plan: Plan, mesh: Mesh) -> jax.Array | None:
    """[N] int32 labels on every device, for methods that need them; else None."""
    if not any(stage.method.needs_labels for stage in plan.stages):
        return None
    return put(np.asarray(plan.dataset.train.labels, np.int32), replicated(mesh))


def _scores_on_record(folder: Path, best: str) -> tuple[dict[int, float], set[int]]:
    """The score `best` by step, and all steps with scores of the trained encoder."""
    records = read_records(folder)
    best_scores = [(record["step"], record[best]) for record in records if best in record]
    scored = {
        record["step"] for record in records if any(name.startswith("eval/") for name in record)
    }
    shared_scores = dict(map(tuple, processes.share(best_scores)))
    return shared_scores, set(processes.share(sorted(scored)))


def _removed(path: Path) -> StorageError:
    return StorageError(f"{path} was removed while training; choose another folder with --workdir")


_sum = jax.jit(optax.tree_utils.tree_sum)
