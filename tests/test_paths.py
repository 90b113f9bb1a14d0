"""Bad paths from users: an unknown home, too long, impossible characters, or not a file."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from helpers.runs import TINY, environment, tiny

from ssl_jax.build import build
from ssl_jax.data import cache, datasets
from ssl_jax.inference.pretrained import load_encoder
from ssl_jax.models import weight_files
from ssl_jax.reporting import record
from ssl_jax.runs import provenance, restore, run_folder, warm_start
from ssl_jax.settings import config_files
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import encodable

BAD = {
    "~nobody99/x": r"=~nobody99/x cannot be used \(there is no such user\); give another path",
    "/tmp/a\0b": r"=/tmp/a\?b cannot be used \(no path can have such a character\); give another",
    "/tmp/\ud800": r"=/tmp/\? cannot be used \(no path can have such a character\)",
    "/tmp/"
    + "a" * 256: r"=/tmp/a{72}\.\.\. cannot be used \(File name too long\); give another path",
    "/tmp/"
    + "a/" * 2500: r"=/tmp/(a/){36}\.\.\. cannot be used \(File name too long\); give another path",
}


def from_another(path):
    config = tiny("instance")
    config.init_from = path
    warm_start.find(build(config), Path("nowhere"))


USES = {
    **{
        f"data.dir of {name}": lambda path, name=name: datasets.load(name, dir=path)
        for name in ("folder", "array")
    },
    "data.dir of cifar10": lambda path: datasets.load("cifar10", dir=path),
    "data.dir of tfds": lambda path: datasets.load("tfds:mnist", dir=path),
    "data.cache": lambda path: cache.root(datasets.Source(cache=path)),
    "path of an encoder": load_encoder,
    "path of weights": lambda path: weight_files.read(path + ".safetensors"),
    "--workdir": restore.config_of,
    "--workdir of a run": lambda path: restore.open_run(path, None),
    "init_from": from_another,
    "--config": config_files.find,
    "RUN of a record": lambda path: record.read([path]),
}


@pytest.mark.parametrize("path", BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("use", USES)
def test_paths_that_no_file_can_have_are_one_line(use, path):
    message = (
        BAD[path]
        .replace("nobody99/x", "nobody99/x(.safetensors)?")
        .replace("b cannot", "b(.safetensors)? cannot")
    )
    message = message.replace(r"\? cannot", r"\?(.safetensors)? cannot")
    with pytest.raises(
        (SettingError, weight_files.WeightsError), match=f"^{use.split()[0]}{message}"
    ) as caught:
        USES[use](path)
    assert "\n" not in str(caught.value)


@pytest.fixture
def command():
    """Loads the module of a command by name; restores the flags, which are global, afterwards."""
    kept = {name: flags.FLAGS[name] for name in flags.FLAGS}

    def load(name):
        for flag in {
            "out",
            "workdir",
            "checkpoint",
            "overwrite",
            "images",
            "evals",
            "head",
            "clusters",
            "by",
            "sheets",
            "append",
            "names",
            "folders",
            "folders_by",
            "parquet",
            "use",
            "labelled",
            "folder",
            "preset",
            "density_images",
        } & set(flags.FLAGS):
            delattr(flags.FLAGS, flag)
        spec = importlib.util.find_spec(f"ssl_jax.{name}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        flags.FLAGS.mark_as_parsed()
        return module

    parsed = flags.FLAGS.is_parsed()
    yield load
    if not parsed:
        flags.FLAGS.unparse_flags()
    for name in [name for name in flags.FLAGS if flags.FLAGS[name] is not kept.get(name)]:
        delattr(flags.FLAGS, name)
    for name in set(kept) - set(flags.FLAGS):
        flags.FLAGS[name] = kept[name]


@pytest.mark.parametrize("name", ["assign", "export", "preview", "report"])
def test_files_to_write(name, command, monkeypatch):
    module = command(name)
    monkeypatch.setattr(module, "OUT", Given("~nobody99/x"))
    with pytest.raises(
        SettingError, match=r"^--out=~nobody99/x cannot be used \(there is no such user\)"
    ):
        module.target(["x"]) if name == "report" else module.main()


def test_runs_of_a_report(command, monkeypatch):
    module = command("report")
    with pytest.raises(SettingError, match="^RUN=~nobody99/x cannot be used"):
        module.with_runs(["report", "~nobody99/x"])
    monkeypatch.setenv("HOME", "/home/own")
    assert module.with_runs(["report", "~/r"])[-1] == "/home/own/r"


class Given:
    """A flag."""

    def __init__(self, value):
        self.value = value


def test_a_home_is_expanded(command, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs/a", "--workdir") == tmp_path / "runs" / "a"
    assert cache.root(datasets.Source(cache="~/c")) == tmp_path / "c"
    assign = command("assign")
    monkeypatch.setattr(assign, "OUT", Given("~/nowhere/c.csv"))
    monkeypatch.setattr(assign, "OVERWRITE", Given(False))
    with pytest.raises(
        SettingError,
        match=f"--out={tmp_path}/nowhere/c.csv: give a file that ends in .csv, in a folder",
    ):
        assign.main()


@pytest.mark.slow
def test_a_run_in_a_home(tmp_path):
    call = [
        sys.executable,
        "-m",
        "ssl_jax.main",
        f"--config={TINY}:instance",
        "--workdir=~/a",
        "--config.epochs=1",
    ]
    subprocess.run(
        call, env=environment() | {"HOME": str(tmp_path)}, check=True, cwd=tmp_path, timeout=300
    )
    assert (tmp_path / "a" / "config.json").exists()
    assert not (tmp_path / "~").exists()


def test_what_is_no_file_is_not_read(command, tmp_path):
    for name in ("config.json", "evaluations.jsonl"):
        (tmp_path / name).symlink_to("/dev/null")
    with pytest.raises(
        SettingError, match=r"config.json is damaged \(it is not a regular file\); repair it"
    ):
        run_folder.read_config(tmp_path)
    with pytest.raises(
        SettingError,
        match="evaluations.jsonl, where the scores go, is not a regular file; move it away",
    ):
        command("evaluate").append(tmp_path / "evaluations.jsonl", "")


def test_a_record_of_starts_that_is_no_file_or_too_deep_is_none(tmp_path, monkeypatch):
    (tmp_path / "environment.json").symlink_to("/dev/null")
    monkeypatch.setattr(Path, "read_text", lambda *args: pytest.fail("it was read"))
    assert provenance.read(tmp_path) == []
    monkeypatch.undo()
    (tmp_path / "environment.json").unlink()
    (tmp_path / "environment.json").write_text("[" * 99_999)
    assert provenance.read(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("caf\udce9", r"caf\xe9"), ("\ud800", r"\ud800"), ("café\n", "café\n"), (Path("a"), "a")],
)
def test_text_that_utf_8_can_hold(text, expected):
    assert encodable(text) == expected
