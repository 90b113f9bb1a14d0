"""What the papers report: every command of the table starts, with the flags it is written with."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.runs import environment, quiet, tiny

from ssl_jax import train
from ssl_jax.build import check
from ssl_jax.settings.whole_config import completed

ROOT = Path(__file__).parent.parent


def experiment(name, monkeypatch):
    """A script of experiments/ as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def papers(monkeypatch):
    return experiment("papers", monkeypatch)


def test_no_line_is_empty_and_the_page_has_them_all(papers):
    for item in papers.ITEMS:
        assert all((item.paper, item.what, item.commands, *item.commands)), item
    lines = papers.table().splitlines()
    assert len(lines) == 2 + len(papers.ITEMS)
    begin, end = papers.MARKS
    assert f"{begin}\n{papers.table()}\n{end}" in (ROOT / "docs" / "results.md").read_text("utf-8")
    described = {item.paper for item in papers.ITEMS}
    assert described >= {"SwAV", "LA", "AND", "CoNR", "BYOL", "SimSiam", "MoCo v2"}


def test_every_row_starts(papers, tmp_path, monkeypatch):
    reproduce = experiment("reproduce", monkeypatch)
    started = []

    def start(config, workdir, clock):
        check(completed(config))
        started.append(workdir.name)

    monkeypatch.setattr(reproduce, "_train", start)
    monkeypatch.setattr(reproduce, "read", list)
    rows = [c for c in papers.commands() if c.startswith("python experiments/reproduce.py run ")]
    assert len(rows) == len(reproduce.ROWS)
    for row in rows:
        flags = row.replace("DIR", str(tmp_path)).split()[2:]
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *flags, f"--folder={tmp_path}"])
        reproduce.main()
    assert sorted(started) == sorted(f"{name}-seed0" for name in reproduce.ROWS)


# Each command in a process that is forked where its libraries are imported, up to its work.
COMMANDS = """
import importlib, json, os, runpy, sys
import jax, flax, optax, orbax.checkpoint, sklearn.svm, matplotlib.pyplot, rich.console
from absl import flags
from ssl_jax import build, train
from ssl_jax.data import augment, datasets
from ssl_jax.inference import transfer
from ssl_jax.reporting import make

def started(*args, **options):
    print("started", flush=True)
    os._exit(0)

codes = []
for i, (script, argv) in enumerate(json.load(sys.stdin)):
    child = os.fork()
    if not child:
        os.dup2(os.open(f"{i}.out", os.O_WRONLY | os.O_CREAT), 1)
        os.dup2(os.open(f"{i}.err", os.O_WRONLY | os.O_CREAT), 2)
        code = 0
        try:
            train.run = transfer.Evaluation.__call__ = make.write = started
            if "bench_step" in script:
                build.build = started
            sys.argv = [script, *argv]
            if script.endswith(".py"):
                sys.path.insert(0, os.path.dirname(script))
                runpy.run_path(script, run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 2 * bool(end.code)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException as error:
            print("Traceback", repr(error), file=sys.stderr)
            code = 3
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(codes))
"""


@pytest.mark.slow
def test_every_other_command_starts(papers, tmp_path):
    """It begins its work, or misses the data or the file that stand for the user's."""
    config = tiny("anchors")
    config.epochs = 4
    config.model = dict(name="resnet", depth=10, width=2, stem="cifar")
    config.baselines = False
    train.run(config, tmp_path / "run", console=quiet())
    stand_ins = {
        "RUN2": tmp_path / "run",
        "RUN": tmp_path / "run",
        "DIR": tmp_path / "no_data",
        "FILE": tmp_path / "no_file.safetensors",
        "VOCdevkit": tmp_path / "no_voc",
    }
    calls = []
    for command in papers.commands():
        if "reproduce.py run" in command:
            continue
        words = shlex.split(command)
        assert words[0] == "python"
        words = words[2:] if words[1] == "-m" else [str(ROOT / words[1]), *words[2:]]
        for name, path in stand_ins.items():
            words = [re.sub(rf"\b{name}\b", str(path), word) for word in words]
        words = [word.replace("=configs/", f"={ROOT}/configs/") for word in words]
        calls.append((words[0], words[1:]))
    assert len(calls) > 30
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        input=json.dumps(calls),
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for i, (code, call) in enumerate(zip(json.loads(done.stdout), calls, strict=True)):
        out = (tmp_path / f"{i}.out").read_text()
        err = (tmp_path / f"{i}.err").read_text()
        assert "Traceback" not in err, (call, err)
        if code:
            assert code == 2, (call, err)
            last = err.strip().splitlines()[-1]
            absent = [str(path) for path in stand_ins.values()] + ["runs/anchor_neighbourhood"]
            assert any(path in last for path in absent) or "torch" in last, (call, err)
        else:
            assert "started" in out or "wrote" in out or "written" in out, (call, out, err)
