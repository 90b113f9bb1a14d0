"""The train step, and runs of it: the only place that knows all the rest."""

import contextlib
import dataclasses
from pathlib import Path

import jax
import optax
from rich.console import Console

from ssl_jax.build import build, completed, init_state
from ssl_jax.data.augment import draw_views
from ssl_jax.data.rng import LOSS, VIEWS, key_for
from ssl_jax.interface import Batch
from ssl_jax.ops.mesh import ROWS, constrain, make_mesh
from ssl_jax.runs import checkpoint_files, warm_start
from ssl_jax.runs.run_folder import claim, steps_in, with_kept_settings
from ssl_jax.runtime import preemption, processes
from ssl_jax.runtime.compilation import convolution_options
from ssl_jax.runtime.memory import OutOfMemory, memory_failure
from ssl_jax.runtime.sharding import replicated, state_shardings
from ssl_jax.runtime.storage import StorageError, storage_failure
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.stages import Stage
from ssl_jax.training.loop import Loop, NotFinite

__all__ = ["build", "init_state", "train_step", "jit_step", "run", "NotFinite", "OutOfMemory", "StorageError"]


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


def run(
    config, workdir, *, console: Console | None = None, given=(), checkpoint="latest", may_exit=False
) -> dict[str, float]:
    """Trains as `config` says in the folder `workdir`, or goes on where it stopped, and returns the last scores.

    Args:
        config: a ConfigDict, as the files in `configs/` make it.
        workdir: the run folder; one folder belongs to one config.
        console: where to print; standard output by default.
        given: names of settings that were given by hand; a run that is older than one of them does not drop it.
        checkpoint: "latest", or "previous": a last checkpoint that is damaged is set aside first.
        may_exit: a signal may end this process where an evaluation keeps it too long, with all saved; for commands.

    Raises:
        SettingError: something in the config, the data or the folder cannot be used.
        NotFinite: the loss became NaN or infinite.
        StorageError: the disk is full, or fails.
        OutOfMemory: a device, or this host, has no memory left.
        preemption.Stopped: Ctrl-C or SIGTERM; the state is saved.
        processes.Agreed: with several processes, a SettingError of any of them, raised by all.
    """
    try:
        return _run(config, workdir, console, given, checkpoint, may_exit)
    except Exception as error:
        # A SettingError on another place, such as the cache, says already where the disk is full.
        elsewhere = isinstance(error, SettingError) and f"workdir {workdir}" not in str(error)
        if (failure := storage_failure(error)) and not elsewhere:
            raise StorageError(
                f"{failure} in {workdir}; {_last_good(workdir)}; free space and rerun the same command"
            ) from error
        if not isinstance(error, SettingError) and (failure := memory_failure(error)):
            raise OutOfMemory(_less_memory(failure, config, workdir)) from error
        raise


def _last_good(workdir) -> str:
    steps = steps_in(workdir)
    return f"the last good checkpoint is step {steps[-1]}" if steps else "there is no checkpoint yet"


def _less_memory(failure, config, workdir) -> str:
    """One line on a lack of memory, with the settings that need less of it and their present values."""
    settings = completed(config)
    model = settings["model"]
    return (
        f"out of memory ({failure}); lower batch_size ({settings['batch_size']}), set model.dtype=bfloat16 "
        f"({model['dtype']}) or model.remat=True ({model['remat']}), each in a new folder; or lower resident_gb "
        f"({settings['resident_gb']:g}; 0 leaves the images on the host), or use more devices; {_last_good(workdir)} "
        f"in {workdir}"
    )


def _run(config, workdir, console, given, checkpoint_wanted, may_exit):
    console = (console or Console()) if processes.is_first() else Console(quiet=True, force_terminal=False)
    processes.check_devices()
    if "://" in str(workdir):
        raise processes.Agreed(f"workdir {workdir}: a folder is wanted; mount the bucket as one")
    workdir = processes.agree(lambda: user_path(workdir, "workdir"))
    processes.agree(lambda: checkpoint_files.check_path(workdir))
    folder, mesh = Path(workdir), make_mesh()
    settings, notes = processes.agree(lambda: with_kept_settings(completed(config), folder, given))
    plan = processes.agree(lambda: build(settings))
    plan = dataclasses.replace(plan, notes=plan.notes + notes)
    start_from = processes.agree(lambda: warm_start.find(plan, folder))
    with contextlib.ExitStack() as held:
        _claim(folder, plan, held)
        if checkpoint_wanted == "previous":
            set_aside = lambda: checkpoint_files.set_aside(folder) if processes.is_first() else ""
            plan = dataclasses.replace(plan, notes=(*plan.notes, processes.agree(set_aside)))
        stop = held.enter_context(preemption.StopRequest())
        held.enter_context(jax.set_mesh(mesh))
        shardings = state_shardings(mesh, plan.shapes)
        step_fn = jit_step(mesh, shardings)
        return Loop(plan, folder, mesh, shardings, step_fn, console, stop, start_from, may_exit).run()


def _claim(folder, plan, held):
    """The run folder for this run, until `held` is closed; all hosts see it, and have the same config and data."""
    known = processes.agree(lambda: (plan.dataset.fingerprint(), plan.dataset.facts()))
    settings = {name: value for name, value in plan.record.items() if name != "data"}
    settings |= dict(folder=folder.name, resident=plan.stages[0].resident)  # which makes other programs
    processes.same(settings, "its config; give all processes the same flags")
    processes.same(known, "its images; data.dir must hold the same data set on every host")
    processes.agree(lambda: held.enter_context(claim(folder, plan.record, *known)) if processes.is_first() else None)
    processes.check_shared(folder)
