"""Imports point down only."""

import ast
from pathlib import Path

import pytest

import ssl_jax

ROOT = Path(ssl_jax.__file__).parent
BESIDE = {"settings", "schedules", "optim", "sharding", "checkpoint", "writer", "signals", "defaults"}
MAY_IMPORT = {
    "ops": {"ops"},
    "settings": set(),
    "schedules": {"ops"},
    "optim": {"ops", "settings"},
    "sharding": {"ops"},
    "checkpoint": {"ops", "settings", "sharding"},
    "writer": {"ops", "settings"},
    "signals": set(),
    "hosts": {"ops", "settings"},
    "ending": {"hosts", "settings"},
    "joining": {"settings"},
    "defaults": {"settings"},
    "data": {"data", "ops", "settings"},
    "models": {"models", "ops"},
    "interface": {"models", "ops"},
    "boundary": {"ops"},
    "positives": {"boundary", "interface", "ops", "settings"},
    "banks": {"ops"},
    "targets": {"models", "ops"},
    "methods": {"interface", "positives", "banks", "targets", "models", "ops", "settings"},
    "evaluation": {"evaluation", "ops", "data", "interface", "optim", "settings"},
    "encoder": {"compilation", "methods", "interface", "data", "models", "ops", "settings", "sharding"},
    "stages": {"methods", "boundary", "positives", "models", "data", "ops"} | BESIDE,
    "build": {"stages", "positives", "interface", "evaluation", "data", "ops"} | BESIDE,
    "scoring": {"data", "stages", "build", "encoder", "hosts", "interface", "sharding", "writer"},
    "refreshing": {"scoring", "stages", "interface", "data"},
    "folder": {"data", "defaults", "settings", "writer"},
    "environment": {"writer"},
    "watch": set(),
    "feed": {"data", "sharding"},
    "adoption": {"build", "checkpoint", "folder", "ops", "settings", "sharding", "writer"},
    "telling": {"build", "environment", "feed", "hosts", "scoring", "watch", "writer"},
    "train": {
        "compilation",
        "feed",
        "folder",
        "hosts",
        "refreshing",
        "scoring",
        "telling",
        "adoption",
        "stages",
        "build",
        "encoder",
        "interface",
        "data",
        "ops",
    }
    | BESIDE,
    "restored": {"build", "checkpoint", "data", "defaults", "folder", "interface", "settings", "sharding", "writer"},
    "transfer": {"build", "folder", "interface", "ops", "restored", "scoring", "settings", "sharding"},
    "clusters": {"ops"},
    "sheets": set(),
    "cluster_files": {"clusters", "data", "evaluation", "settings", "sheets"},
    "pretrained": {"build", "encoder", "models", "ops", "restored", "settings"},
    "recorded": {"restored"},  # a config file
    "labelled": {"build", "cluster_files", "clusters", "data", "pretrained", "restored", "settings"},
    "assign": {"cli", "cluster_files", "compilation", "labelled", "ops", "restored", "writer"},
    "snippets": {"models"},
    "export": {"cli", "ops", "pretrained", "restored", "snippets"},
    "evaluate": {"cli", "compilation", "ops", "restored", "scoring", "settings", "transfer", "writer"},
    "figures": {"figures", "ops"},
    "reporting": {
        "reporting",
        "figures",
        "evaluation",
        "scoring",
        "restored",
        "build",
        "folder",
        "environment",
        "interface",
        "ops",
        "settings",
        "writer",
    },
    "report": {"cli", "compilation", "reporting", "settings"},
    "cli": {"settings"},
    "compilation": set(),
    "main": {"cli", "compilation", "defaults", "ending", "hosts", "joining", "settings", "signals", "train"},
    "data/preview": {"cli", "build", "stages", "data", "settings"},  # a command, beside what it shows
}


def imported(path):
    """Rooms of ssl_jax that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ssl_jax":
            parts = node.module.split(".")[1:]
            yield from (parts[:1] or [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("ssl_jax."))


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    name = str(path.relative_to(ROOT).with_suffix(""))
    room = name if name in MAY_IMPORT else name.split("/")[0]
    assert room in MAY_IMPORT, f"{room} has no place in the layers yet"
    assert set(imported(path)) <= MAY_IMPORT[room]


def test_methods_do_not_know_each_other():
    for path in (ROOT / "methods").glob("*.py"):
        assert "methods" not in set(imported(path))


def test_only_mesh_names_an_axis():
    for path in FILES:
        if path.name != "mesh.py":
            text = path.read_text()
            assert "axis_name" not in text
            assert "PartitionSpec" not in text
            assert "psum" not in text
