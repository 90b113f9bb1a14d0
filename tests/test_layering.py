"""Imports point down only, and go in no circle."""

import ast
from pathlib import Path

import pytest

import ssl_jax

ROOT = Path(ssl_jax.__file__).parent
# From the bottom up: a room imports only from layers below its own, and from itself.
LAYERS = (
    {"ops", "interface", "settings"},
    {"models", "optim", "positives", "runtime", "figures"},
    {"methods", "data"},
    {"evaluation", "stages"},
    {"settings.defaults", "settings.whole_config", "settings.old_records"},  # what all parts take
    {"build"},
    {"runs"},
    {"inference"},
    {"training", "clustering", "reporting"},
    {"train"},
    {"main", "evaluate", "assign", "embed", "report", "export", "preview"},
)
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}


def layer_of(module):
    """The layer of ("settings", "defaults"), its own or that of its room."""
    return LAYER.get(".".join(module), LAYER[module[0]])


OUTSIDE = {
    "__init__",
    "__main__",
    "configs",
}  # the package, its list of commands, and the configs of users


def modules_imported(path):
    """Modules of ssl_jax that a file imports anywhere, as ("ops", "mesh") or ("train",)."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "ssl_jax"
        ):
            parts = tuple(node.module.split(".")[1:])
            for alias in node.names:
                yield from _files(parts, alias.name)
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from (tuple(name[1:]) for name in names if name[0] == "ssl_jax" and name[1:])


def _files(parts, name):
    """`from ssl_jax.<parts> import <name>` as the module that it loads."""
    deeper = ROOT.joinpath(*parts, name)
    if deeper.with_suffix(".py").is_file() or (deeper / "__init__.py").is_file():
        yield (*parts, name)
    elif parts:
        yield parts


FILES = sorted(
    p for p in ROOT.rglob("*.py") if p.relative_to(ROOT).parts[0].removesuffix(".py") not in OUTSIDE
)


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    room = room_of(path)
    assert room in LAYER, f"{room} has no place in the layers yet"
    for module in modules_imported(path):
        own = layer_of(path.relative_to(ROOT).with_suffix("").parts)
        assert module[0] == room or layer_of(module) < own, f"{room} imports {'.'.join(module)}"


def test_no_room_is_named_that_is_not_there():
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}
    assert {name for name in LAYER if "." not in name} == {room_of(path) for path in FILES}
    assert {name for name in LAYER if "." in name} <= modules


def test_modules_import_in_no_circle():
    """Within a room, too."""

    def name(path):
        return path.relative_to(ROOT).with_suffix("").parts

    below = {
        name(path): set(modules_imported(path)) - {name(path)}
        for path in FILES
        if path.name != "__init__.py"
    }
    while below:
        free = [module for module, needed in below.items() if not needed & set(below)]
        assert free, f"a circle among {sorted('.'.join(m) for m in below)}"
        below = {module: needed for module, needed in below.items() if module not in free}


def test_methods_do_not_know_each_other():
    for path in (ROOT / "methods").glob("*.py"):
        assert {m[1] for m in modules_imported(path) if m[0] == "methods"} <= {"common"}


def test_only_settings_and_build_know_configs():
    """Below them settings are dataclasses, or plain dicts on their way to one."""
    for path in FILES:
        name = "/".join(path.relative_to(ROOT).parts)
        allowed = name.startswith("settings/") or name in (
            "build.py",
            "runs/restore.py",
        )  # which makes one for flags
        assert allowed or "ConfigDict" not in path.read_text("utf-8").replace("a ConfigDict", ""), (
            name
        )


def test_only_mesh_names_an_axis():
    for path in FILES:
        if path.name != "mesh.py":
            text = path.read_text()
            assert "axis_name" not in text
            assert "PartitionSpec" not in text
            assert "psum" not in text


def test_only_figures_know_matplotlib():
    for path in FILES:
        assert room_of(path) == "figures" or "matplotlib" not in path.read_text("utf-8"), path
