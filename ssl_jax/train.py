"""The train step, and runs of it: where all other parts come together."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from rich.console import Console

from ssl_jax.build import Plan, build, completed, init_state
from ssl_jax.data.augment import draw_views
from ssl_jax.data.rng import LOSS, VIEWS, key_for
from ssl_jax.data.source import Dataset
from ssl_jax.interface import Aux, Batch, LabelledBatch, Method, TrainState
from ssl_jax.ops.mesh import ROWS, constrain, make_mesh
from ssl_jax.runs import checkpoint_files, longer, warm_start
from ssl_jax.runs.run_folder import check_shape, claim, steps_in, with_kept_settings
from ssl_jax.runtime import preemption, processes
from ssl_jax.runtime.compilation import convolution_options
from ssl_jax.runtime.memory import OutOfMemory, memory_failure
from ssl_jax.runtime.sharding import replicated, state_shardings
from ssl_jax.runtime.storage import StorageError, storage_failure
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.stages import Stage
from ssl_jax.training.loop import Loop, NotFinite

__all__ = [
    "build",
    "init_state",
    "train_step",
    "jit_step",
    "run",
    "NotFinite",
    "OutOfMemory",
    "StorageError",
]


def train_step(
    stage: Stage,
    state: TrainState,
    images: Any,
    index: jax.Array,
    key: jax.Array,
    labels: jax.Array | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step of any method; pure.

    Args:
        stage: method, optimiser and views; static.
        state: before the step.
        images: [N, H, W, C] uint8, or `WholePictures`: the resident data set; or only the images of
            this batch, in the order of `index`, padded at the end if B does not divide by the
            devices.
        index: [B] int32, rows of this batch.
        key: of the run; streams are folded out of it with the step.
        labels: [N] int32 of the whole data set, -1 if unlabelled, for a method that needs labels;
            None for all others.

    Returns:
        the state after the step, and scalar metrics.

    Raises:
        TypeError: labels for a method that does not declare `needs_labels`, or none for one that
            does.
    """
    index = constrain(index, ROWS)
    batch_images = images[index] if stage.resident else images[: len(index)]
    batch_images = jax.tree.map(lambda x: constrain(x, ROWS), batch_images)
    view_key = key_for(key, VIEWS, state.step)
    views = draw_views(view_key, batch_images, stage.views, stage.mean, stage.std)
    batch = _batch(stage.method, views, index, labels)

    def loss(params):
        loss_key = key_for(key, LOSS, state.step)
        result = stage.method.loss(state.replace(params=params), batch, loss_key)
        _check_loss(stage.method, result)
        return result

    (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = stage.tx.update(grads, state.opt_state, state.params)
    metrics = {"loss": value, "learning_rate": stage.schedule(state.step), **aux.metrics}
    state = state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        opt_state=opt_state,
        batch_stats=aux.batch_stats,
    )
    state = stage.method.post_step(state, aux, batch)
    if not isinstance(state, TrainState):
        name = type(stage.method).__name__
        raise SettingError(f"{name}.post_step returns {type(state).__name__}; return a TrainState")
    return state, metrics


def _batch(
    method: Method, views: tuple[jax.Array, ...], index: jax.Array, labels: jax.Array | None
) -> Batch:
    """What a method sees of a batch: its labels only if it declares `needs_labels`."""
    name = type(method).__name__
    if not method.needs_labels:
        if labels is not None:
            raise TypeError(f"{name} does not declare needs_labels, so it must not get labels")
        return Batch(views, index)
    if labels is None:
        raise TypeError(f"{name} declares needs_labels, but the step got no labels")
    return LabelledBatch(views, index, constrain(labels[index], ROWS))


def _check_loss(method: Method, result: Any) -> None:
    """Raises SettingError unless a method's `loss` returned a scalar and an `Aux`."""
    name = type(method).__name__
    if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Aux)):
        raise SettingError(
            f"{name}.loss returns {type(result).__name__}; return a scalar and an Aux"
        )
    if jnp.shape(result[0]) != ():
        shape = jnp.shape(result[0])
        raise SettingError(
            f"{name}.loss returns an array of shape {shape}; return a scalar, such as its mean"
        )


def jit_step(mesh: Mesh, shardings: Any) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """`train_step`, jitted over `mesh`, with the state donated and laid out as `shardings`."""
    return jax.jit(
        train_step,
        static_argnums=0,
        donate_argnums=1,
        out_shardings=(shardings, replicated(mesh)),
        compiler_options=convolution_options(),
    )


