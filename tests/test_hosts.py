"""A run on several processes equals the run on one, and ends cleanly if one of them fails."""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.runs import TESTS, TINY, environment, quiet, records
from helpers.several_processes import short
from PIL import Image

from ssl_jax import train
from ssl_jax.runtime import failure, processes, rendezvous
from ssl_jax.settings.resolve import SettingError

# What each of the two processes does under the command: a run begun on one process, a run with a
# round of anchors, one that process 1 is asked to stop in its second stage, one on pictures that a
# worker of each decodes, one from a run that process 1 does not see, and one in which process 1 is
# killed.
WORKER = """
import io, json, os, signal, sys, time
from rich.console import Console
from ssl_jax.runtime import command
from ssl_jax.runtime import preemption
from ssl_jax.runs.console import ProgressBar
from ssl_jax import main, train
from ssl_jax.settings.resolve import SettingError
import jax
sys.path.insert(0, {tests!r})
from helpers.several_processes import short
run, update, build, happens, plans = train.run, ProgressBar.update, train.build, {{}}, {{}}

def built(config, **_):  # once per config, to save tracing and compiling
    key = json.dumps(config, sort_keys=True)
    plans[key] = plans.get(key) or build(config)
    return plans[key]

def updated(self, step, *args, **kwargs):
    if step in happens and jax.process_index() == 1:
        os.kill(os.getpid(), happens[step])
    if 8 in happens and step >= 8:
        # JAX takes a moment to tell all processes, on a busy machine many seconds; tiny steps would
        # be over.
        time.sleep(0.5 if step < 12 else 10)
    update(self, step, *args, **kwargs)

def all_of_them(config, folder, **options):
    ProgressBar.update = updated
    for name in ("swav", "anchors", "conr", "streamed", "donor", "dies"):
        if name == "conr":
            happens[8] = signal.SIGTERM
        if name == "dies":
            happens[3] = signal.SIGKILL
        try:
            config = short({{"donor": "swav", "dies": "conr"}}.get(name, name))
            if name == "streamed":
                config.data.update(dir=f"{{folder}}/pictures", store="stream", workers=1)
            if name == "donor":
                config.init_from, config.init_fresh = "swav", True
                os.chdir(folder if jax.process_index() == 0 else "/")
            print(name, run(config, f"{{folder}}/{{name}}", console=Console(width=200)), flush=True)
        except preemption.Stopped as stopped:
            print(name, stopped.signum, stopped, flush=True)
        except SettingError as error:
            print(name, error, flush=True)

train.run, train.build = all_of_them, built
command.start(main.main)
"""


def free_port():
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]


