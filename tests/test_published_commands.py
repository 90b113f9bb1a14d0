"""The commands of docs/results.md that measure a number on the finished run of a row."""

import ast
import shlex
import sys
from pathlib import Path

import pytest

from ssl_jax.build import check
from ssl_jax.settings.defaults import evaluator
from ssl_jax.settings.whole_config import completed

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "experiments"))

import published  # noqa: E402
import reproduce  # noqa: E402

SCORES = [(name, score) for name, row in published.ROWS.items() for score in row.scores]


def test_numbers_with_a_command():
    numbers = {name: score.published for name, score in SCORES}
    assert numbers["local_aggregation-imagenet-resnet50-200"] == "linear 60.2"
    assert "53.9" in numbers["swav-imagenet-800"]
    assert "70.2" in numbers["swav-imagenet-800"]


@pytest.mark.parametrize(("name", "score"), SCORES, ids=[f"{n}-{s.evaluator}" for n, s in SCORES])
def test_a_command_is_in_the_table_and_its_flags_fit_the_row(name, score):
    row = published.ROWS[name]
    line = reproduce._score_line(name, row, score)
    assert line in (ROOT / "docs" / "results.md").read_text("utf-8")
    command = shlex.split(line.split("`")[5])
    assert command[:3] == ["python", "-m", "ssl_jax.evaluate"]
    assert command[3] == f"--workdir=runs/reproduce/{name}-seed0"
    assert command[4] == f"--evals={score.evaluator}"
    prefix = f"--config.evals.{score.evaluator}."
    given = {}
    for flag in command[5:]:
        setting, _, text = flag.removeprefix(prefix).partition("=")
        is_word = text.isalpha()
        given[setting] = text if is_word else ast.literal_eval(text)
    assert given == score.settings
    config = reproduce.load(row.config, row.settings)
    config.evals = {score.evaluator: evaluator(score.evaluator) | given, "crop": config.evals.crop}
    config.best = f"eval/{score.evaluator}/"
    config.data.dir = str(ROOT)
    check(completed(config))
