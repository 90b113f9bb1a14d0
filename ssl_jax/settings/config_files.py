"""Config files: found by the name that --config gives, and listed with their variants."""

import ast
import contextlib
import difflib
import importlib
import importlib.util
import io
import re
from pathlib import Path

from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError

_FOLDER = "configs"


def find(name: str) -> Path:
    """The file of --config=NAME: `swav`, `swav.py`, `configs/swav.py`, or the path of any file.

    A file in the working folder takes precedence over the package's file of the same name. A short
    name matches a file in the working folder or its `configs/` only if the file defines
    `get_config`.

    Raises:
        SettingError: there is no such file; lists the available configs.
    """
    if not name:
        raise SettingError(f"--config is missing; choose one of: {', '.join(available())}")
    path = user_path(name, "--config")
    if path.is_file():
        return path
    if path.suffix in ("", ".py") and path.parent in (Path(), Path(_FOLDER)):
        candidates = [Path(_FOLDER, f"{path.stem}.py")]
        if path.parent == Path():
            candidates.insert(0, Path(f"{path.stem}.py"))
        for candidate in candidates:
            if _is_config(candidate):
                return candidate
        if path.stem in _packaged():
            return _packaged()[path.stem]
    if path.is_dir():
        raise SettingError(f"--config={name} is a folder; name one of the config files in it")
    names = list(available())
    near = difflib.get_close_matches(path.stem, names, n=1)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f"the configs are {', '.join(names)}; or give the path of your own"
    )
    raise SettingError(f"--config={name}: there is no such file; {hint}")


def check(path: Path) -> None:
    """Checks, without running it, that a file is Python and defines `get_config`.

    Raises:
        SettingError: it cannot be read or parsed, or does not define the function.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError as error:
        raise SettingError(f"--config={path}, line {error.lineno}: {error.msg}") from error
    except (ValueError, OSError) as error:
        raise SettingError(f"--config={path} cannot be read ({error})") from error
    names = {name for node in tree.body for name in _names(node)}
    if "get_config" not in names and "*" not in names:
        raise SettingError(
            f"--config={path} defines no function get_config; write one that returns the settings"
        )


def _names(node: ast.stmt) -> list[str]:
    """Names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.ImportFrom | ast.Import):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [
        name
        for child in ast.iter_child_nodes(node)
        if isinstance(child, ast.stmt)
        for name in _names(child)
    ]


def available() -> dict[str, Path]:
    """Config files by name; the working folder's `configs/` takes precedence over the package."""
    local = {file.stem: file for file in Path(_FOLDER).glob("*.py") if _is_config(file)}
    return dict(sorted((_packaged() | local).items()))


def variants(path: Path) -> list[str]:
    """Names of the variants of a config file, default first; empty if the file lists none."""
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            spec.loader.exec_module(module)
        return list(map(str, getattr(module, "VARIANTS", ())))
    except (Exception, SystemExit):  # an unfinished config file must not break --help
        return []


def _packaged() -> dict[str, Path]:
    folders = importlib.import_module("ssl_jax.configs").__path__
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.py"))]
    return {file.stem: file for file in files if not file.stem.startswith("_")}


def _is_config(path: Path) -> bool:
    text = path.read_text("utf-8", errors="replace") if path.is_file() else ""
    return re.search(r"^def get_config\(", text, re.MULTILINE) is not None
