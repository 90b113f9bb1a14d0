"""Config files: found by the name that --config gives, and listed with their variants."""

import difflib
import importlib
import importlib.util
from pathlib import Path

from ssl_jax.settings.resolve import SettingError

_FOLDER = "configs"


def find(name: str) -> Path:
    """The file of --config=NAME: `swav`, `swav.py`, `configs/swav.py`, or the path of any other file.

    A file of the working folder wins over the package's own of the same name. A name without `.py` stands for a file
    of the working folder or its `configs/` only where that defines `get_config`.

    Raises:
        SettingError: there is no such file; lists the configs that there are.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix != ".py" and path.parent == Path():
        here = (Path(f"{name}.py"), Path(_FOLDER, f"{name}.py"))
        if own := next((file for file in here if _is_config(file)), None):
            return own
    packaged = _packaged()
    if path.suffix in ("", ".py") and path.parent in (Path(), Path(_FOLDER)) and path.stem in packaged:
        return packaged[path.stem]
    if path.is_dir():
        raise SettingError(f"--config={name} is a folder; name one of the config files in it")
    known = list(available())
    near = difflib.get_close_matches(path.stem, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"the configs are {', '.join(known)}; or give the path of your own"
    raise SettingError(f"--config={name}: there is no such file; {hint}")


def available() -> dict[str, Path]:
    """The configs by name, those of the working folder's `configs/` before the package's own."""
    here = {file.stem: file for file in Path(_FOLDER).glob("*.py") if _is_config(file)}
    return dict(sorted((_packaged() | here).items()))


def variants(path: Path) -> list[str]:
    """Names of the variants of a config file, the default first; none where the file does not list them."""
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return list(getattr(module, "VARIANTS", ()))
    except Exception:  # somebody's unfinished file must not stand in the way of --help
        return []


def _packaged():
    folders = importlib.import_module("ssl_jax.configs").__path__
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.py"))]
    return {file.stem: file for file in files if not file.stem.startswith("_")}


def _is_config(path):
    return path.is_file() and "def get_config(" in path.read_text("utf-8", errors="replace")
