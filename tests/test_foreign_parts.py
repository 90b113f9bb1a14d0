"""Methods, positives, evaluators, backbones and data sets of somebody else's package, by their dotted names."""

import subprocess
import sys

import numpy as np
import pytest
from helpers.runs import TESTS, environment, quiet

import ssl_jax
from ssl_jax import train
from ssl_jax.settings import defaults
from ssl_jax.settings.resolve import SettingError, choose

PARTS = {
    "method": "plugins.methods.target",
    "positives": "plugins.positives.same_sign",
    "model": "plugins.models.tiny",
    "data": "plugins.data.stripes",
    "evals.mine": "plugins.evaluation.nearest_class",
}


def get_config():
    config = defaults.get_config()
    config.epochs, config.batch_size, config.baselines = 2, 32, False
    config.method = dict(name=PARTS["method"], momentum=0.5)
    config.positives.name, config.model.name, config.data.name = PARTS["positives"], PARTS["model"], PARTS["data"]
    config.model.width = 4
    config.head.update(dim=8, hidden=())
    config.augment = dict(two=defaults.digits_view())
    config.evals = dict(mine=dict(name=PARTS["evals.mine"], feature="backbone"))
    config.best = "eval/mine/top1"
    return config


def test_a_run_of_foreign_parts_trains_and_is_read_back(tmp_path):
    scores = train.run(get_config(), tmp_path / "run", console=quiet())
    assert 0.5 <= scores["eval/mine/top1"] <= 1
    encoder = ssl_jax.load_encoder(tmp_path / "run")
    assert encoder(np.zeros((3, 8, 8, 1), np.uint8)).shape[0] == 3
    console = quiet()
    assert train.run(get_config(), tmp_path / "run", console=console) == scores
    assert "is finished" in console.file.getvalue()


@pytest.mark.slow
def test_commands_find_modules_where_they_are_started(tmp_path):
    (tmp_path / "mine").mkdir()
    for part in ("methods/target", "positives/same_sign", "models/tiny", "data/stripes", "evaluation/nearest_class"):
        path = tmp_path / "mine" / f"{part.rpartition('/')[2]}.py"
        path.write_text((TESTS / "plugins" / f"{part}.py").read_text())
    source = (TESTS / "test_foreign_parts.py").read_text()
    start, end = source.index("PARTS = {"), source.index("def test_a_run_of")
    text = "from ssl_jax.settings import defaults\n" + source[start:end]
    for room in ("methods", "positives", "models", "data", "evaluation"):
        text = text.replace(f"plugins.{room}.", "mine.")
    (tmp_path / "own.py").write_text(text)
    call = lambda *args: subprocess.run(
        [sys.executable, "-m", *args],
        env=environment() | {"PYTHONPATH": str(TESTS.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    done = call("ssl_jax.main", "--config=own.py", "--workdir=run")
    assert done.returncode == 0, done.stderr
    done = call("ssl_jax.evaluate", "--workdir=run")
    assert done.returncode == 0, done.stderr
    assert "mine/top1" in done.stdout


WRONG = {
    "nowhere.at_all": "method.name='nowhere.at_all': there is no module 'nowhere'; start where it lies, or install",
    "plugins.methods.lost": "there is no module 'plugins.methods.lost'",
    "a..b": "method.name='a..b'",
    ".a": "method.name='.a' is not the name of a module",
    "plugins.models.tiny": "tiny.py has no Method; end it with Method = ...",
    "lacking": "is not known; choose one of: .*; or give a module of your own by its dotted name",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name_is_one_line(name):
    config = get_config()
    config.method.name = name
    with pytest.raises(SettingError, match=WRONG[name]) as caught:
        train.build(config)
    assert len(str(caught.value)) < 500


def test_a_module_that_lacks_what_it_imports_says_so(tmp_path, monkeypatch):
    (tmp_path / "needy_part").mkdir()
    (tmp_path / "needy_part" / "method.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingError, match="it imports 'not_there_at_all', which is not installed"):
        choose("ssl_jax.methods", "needy_part.method", "method.name", "Method")


def test_params_without_a_network_are_refused(monkeypatch):
    method = choose("ssl_jax.methods", PARTS["method"], "method.name", "Method")
    init = method.init

    def flat(self, key, batch):
        params, *rest = init(self, key, batch)
        return params["network"], *rest

    monkeypatch.setattr(method, "init", flat)
    with pytest.raises(SettingError, match="init of MovingTarget returns params without a 'network'"):
        train.build(get_config())
