"""Commands by their names, their help, and configs found from any folder."""

import runpy
import subprocess
import sys
import tomllib

import pytest
from helpers.runs import TESTS, environment

import ssl_jax
from ssl_jax.__main__ import COMMANDS
from ssl_jax.configs import swav
from ssl_jax.settings import command_line, config_files
from ssl_jax.settings.resolve import SettingError

CONFIGS = TESTS.parent / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.py"))
OWN = "def get_config(variant=None):\n    raise NotImplementedError\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(folder, *args):
    command = [sys.executable, "-m", "ssl_jax", *args]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=120, cwd=folder
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["swav", "swav.py", "configs/swav.py", "./configs/swav.py"])
def test_a_config_is_found_from_any_folder(here, name):
    assert config_files.find(name).resolve() == CONFIGS / "swav.py"


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("swav", "swav.py"),
        ("swav", "configs/swav.py"),
        ("swav.py", "swav.py"),
        ("swav.py", "configs/swav.py"),
        ("configs/swav", "configs/swav.py"),
        ("configs/swav.py", "configs/swav.py"),
        ("mine", "configs/mine.py"),
        ("deep/er/mine.py", "deep/er/mine.py"),
    ],
)
def test_a_file_of_the_working_folder_wins(here, name, own):
    path = here / own
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OWN)
    assert config_files.find(name).resolve() == path


@pytest.mark.parametrize(
    ("given", "takes", "message"),
    [
        ("epochs", ("data.", "evals."), "--config.epochs: only data and evals can be set here; a"),
        ("evals.knn.k", ("data.", "evals.crop"), "k: only data and evals.crop can be set here"),
        ("data.dir", (), "--config.data.dir: a trained encoder keeps its settings; leave it out"),
    ],
)
def test_settings_that_a_command_does_not_follow(given, takes, message, monkeypatch):
    monkeypatch.setattr(command_line, "config_name", lambda: ("swav", "", {given: 1}))
    with pytest.raises(SettingError, match=message):
        command_line.check_overrides(takes)
    command_line.check_overrides((*takes, given))


def test_a_folder_for_the_digits_is_refused(here):
    given = ["--config=swav", "--config.data.dir=pictures", "--workdir=run"]
    code, _, error = call(here, "train", *given)
    assert code == 2
    assert error.startswith("error: data.dir=pictures: the data set is that of the digits")
    assert error.count("\n") == 1
    assert not (here / "run").exists()


def test_a_script_of_the_same_name_is_no_config(here):
    (here / "swav.py").write_text("print('something else')\n")
    assert config_files.find("swav").resolve() == CONFIGS / "swav.py"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swva", "--config=swva: there is no such file; did you mean swav"),
        (
            "elsewhere/swav.py",
            "--config=elsewhere/swav.py: there is no such file; did you mean swav",
        ),
        (
            "zzz",
            "no such file; the configs are anchor_neighbourhood, byol, .*; or give the path",
        ),
        (".", "--config=. is a folder; name one of the config files in it"),
        ("__init__", "there is no such file"),
        ("", "--config is missing; choose one of: anchor_neighbourhood, byol"),
    ],
)
def test_a_config_that_is_not_there(here, name, message):
    with pytest.raises(SettingError, match=message):
        config_files.find(name)


def test_the_name_becomes_the_path_and_keeps_its_variant(here):
    argv, path = command_line.with_config_path(
        ["main", "--config.epochs=3", "--config", "conr:digits+moco"]
    )
    assert argv == ["main", f"--config={CONFIGS / 'conr.py'}:digits+moco", "--config.epochs=3"]
    assert path == CONFIGS / "conr.py"


WRONG = {
    "syntax": ("def get_config(:\n", "--config=own.py, line 1: invalid syntax"),
    "null": ("def get_config():\n    pass\0\n", "own.py"),
    "none": ("x = 3\n", "--config=own.py defines no function get_config"),
    "dict": (
        "def get_config():\n    return dict(a=1)\n",
        "get_config returns a value of type dict, not a ConfigDict",
    ),
    "division": (
        "def get_config():\n    return 1 / 0\n",
        "--config=own.py: ZeroDivisionError: division by zero",
    ),
    "key": ("def get_config():\n    return {}['x']\n", "--config=own.py: KeyError: 'x'"),
    "value": (
        "def get_config():\n    raise ValueError('bad')\n",
        "--config=own.py: ValueError: bad",
    ),
    "import": (
        "import nowhere\ndef get_config():\n    pass\n",
        "ModuleNotFoundError: No module named 'nowhere'",
    ),
    "arguments": ("def get_config(a, b):\n    pass\n", "missing 2 required positional arguments"),
    "no function": ("get_config = 5\n", "'int' object is not callable"),
}


