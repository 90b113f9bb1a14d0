"""How the processes of one run find each other, before any of them touches a device."""

import contextlib
import os
import re
import socket
import time
from collections.abc import Sequence

import jax
from absl import logging

from ssl_jax.settings.resolve import SettingError

_GREETING = "ssl_jax roll call: "
_HEARTBEAT = 60  # seconds without a sign of life until a process counts as dead
_SHUTDOWN = 60  # seconds that processes wait for each other at the end


def join(
    distributed: bool | None, coordinator: str, processes: int, process: int, seconds: int
) -> None:
    """Starts `jax.distributed`, if this process is one of several.

    Args:
        distributed: let JAX detect Slurm, Open MPI, Kubernetes or the TPU pod; None: flag not
            given.
        coordinator: instead of that, HOST:PORT of process 0, together with the next two.
        processes: the number of processes.
        process: the number of this one, from 0.
        seconds: how long to wait for the others.

    Raises:
        SettingError: contradictory flags, or a process is missing.
    """
    given = (bool(coordinator), processes > 0, process >= 0)
    if any(given):
        _check(given, distributed, coordinator, processes, process)
        _call_the_roll(coordinator, processes, process, seconds)
        _initialize(f"--coordinator={coordinator}", seconds, coordinator, processes, process)
    elif distributed:
        coordinator, processes, process, devices = _detected(seconds)
        _call_the_roll(coordinator, processes, process, seconds)
        if _one_process_per_host():
            devices = None
        _initialize("--distributed", seconds, coordinator, processes, process, devices)
    elif distributed is None and (launch := _launched_by()):
        raise SettingError(
            f"{launch} processes of this command; give --distributed to train one run on all of "
            "them, or --nodistributed for one run each"
        )


def _initialize(
    flag: str,
    seconds: int,
    coordinator: str,
    processes: int,
    process: int,
    devices: Sequence[int] | None = None,
) -> None:
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
        raise SettingError(
            f"{flag}: all processes reached {coordinator}, but JAX did not start ({error})"
        ) from error


def _one_process_per_host() -> bool:
    """Whether Slurm or Open MPI started one process per host.

    Such a process takes all devices of its host, where JAX would take the first alone.
    """
    environment = os.environ.get
    if environment("OMPI_COMM_WORLD_LOCAL_SIZE") == "1":
        return True
    tasks = environment("SLURM_STEP_NUM_TASKS", "") if "SLURM_STEP_NODELIST" in os.environ else ""
    return bool(tasks) and tasks == environment("SLURM_STEP_NUM_NODES")


def _detected(seconds: int) -> tuple[str, int, int, Sequence[int] | None]:
    """What JAX detects: address of process 0, number of processes, this process, its devices.

    JAX has no public function for that outside `jax.distributed.initialize`.
    """
    from jax._src.clusters import ClusterEnv

    way_out = "give --coordinator, --processes and --process"
    try:
        detected = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, seconds
        )
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise SettingError(
            f"--distributed: JAX cannot detect the cluster ({error}); {way_out}"
        ) from error
    if None in detected[:3]:
        raise SettingError(f"--distributed: JAX finds no cluster here; {way_out}")
    return detected


def _check(
    given: tuple[bool, ...],
    distributed: bool | None,
    coordinator: str,
    processes: int,
    process: int,
) -> None:
    host, _, port = coordinator.rpartition(":")
    if not all(given):
        raise SettingError("--coordinator=HOST:PORT, --processes and --process go together")
    if distributed is not None:
        raise SettingError("--distributed detects the processes; omit it if you give --coordinator")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise SettingError(
            f"--coordinator={coordinator}: must be HOST:PORT, the address of process 0"
        )
    if process >= processes:
        raise SettingError(
            f"--process={process}: must be 0 to {processes - 1} with --processes={processes}"
        )


def _launched_by() -> str:
    """Who started several processes, as in "srun has started 4"; empty for a single one."""
    # Slurm sets the number in batch scripts, too; the list of nodes only within srun.
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NODELIST" in os.environ else ""
    for variable, launcher in ((tasks, "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun")):
        number = os.environ.get(variable, "")
        if number.isdigit() and int(number) > 1:
            return f"{launcher} has started {number}"
    return ""


def _call_the_roll(coordinator: str, processes: int, process: int, seconds: int) -> None:
    """Makes sure that all processes are there before JAX starts.

    If one were missing, JAX would end the others with pages of messages from its C++ code. Process
    0 listens at the coordinator's address and tells the others which are missing.

    Raises:
        SettingError: a process is missing, or process 0 does not answer.
    """
    deadline = time.monotonic() + seconds
    host, _, port = coordinator.rpartition(":")
    if process:
        missing = _answer(host.strip("[]"), int(port), process, deadline)
    else:
        missing = _listen(int(port), processes, deadline)
    if missing is None:
        raise SettingError(
            f"process {process} of {processes}: no answer from {coordinator} within {seconds} s; "
            "start process 0 there, and check that this host can reach that address"
        )
    if missing:
        raise SettingError(
            f"{processes - len(missing)} of {processes} processes reached {coordinator} within "
            f"{seconds} s, missing {', '.join(missing)}; start all of them, or raise --join_seconds"
        )


def _listen(port: int, processes: int, deadline: float) -> list[str]:
    """Process 0: waits for the others, and returns the numbers of the missing ones."""
    dual = dict(family=socket.AF_INET6, dualstack_ipv6=True) if socket.has_dualstack_ipv6() else {}
    try:
        server = socket.create_server(("", port), backlog=processes, **dual)
    except OSError as error:
        raise SettingError(
            f"--coordinator: process 0 cannot use port {port} here ({error.strerror})"
        ) from error
    connections = {}
    with server, contextlib.ExitStack() as stack:
        while len(connections) < processes - 1 and (left := deadline - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(5)
                number = _read_greeting(connection, r"\d{1,6}")
            except OSError:
                continue
            if number and 0 < int(number) < processes:
                connections[int(number)] = connection
        missing = [str(i) for i in range(1, processes) if i not in connections]
        for connection in connections.values():
            with contextlib.suppress(OSError):
                connection.sendall(f"{_GREETING}{','.join(missing)}\n".encode())
    return missing


def _answer(host: str, port: int, process: int, deadline: float) -> list[str] | None:
    """Any other process: the numbers of the missing ones; None if process 0 does not answer."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((host, port), timeout=min(left, 5)) as connection:
                connection.sendall(f"{_GREETING}{process}\n".encode())
                connection.settimeout(max(left, 1) + 5)
                if (numbers := _read_greeting(connection, r"[\d,]*")) is not None:
                    return [number for number in numbers.split(",") if number]
        except OSError:
            pass
        time.sleep(0.1)
    return None


def _read_greeting(connection: socket.socket, pattern: str) -> str | None:
    """The text after the greeting; None from other programs, which may use the port as well."""
    line = connection.makefile(errors="replace").readline(10_000)
    match = re.fullmatch(f"{_GREETING}({pattern})\n", line, re.ASCII)
    return match and match[1]