def command(*flags, script=None):
    call = ["-c", script] if script else ["-m", "ssl_jax.main"]
    start = [sys.executable, *call, f"--config={TINY}", *flags]
    alike = environment() | {
        "JAX_ENABLE_COMPILATION_CACHE": "false"
    }  # on CPUs none waits 30 s for another's compiler
    return subprocess.Popen(
        start, env=alike, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The runs on one process."""
    folder = tmp_path_factory.mktemp("single")
    (folder / "pictures").mkdir()
    for i, image in enumerate(
        np.random.default_rng(0).integers(0, 256, (96, 9, 12, 3), dtype=np.uint8)
    ):
        Image.fromarray(image).save(folder / "pictures" / f"{i}.png")
    for name in ("swav", "anchors", "conr", "streamed"):
        config = short(name)
        if name == "streamed":
            config.data.update(dir=str(folder / "pictures"), cache=str(folder / "cache"))
        train.run(config, folder / name, console=quiet())
    return folder


@pytest.fixture(scope="module")
def pair(single, tmp_path_factory):
    """The folder of the runs on two processes, and (exit code, output, errors) of each."""
    folder = tmp_path_factory.mktemp("pair")
    for name in ("swav", "pictures"):
        shutil.copytree(single / name, folder / name)
    shutil.rmtree(folder / "swav" / "checkpoints" / "16")
    where = [f"--coordinator=127.0.0.1:{free_port()}", "--processes=2"]
    script = WORKER.format(tests=str(TESTS))
    both = [command(*where, f"--process={i}", f"--workdir={folder}", script=script) for i in (0, 1)]
    try:
        told = [process.communicate(timeout=500) for process in both]
    finally:
        for process in both:
            process.kill()  # where one of them hangs, a SIGTERM would not end it
    return folder, [(process.returncode, *said) for process, said in zip(both, told)]


def arrays(folder, step):
    """A checkpoint of any number of processes, as numpy arrays."""
    here = ocp.args.StandardRestore(
        fallback_sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
    )
    reader = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    state = reader.restore(folder / "checkpoints" / str(step) / "default", args=here)
    return {
        jax.tree_util.keystr(p): np.asarray(x)
        for p, x in jax.tree_util.tree_leaves_with_path(state)
    }


def assert_close(folder, reference, step=16):
    ours = arrays(folder, step)
    theirs = arrays(reference, step)
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        np.testing.assert_allclose(ours[path], expected, rtol=1e-3, atol=1e-3, err_msg=path)
    losses = [
        {r["step"]: r["train/loss"] for r in records(f) if "train/loss" in r}
        for f in (folder, reference)
    ]
    assert losses[0].keys() == losses[1].keys() == set(range(1, step + 1))
    np.testing.assert_allclose(list(losses[0].values()), list(losses[1].values()), rtol=1e-3)


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(pair, single):
    assert_close(pair[0] / "swav", single / "swav")
    assert "resuming" in pair[1][0][1]


@pytest.mark.slow
def test_two_processes_train_like_one_with_a_refresh_inside(pair, single):
    assert_close(pair[0] / "anchors", single / "anchors")
    found = [r for r in records(pair[0] / "anchors") if "refresh" in r]
    assert [r["step"] for r in found] == [8]


@pytest.mark.slow
def test_each_process_decodes_its_part_of_a_batch_in_a_worker_of_its_own(pair, single):
    assert_close(pair[0] / "streamed", single / "streamed", step=6)


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_stopped_through_one_of_them(pair, single):
    folder, ((_, out, _), (_, other, _)) = pair
    stops = [re.search(r"conr 15 stopped at step (\d+) of 16, saved in", x) for x in (out, other)]
    at, again = (int(stop[1]) for stop in stops)
    assert at == again
    assert 8 <= at < 16
    assert (
        max(int(p.name) for p in (folder / "conr" / "checkpoints").iterdir() if p.name.isdigit())
        == at
    )
    train.run(short("conr"), folder / "conr", console=quiet())
    assert_close(folder / "conr", single / "conr")


@pytest.mark.slow
def test_one_process_writes_and_prints(pair):
    folder, ((_, out, _), (_, other, _)) = pair
    assert "epoch 2/2" in out
    assert [line.split()[0] for line in other.splitlines() if not line.startswith("[Gloo]")] == [
        "swav",
        "anchors",
        "conr",
        "streamed",
        "donor",
    ]
    scores = re.findall(r"^(?:swav|anchors) ({.*})$", out, re.MULTILINE)
    assert len(scores) == 2
    assert scores == re.findall(r"^(?:swav|anchors) ({.*})$", other, re.MULTILINE)
    assert [
        s["processes"] for s in json.loads((folder / "swav" / "environment.json").read_text())
    ] == [1, 2]
    assert len(list((folder / "anchors").glob("events.out.tfevents.*"))) == 1
    steps = [r["step"] for r in records(folder / "anchors") if "train/loss" in r]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_a_run_to_go_on_from_that_one_process_does_not_see(pair):
    for _, out, _ in pair[1]:
        assert (
            "donor process 1 of 2: init_from='swav' holds no checkpoint; give the folder of a run"
            in out
        )


@pytest.mark.slow
def test_when_one_process_dies_the_other_ends_with_a_line(pair):
    (code, _, err), (dead, _, _) = pair[1]
    assert dead == -signal.SIGKILL
    assert code == 1
    assert err.splitlines()[-1].startswith(
        "error: process 0 of 2: lost the other processes; restart all of them"
    )
    assert "Traceback" not in err


def test_processes_that_do_not_come_are_named():
    def roll(process):
        return rendezvous.join(None, f"127.0.0.1:{port}", 3, process, 1)

    port = free_port()
    with ThreadPoolExecutor() as both:
        calls = [both.submit(roll, process) for process in (1, 0)]
        for call in calls:
            with pytest.raises(
                SettingError,
                match=rf"2 of 3 processes reached 127.0.0.1:{port} within 1 s, missing 2; start",
            ):
                call.result()
    with pytest.raises(
        SettingError,
        match=rf"process 2 of 3: no answer from 127.0.0.1:{port} within 1 s; start proc",
    ):
        roll(2)


def test_all_that_come_hear_so():
    port = free_port()
    with ThreadPoolExecutor() as all_:
        calls = [
            all_.submit(rendezvous._call_the_roll, f"127.0.0.1:{port}", 3, process, 20)
            for process in (2, 1, 0)
        ]
        assert [call.result() for call in calls] == [None] * 3


def test_others_who_use_the_port_are_not_taken_for_processes():
    port = free_port()
    with ThreadPoolExecutor() as all_, contextlib.ExitStack() as held:
        first = all_.submit(rendezvous._call_the_roll, f"127.0.0.1:{port}", 2, 0, 20)
        while not first.done():
            with contextlib.suppress(OSError):
                line = held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
                line.sendall("\x80\xff GET / 1\n".encode("latin-1"))
                break
        second = all_.submit(rendezvous._call_the_roll, f"127.0.0.1:{port}", 2, 1, 20)
        assert first.result() is second.result() is None
    with socket.create_server(("127.0.0.1", port)) as server, ThreadPoolExecutor() as other:
        alone = other.submit(rendezvous._answer, "127.0.0.1", port, 1, time.monotonic() + 0.5)
        with server.accept()[0] as line:
            line.sendall(b"HTTP/1.1 400 Bad Request\r\n")
        server.close()
        assert alone.result() is None


FAILING = """
import sys, time
from ssl_jax.runtime import failure
from ssl_jax.runtime import rendezvous
from ssl_jax.settings.resolve import SettingError
address, process, failing = sys.argv[1], *map(int, sys.argv[2:])
rendezvous.join(None, address, 2, process, 60)
try:
    with failure.exit_together():
        if process == failing:
            raise SettingError("/data/x.jpg cannot be read (Resource temporarily unavailable)")
        time.sleep(100)
except SettingError as error:
    failure.fail(error, 2)
"""


@pytest.mark.parametrize("failing", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_when_one_process_fails_the_other_ends_with_its_line(failing):
    port = free_port()

    def flags(process):
        return (f"127.0.0.1:{port}", str(process), str(failing))

    both = [
        subprocess.Popen(
            [sys.executable, "-c", FAILING, *flags(i)],
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    told = [process.communicate(timeout=100)[1].splitlines() for process in both]
    line = f"process {failing} of 2: /data/x.jpg cannot be read (Resource temporarily unavailable)"
    other = 1 - failing
    assert told[failing][-1] == f"error: {line}"
    assert told[other][-1] == f"error: process {other} of 2: ended because of {line}"
    assert not any("Fatal" in said or "Traceback" in said for said in told[0] + told[1])
    assert [both[i].returncode for i in (failing, other)] == [2, 1]


def test_connections_that_break_are_lost_processes(as_one_of_two, monkeypatch, capsys):
    monkeypatch.setattr(failure, "_leaving", threading.Lock())
    monkeypatch.setattr(failure.os, "_exit", sys.exit)
    with pytest.raises(SystemExit):
        failure.fail(RuntimeError("gloo: connection closed"), 1)
    assert (
        "error: process 1 of 2: lost the other processes; restart all of them"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            (None, "host:80", 2, -1),
            "--coordinator=HOST:PORT, --processes and --process go together",
        ),
        ((None, "", 2, 0), "go together"),
        ((None, "host", 2, 0), "--coordinator=host: must be HOST:PORT"),
        ((None, "host:80", 2, 2), "--process=2: must be 0 to 1 with --processes=2"),
        ((True, "host:80", 2, 0), "omit it if you give --coordinator"),
        ((True, "", 0, -1), "--distributed: JAX finds no cluster here"),
    ],
)
def test_flags_that_do_not_go_together(flags, message):
    with pytest.raises(SettingError, match=message):
        rendezvous.join(*flags, 1)


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (0, "1 of 2 processes reached .*:{0} within 1 s, missing 1"),
        (1, "no answer from .*:{0} within 1 s"),
    ],
)
def test_processes_of_a_cluster_that_do_not_come_are_named(monkeypatch, process, message):
    port = free_port()
    cluster = dict(COMM_WORLD_SIZE="2", COMM_WORLD_RANK=process, COMM_WORLD_LOCAL_RANK=process)
    cluster["MCA_orte_hnp_uri"] = (
        "1531576320.0;tcp://127.0.0.1:34911"  # Open MPI's own; JAX takes the address
    )
    for name, value in cluster.items():
        monkeypatch.setenv(f"OMPI_{name}", str(value))
    monkeypatch.setenv("OMPI_VERSION", "4.1.6")
    monkeypatch.setenv("JAX_COORDINATOR_PORT", str(port))
    with pytest.raises(SettingError, match=message.format(port)):
        rendezvous.join(True, "", 0, -1, 1)


@pytest.mark.parametrize(("tasks", "devices"), [("2", None), ("4", [1])])
def test_one_task_a_machine_takes_all_of_its_devices(monkeypatch, tasks, devices):
    cluster = dict(
        JOB_ID="7",
        STEP_NODELIST="node[1-2]",
        NTASKS=tasks,
        PROCID="1",
        LOCALID="1",
        STEP_NUM_TASKS=tasks,
    )
    for name, value in (cluster | dict(STEP_NUM_NODES="2")).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    started = []
    monkeypatch.setattr(rendezvous, "_call_the_roll", lambda *given: None)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: started.append(given))
    rendezvous.join(True, "", 0, -1, 1)
    assert started == [("node1:61447", int(tasks), 1, devices)]


def test_many_tasks_are_not_taken_for_many_runs(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    with pytest.raises(
        SettingError, match="mpirun has started 4 processes of this command; give --distributed"
    ):
        rendezvous.join(None, "", 0, -1, 1)
    rendezvous.join(False, "", 0, -1, 1)
    assert jax.process_count() == 1


@pytest.fixture
def as_one_of_two(monkeypatch):
    """This process in the place of process 1 of 2, whose other one says what it is given."""
    said = []
    monkeypatch.setattr(processes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.jax, "process_index", lambda: 1)
    monkeypatch.setattr(processes, "meet", lambda: None)
    monkeypatch.setattr(processes, "gather", lambda text: [said.pop(0), text])
    monkeypatch.setattr(processes, "share", lambda value: said.pop(0))
    return said


def test_an_error_of_one_process_is_that_of_all(as_one_of_two):
    def fails():
        raise SettingError("data.dir is not there")

    for other, message in (
        ("", "process 1 of 2: data.dir is not there"),
        ("data.dir is not there", "^data.dir is not"),
    ):
        as_one_of_two.append(other)
        with pytest.raises(processes.Agreed, match=message):
            processes.agree(fails)
    as_one_of_two.append("no space left")
    with pytest.raises(processes.Agreed, match="process 0 of 2: no space left"):
        processes.agree(lambda: 1)
    as_one_of_two.append("")
    assert processes.agree(lambda: 1) == 1


def test_processes_that_differ_are_told_of(as_one_of_two, tmp_path):
    as_one_of_two.append("abc")
    with pytest.raises(processes.Agreed, match="process 1 of 2 differs from process 0: its images"):
        processes.same("abd", "its images")
    as_one_of_two.extend(["token", ""])
    with pytest.raises(
        processes.Agreed, match="is not the folder of process 0; give one that all hosts share"
    ):
        processes.check_shared(tmp_path, seconds=0.2)