def run(
    config,
    workdir: Path | str,
    *,
    console: Console | None = None,
    given: Collection[str] = (),
    checkpoint: str = "latest",
    may_exit: bool = False,
    hashed: bool = False,
) -> dict[str, float]:
    """Trains `config` in the folder `workdir`, or resumes it there; returns the last scores.

    Args:
        config: a ConfigDict, as the files in `configs/` make it.
        workdir: the run folder; one folder belongs to one config.
        console: where to print; standard output by default.
        given: names of settings given by hand, which a run older than the setting must not ignore.
        checkpoint: "latest"; or "previous", which first sets a damaged last checkpoint aside.
        may_exit: for commands: a signal may end this process during an evaluation that takes too
            long, with everything saved.
        hashed: for commands: `workdir` has a default name that ends in a hash of changed settings.

    Raises:
        SettingError: something in the config, the data or the folder cannot be used.
        NotFinite: the loss became NaN or infinite.
        StorageError: the disk is full or failing.
        OutOfMemory: a device or this host ran out of memory.
        preemption.Stopped: Ctrl-C or SIGTERM; the state is saved.
        processes.Agreed: with several processes, a SettingError of any of them, raised by all.
    """
    try:
        return _run(config, workdir, console, given, checkpoint, may_exit, hashed)
    except Exception as error:
        # A SettingError about another folder, such as the cache, already names the full disk.
        elsewhere = isinstance(error, SettingError) and f"workdir {workdir}" not in str(error)
        if (failure := storage_failure(error)) and not elsewhere:
            raise StorageError(
                f"{failure} in {workdir}; {_last_good(workdir)}; "
                "free space and rerun the same command"
            ) from error
        if not isinstance(error, SettingError) and (failure := memory_failure(error)):
            raise OutOfMemory(_out_of_memory(failure, config, workdir)) from error
        raise


def _last_good(workdir: Path | str) -> str:
    steps = steps_in(workdir)
    return (
        f"the last good checkpoint is step {steps[-1]}" if steps else "there is no checkpoint yet"
    )


def _out_of_memory(failure: str, config, workdir: Path | str) -> str:
    """One line with the settings that would need less memory, and their present values."""
    settings = with_kept_settings(completed(config), user_path(workdir, "workdir"))[0]
    model = settings["model"]
    return (
        f"out of memory ({failure}); lower batch_size ({settings['batch_size']}), set "
        f"model.dtype=bfloat16 ({model['dtype']}) or model.remat=True ({model['remat']}), each in "
        f"a new folder; or lower resident_gb ({settings['resident_gb']:g}; 0 keeps the images on "
        f"the host), or use more devices; {_last_good(workdir)} in {workdir}"
    )


def _run(
    config,
    workdir: Path | str,
    console: Console | None,
    given: Collection[str],
    checkpoint: str,
    may_exit: bool,
    hashed: bool,
) -> dict[str, float]:
    if not processes.is_first():
        console = Console(quiet=True, force_terminal=False)
    elif console is None:
        console = Console()
    processes.check_devices()
    if "://" in str(workdir):
        raise processes.Agreed(f"workdir {workdir}: must be a local path; mount the bucket")
    folder = processes.agree(lambda: user_path(workdir, "workdir"))
    processes.agree(lambda: checkpoint_files.check_path(folder))
    mesh = make_mesh()
    settings, notes = processes.agree(lambda: with_kept_settings(completed(config), folder, given))

    def check_data(dataset: Dataset) -> None:
        check_shape(folder, settings["data"]["name"], dataset.facts())

    plan = processes.agree(
        lambda: build(settings, recorded=bool(steps_in(folder)), check_data=check_data)
    )
    plan = dataclasses.replace(plan, notes=plan.notes + notes)
    start_from = processes.agree(lambda: warm_start.find(plan, folder))
    with contextlib.ExitStack() as stack:
        fingerprint = _claim(folder, plan, stack)
        if hashed and (note := longer.note(folder, plan.record, fingerprint)):
            plan = dataclasses.replace(plan, notes=(*plan.notes, note))
        if checkpoint == "previous":
            note = processes.agree(
                lambda: checkpoint_files.set_aside(folder) if processes.is_first() else ""
            )
            plan = dataclasses.replace(plan, notes=(*plan.notes, note))
        stop = stack.enter_context(preemption.StopRequest())
        stack.enter_context(jax.set_mesh(mesh))
        shardings = state_shardings(mesh, plan.shapes)
        step_fn = jit_step(mesh, shardings)
        loop = Loop(
            plan,
            folder,
            mesh,
            shardings,
            step_fn,
            console,
            stop,
            start_from,
            may_exit=may_exit,
            hashed=hashed,
        )
        return loop.run()


def _claim(folder: Path, plan: Plan, stack: contextlib.ExitStack) -> str:
    """Claims the run folder until `stack` closes; returns the fingerprint of the data.

    Also checks that all hosts see the folder and have the same config and data.
    """
    fingerprint, facts = processes.agree(lambda: (plan.dataset.fingerprint(), plan.dataset.facts()))
    settings = {name: value for name, value in plan.record.items() if name != "data"}
    # The compiled programs depend on `resident`, too.
    settings |= dict(folder=folder.name, resident=plan.stages[0].resident)
    processes.same(settings, "its config; give all processes the same flags")
    processes.same(
        (fingerprint, facts), "its images; data.dir must hold the same data set on every host"
    )

    def claim_on_first() -> None:
        if processes.is_first():
            stack.enter_context(claim(folder, plan.record, fingerprint, facts))

    processes.agree(claim_on_first)
    processes.check_shared(folder)
    return fingerprint
