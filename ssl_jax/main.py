"""Trains one config:  python -m ssl_jax.main --config=configs/swav.py [--config.epochs=20] [--workdir=DIR]"""

import hashlib
import json
import sys
from pathlib import Path

from absl import flags

from ssl_jax.runtime import command
from ssl_jax.settings import command_line, defaults
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError

DISTRIBUTED = flags.DEFINE_boolean("distributed", None, "One run on all processes that Slurm, MPI or a pod started.")
COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, of several that are started by hand.")
PROCESSES = flags.DEFINE_integer("processes", 0, "How many they are.", lower_bound=0)
PROCESS = flags.DEFINE_integer("process", -1, "Which one this is, from 0.", lower_bound=-1)
JOIN_SECONDS = flags.DEFINE_integer("join_seconds", 300, "How long they wait for each other.", lower_bound=1)
WORKDIR = flags.DEFINE_string("workdir", None, "Run folder; default runs/<config>[-<variant>][-<hash of overrides>].")
CHECKPOINT = flags.DEFINE_enum(
    "checkpoint",
    "latest",
    ["latest", "previous"],
    "previous: set a damaged one aside, go on from that before.",
)


def default_workdir() -> Path:
    """runs/<config>[-<variant>][-<hash of overrides>]; settings that only observe do not count.

    Nor does `data.dir`, where it says no more than where a known data set lies.
    """
    stem, variant, overrides = command_line.config_name()
    own_data = command_line.CONFIG.value.data.name not in ("digits", "cifar10", "cifar100")
    counts = lambda key: not defaults.only_observes(key) or (own_data and key == "data.dir")
    overrides = {k: v for k, v in overrides.items() if counts(k)}
    name = "-".join(part for part in (stem, variant) if part)
    if overrides:
        text = json.dumps(overrides, sort_keys=True, default=str)
        name += "-" + hashlib.sha256(text.encode()).hexdigest()[:8]
    return Path("runs") / name


def _end(message, code):
    """The end that all processes come to together: the first one tells of it."""
    from ssl_jax.runtime import processes

    if processes.is_first():
        print(message, file=sys.stderr)
    sys.exit(code)


def main():
    try:
        import jax

        from ssl_jax import train
        from ssl_jax.runtime import compilation, failure, preemption, processes, rendezvous

        rendezvous.join(DISTRIBUTED.value, COORDINATOR.value, PROCESSES.value, PROCESS.value, JOIN_SECONDS.value)
    except KeyboardInterrupt:
        sys.exit(130)
    # On CPUs no process waits longer than 30 s for another, and only the first one's programs would be kept.
    if not (jax.distributed.is_initialized() and jax.default_backend() == "cpu"):
        compilation.enable_cache()
    try:
        with failure.exit_together():
            given = tuple(command_line.config_name()[2])
            folder = user_path(WORKDIR.value, "--workdir") if WORKDIR.value else default_workdir()
            train.run(command_line.CONFIG.value, folder, given=given, checkpoint=CHECKPOINT.value, may_exit=True)
    except (train.NotFinite, processes.Agreed) as error:
        _end(f"error: {' '.join(str(error).split())}", 1 if isinstance(error, train.NotFinite) else 2)
    except preemption.Stopped as stopped:
        _end(stopped, 128 + stopped.signum)
    except KeyboardInterrupt as stopped:
        said, code = "stopped at once; the same command goes on from the last checkpoint", command.exit_code(stopped)
        if processes.count() == 1:
            print(said, file=sys.stderr)
            sys.exit(code)
        failure.fail(KeyboardInterrupt(said), code)
    except (train.StorageError, train.OutOfMemory) as error:
        if processes.count() == 1:
            command_line.fail(error, 1)
        failure.fail(error, 1)
    except Exception as error:
        failure.fail(error, 2 if isinstance(error, SettingError) else 1)


if __name__ == "__main__":
    command.start(main)
