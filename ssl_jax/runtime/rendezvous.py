"""How the processes of one run find each other, before any of them touches a device."""

import contextlib
import os
import re
import socket
import time

import jax
from absl import logging

from ssl_jax.settings.resolve import SettingError

_GREETING = "ssl_jax roll call: "
_HEARTBEAT, _SHUTDOWN = 60, 60  # seconds until a silent process counts as dead, and that the last ones are waited for


def join(distributed: bool | None, coordinator: str, processes: int, process: int, seconds: int) -> None:
    """Starts `jax.distributed`, where this process is one of several.

    Args:
        distributed: JAX finds out from Slurm, Open MPI, Kubernetes or the TPU pod; None: not told.
        coordinator: HOST:PORT of process 0, instead of that; with the two that follow.
        processes: how many there are.
        process: which one this is, from 0.
        seconds: how long to wait for the others.

    Raises:
        SettingError: flags that do not go together, or not all processes came.
    """
    given = (bool(coordinator), processes > 0, process >= 0)
    if any(given):
        _check(given, distributed, coordinator, processes, process)
        _call_the_roll(coordinator, processes, process, seconds)
        _initialize(f"--coordinator={coordinator}", seconds, coordinator, processes, process)
    elif distributed:
        coordinator, processes, process, devices = _detected(seconds)
        _call_the_roll(coordinator, processes, process, seconds)
        _initialize("--distributed", seconds, coordinator, processes, process, None if _alone_here() else devices)
    elif distributed is None and (told := _started_by()):
        raise SettingError(
            f"{told} processes of this command; --distributed trains one run on all of them, --nodistributed one each"
        )


def _initialize(flag, seconds, coordinator, processes, process, devices=None):
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            devices,
            cluster_detection_method="deactivate",
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=_HEARTBEAT,
            shutdown_timeout_seconds=_SHUTDOWN,
        )
        logging.set_verbosity(logging.ERROR)  # orbax warns of a stop that was asked for
    except (ValueError, RuntimeError) as error:
        raise SettingError(f"{flag}: all came to {coordinator}, and JAX did not start ({error})") from error


def _alone_here() -> bool:
    """Whether Slurm or Open MPI started one process a machine: it takes all devices, where JAX would take the first."""
    told = os.environ.get
    steps = told("SLURM_STEP_NUM_TASKS", "") if "SLURM_STEP_NODELIST" in os.environ else ""
    return told("OMPI_COMM_WORLD_LOCAL_SIZE") == "1" or bool(steps) and steps == told("SLURM_STEP_NUM_NODES")


def _detected(seconds):
    """The address of process 0, the number of processes, which one this is, and its devices, as JAX finds them out.

    It does so within `jax.distributed.initialize`, and there is no public name for asking beforehand.
    """
    from jax._src.clusters import ClusterEnv

    way_out = "give --coordinator, --processes and --process"
    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, seconds)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise SettingError(f"--distributed: JAX cannot make out the cluster ({error}); {way_out}") from error
    if None in found[:3]:
        raise SettingError(f"--distributed: JAX finds no cluster here; {way_out}")
    return found


def _check(given, distributed, coordinator, processes, process):
    host, _, port = coordinator.rpartition(":")
    if not all(given):
        raise SettingError("--coordinator=HOST:PORT, --processes and --process go together")
    if distributed is not None:
        raise SettingError("--distributed lets JAX find the processes; leave it out beside --coordinator")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise SettingError(f"--coordinator={coordinator}: HOST:PORT, the address of process 0")
    if process >= processes:
        raise SettingError(f"--process={process}: 0 to {processes - 1}, with --processes={processes}")


def _started_by() -> str:
    """Who says that it has started several of these; Slurm does so within srun only."""
    steps = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NODELIST" in os.environ else ""
    for variable, who in ((steps, "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun")):
        if (number := os.environ.get(variable, "")).isdigit() and int(number) > 1:
            return f"{who} has started {number}"
    return ""


def _call_the_roll(coordinator, processes, process, seconds):
    """All are there before JAX starts: where one is missing, JAX would end the others with pages from its C++ code.

    Process 0 listens where JAX's coordinator will, and tells everybody how it went.
    """
    until = time.monotonic() + seconds
    host, _, port = coordinator.rpartition(":")
    if process:
        missing = _answer(host.strip("[]"), int(port), process, until)
    else:
        missing = _listen(int(port), processes, until)
    if missing is None:
        raise SettingError(
            f"process {process} of {processes}: nobody answered at {coordinator} for {seconds} s; start process 0 "
            "there, and see that this address can be reached from here"
        )
    if missing:
        came = f"{processes - len(missing)} of {processes} came to {coordinator} within {seconds} s, missing "
        raise SettingError(f"{came}{', '.join(missing)}; start all of them, or wait longer with --join_seconds")


def _listen(port, processes, until):
    """Process 0: numbers of those that did not come."""
    try:
        family = dict(family=socket.AF_INET6, dualstack_ipv6=True) if socket.has_dualstack_ipv6() else {}
        server = socket.create_server(("", port), backlog=processes, **family)
    except OSError as error:
        raise SettingError(f"--coordinator: process 0 cannot use port {port} here ({error.strerror})") from error
    lines = {}
    with server, contextlib.ExitStack() as held:
        while len(lines) < processes - 1 and (left := until - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                line = held.enter_context(server.accept()[0])
                line.settimeout(5)
                came = _line(line, r"\d{1,6}")
            except OSError:
                continue
            if came and 0 < int(came) < processes:
                lines[int(came)] = line
        missing = [str(i) for i in range(1, processes) if i not in lines]
        for line in lines.values():
            with contextlib.suppress(OSError):
                line.sendall(f"{_GREETING}{','.join(missing)}\n".encode())
    return missing


def _answer(host, port, process, until):
    """Any other process: numbers of those that did not come; None where process 0 did not."""
    while (left := until - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(left, 5)) as line:
                line.sendall(f"{_GREETING}{process}\n".encode())
                line.settimeout(max(left, 1) + 5)
                if (said := _line(line, r"[\d,]*")) is not None:
                    return [number for number in said.split(",") if number]
        except OSError:
            pass
        time.sleep(0.1)
    return None


def _line(connection, pattern):
    """What follows the greeting in the line that comes; None from others than this command, who may use the port."""
    said = connection.makefile(errors="replace").readline(10_000)
    found = re.fullmatch(f"{_GREETING}({pattern})\n", said, re.ASCII)
    return found and found[1]
