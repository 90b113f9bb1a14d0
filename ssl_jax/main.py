"""Trains a config, or resumes its run:

    python -m ssl_jax.main --config=swav
    python -m ssl_jax.main --config=swav:cifar10 --config.epochs=20 --workdir=runs/short

A config is a Python file that returns all settings of a run. The part after the colon selects one
of its variants, and --config.NAME=VALUE overrides any setting. Checkpoints, metrics and settings go
to the run folder. Rerun the same command to resume from the latest checkpoint.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import NoReturn

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line, defaults
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError

DISTRIBUTED = flags.DEFINE_boolean(
    "distributed", None, "Train one run on all processes that Slurm, MPI or a TPU pod started."
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "HOST:PORT of process 0, if you start several processes by hand."
)
PROCESSES = flags.DEFINE_integer(
    "processes", 0, "Number of processes, if you start them by hand.", lower_bound=0
)
PROCESS = flags.DEFINE_integer(
    "process", -1, "Index of this process, from 0, if you start them by hand.", lower_bound=-1
)
JOIN_SECONDS = flags.DEFINE_integer(
    "join_seconds", 300, "How long processes wait for each other at the start.", lower_bound=1
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run folder; default runs/<config>[-<variant>][-<hash of overrides>]."
)
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    "latest",
    ["latest", "previous"],
    "previous: set a damaged latest checkpoint aside and resume from the one before.",
)


def default_workdir() -> tuple[Path, bool]:
    """runs/<config>[-<variant>][-<hash of overrides>], and whether it has a hash.

    Only overrides that affect training count. `data.dir` counts only for a user's own data: for a
    known data set it is merely a location.
    """
    stem, variant, overrides = command_line.config_name()
    has_own_data = command_line.CONFIG.value.data.name not in ("digits", "cifar10", "cifar100")
    counted = {}
    for key, value in overrides.items():
        if not defaults.only_observes(key) or (has_own_data and key == "data.dir"):
            counted[key] = value
    name = "-".join(part for part in (stem, variant) if part)
    if counted:
        text = json.dumps(counted, sort_keys=True, default=str)
        name += "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return Path("runs") / name, bool(counted)


def _exit_together(message: object, code: int) -> NoReturn:
    """Ends a run that all processes end at the same point; the first one prints the message."""
    from ssl_jax.runtime import processes

    if processes.is_first():
        print(message, file=sys.stderr)
    sys.exit(code)


def main() -> None:
    try:
        import jax

        from ssl_jax import train
        from ssl_jax.runtime import compilation, failure, preemption, processes, rendezvous

        rendezvous.join(
            DISTRIBUTED.value, COORDINATOR.value, PROCESSES.value, PROCESS.value, JOIN_SECONDS.value
        )
    except KeyboardInterrupt:
        sys.exit(130)
    # On CPUs a process waits at most 30 s for another, and the cache would keep only the first
    # process's programs.
    if not (jax.distributed.is_initialized() and jax.default_backend() == "cpu"):
        compilation.enable_cache()
    try:
        with failure.exit_together():
            if WORKDIR.value:
                workdir = user_path(WORKDIR.value, "--workdir")
                hashed = False
            else:
                workdir, hashed = default_workdir()
            train.run(
                command_line.CONFIG.value,
                workdir,
                given=tuple(command_line.config_name()[2]),
                checkpoint=CHECKPOINT.value,
                may_exit=True,
                hashed=hashed,
            )
    except (train.NotFinite, processes.Agreed) as error:
        line = " ".join(str(error).split())
        _exit_together(f"error: {line}", 1 if isinstance(error, train.NotFinite) else 2)
    except preemption.Stopped as stopped:
        _exit_together(stopped, 128 + stopped.signum)
    except KeyboardInterrupt as stopped:
        message = "stopped at once; rerun the same command to resume from the last checkpoint"
        code = command.exit_code(stopped)
        if processes.count() == 1:
            print(message, file=sys.stderr)
            sys.exit(code)
        failure.fail(KeyboardInterrupt(message), code)
    except (train.StorageError, train.OutOfMemory) as error:
        if processes.count() == 1:
            command_line.fail(error, 1)
        failure.fail(error, 1)
    except Exception as error:
        failure.fail(error, 2 if isinstance(error, SettingError) else 1)


if __name__ == "__main__":
    command.start(main)