def test_a_wrong_config_file_is_one_line(here):
    """All in one process: each is parsed with flags of its own."""
    for kind, (text, message) in WRONG.items():
        (here / "own.py").write_text(text)
        script = (
            "import sys\nfrom ssl_jax.settings import command_line\n"
            "command_line.parse(['main', '--config=own.py'], command_line.with_base)\n"
        )
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=120, cwd=here
        )
        assert done.returncode == 2, (kind, done.stderr)
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: "), kind
        assert message in line, kind


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--config is missing; choose one of: anchor_neighbourhood, byol"),
        (["--config.epochs=3"], "--config is missing; choose one of: anchor_neighbourhood, byol"),
        (["--config"], "--config is missing"),
        (
            ["--config=swav", "--config=moco"],
            "--config is given twice: --config=swav and --config=moco; leave one out",
        ),
    ],
)
def test_config_is_given_once(flags, message):
    with pytest.raises(SettingError, match=message):
        command_line.with_config_path(["main", *flags])


def test_commands_on_runs_take_no_config():
    with pytest.raises(
        SettingError, match="--config: this command takes the settings of the run; leave it out"
    ):
        command_line.with_run(["evaluate", "--workdir=a", "--config=swav"])


def test_a_copied_config_finds_its_base(here):
    (here / "mine.py").write_text((CONFIGS / "conr.py").read_text())
    assert runpy.run_path(str(here / "mine.py"))["get_config"]("digits+moco").method.name == "moco"


def test_variants_are_listed_the_default_first(here):
    assert list(config_files.available()) == NAMES
    assert config_files.variants(CONFIGS / "swav.py") == list(swav.VARIANTS)
    for name in NAMES:
        assert config_files.variants(CONFIGS / f"{name}.py")[0] == "digits"
    (here / "configs").mkdir()
    (here / "configs" / "broken.py").write_text(OWN + "1 / 0\n")
    (here / "configs" / "quits.py").write_text(OWN + "import sys\nprint('hello')\nsys.exit(7)\n")
    for name in ("broken", "quits"):
        assert config_files.variants(config_files.available()[name]) == []


def test_without_a_command_they_are_listed(tmp_path):
    code, out, err = call(tmp_path)
    assert (code, err) == (0, "")
    for name, (module, _) in COMMANDS.items():
        assert f"  {name} " in out
        assert f"python -m {module}" in out
    assert call(tmp_path, "--version")[1] == f"ssl_jax {ssl_jax.__version__}\n"


def test_an_unknown_command_is_one_line(tmp_path):
    assert call(tmp_path, "tran") == (
        2,
        "",
        "error: 'tran' is not a command; did you mean 'train'?\n",
    )


def test_help_shows_this_projects_flags_and_configs(tmp_path):
    code, out, err = call(tmp_path, "train", "--help")
    assert (code, err) == (0, "")
    assert "--config=NAME[:VARIANT]" in out
    assert str(TESTS.parent / "ssl_jax" / "settings" / "defaults.py") in out
    assert "--workdir" in out
    assert "--join_seconds" in out
    for name in NAMES:
        assert f"  {name} " in out
    assert "imagenet_bs256" in out
    for flag in ("pdb", "logtostderr", "verbosity", "only_check_args", "helpxml"):
        assert flag not in out


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("train", "preview")])
def test_help_of_commands_on_runs(name, tmp_path):
    code, out, err = call(tmp_path, name, "-h")
    assert (code, err) == (0, "")
    assert "--out" in out or "--evals" in out
    assert "verbosity" not in out


def test_mistakes_of_a_command_are_one_line(tmp_path):
    code, out, err = call(tmp_path, "train", "--config=swav:nothing")
    assert (code, out) == (2, "")
    assert (
        err == f"error: variant 'nothing' is not known; choose one of: {', '.join(swav.VARIANTS)}\n"
    )


def test_the_wheel_and_the_console_script_are_declared():
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"ssl-jax": "ssl_jax.__main__:main"}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {
        "configs": "ssl_jax/configs"
    }
    assert (TESTS.parent / "ssl_jax" / "py.typed").is_file()
