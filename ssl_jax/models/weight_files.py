"""Weight files, `.safetensors` and PyTorch's, read without running code in them."""

import json
import os
import re
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssl_jax.settings.machine import memory
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_NOTES = "ssl_jax"


class WeightsError(ValueError):
    """A weight file that cannot be used; the message names the file and the first wrong tensor."""


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a `.safetensors`, `.pth`, `.pt` or `.tar` file by name, without running code.

    Raises:
        WeightsError: the file does not exist, or cannot be read safely.
    """
    try:
        path = user_path(path, "path")
    except SettingError as error:
        raise WeightsError(str(error)) from error
    if not path.is_file():
        raise WeightsError(f"{printable(path)}: no such file or run folder")
    _check_room(path, path.stat().st_size)
    try:
        tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
        if odd := next((name for name in tensors if not name.isprintable()), None):
            raise WeightsError(
                f"{path} has a tensor with the name {printable(odd)[:80]!r}; "
                "no network has such names"
            )
        return tensors
    except WeightsError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        if objects := re.search(r"GLOBAL ([\w.]+)", message):
            raise WeightsError(
                f"{path} holds Python objects ({objects[1]}), and reading those could run any "
                f"code; if you trust the file, save its tensors alone: {_conversion(path)}"
            ) from error
        boilerplate = "^Weights only load failed.*? error: | Check the documentation .*"
        reason = re.sub(boilerplate, "", message) or type(error).__name__
        raise WeightsError(
            f"{path} is not a weight file that can be read safely ({reason})"
        ) from error


def _conversion(path: Path) -> str:
    """The command that saves the tensors of a PyTorch file without its Python objects."""
    new = path.with_name(f"{path.name.split('.')[0]}_tensors.pth")
    code = (
        "import torch; from ssl_jax.models.weight_files import tensors_of; "
        f"torch.save(tensors_of(torch.load({str(path)!r}, weights_only=False)), {str(new)!r})"
    )
    return f"python -c {shlex.quote(code)}"


def _check_room(path: Path, size: int) -> None:
    """Raises WeightsError if `size` bytes exceed the machine's memory."""
    if size > (room := memory()):
        raise WeightsError(
            f"{path} holds {size:,} bytes of weights, and this machine has {room:,} bytes of memory"
        )


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return {name: np.asarray(x, np.float32) for name, x in load_file(path).items()}


def _check_stored(path: Path) -> None:
    """Refuses a .zip with compressed members, which could fill the memory from a small file.

    torch.save never compresses.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = next(
        (x for x in members if x.compress_type != zipfile.ZIP_STORED or x.flag_bits & 1), None
    )
    if packed:
        raise WeightsError(
            f"{path} is a compressed or encrypted archive ({printable(packed.filename)[:80]}), "
            "which torch.save never makes; save the tensors again with torch.save"
        )
    _check_room(path, sum(x.file_size for x in members))


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    _check_stored(path)
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path}: only PyTorch reads such files; pip install torch, or give a .safetensors file"
        ) from error
    content = torch.load(path, map_location="cpu", weights_only=True)
    try:
        tensors = tensors_of(content)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    if not tensors:
        raise WeightsError(
            f"{path} holds no tensors by name; give a state_dict, alone or in a checkpoint"
        )
    # Counted again, because several tensors may be large views of a small one.
    _check_room(path, sum(4 * x.numel() for x in tensors.values()))
    return {name: x.float().numpy() for name, x in tensors.items()}


def tensors_of(content: Any) -> dict[str, Any]:
    """The tensors in a checkpoint that PyTorch has loaded, by name.

    Those of a "state_dict" or "model" if there is one. Dicts within dicts are named by the way to
    each tensor ("base_model.model.trunk.conv1.weight"); other keys than strings are left out.

    Raises:
        WeightsError: a state_dict that holds itself.
    """
    import torch

    seen = set()
    while isinstance(content, dict) and isinstance(
        inner := content.get("state_dict", content.get("model")), dict
    ):
        seen.add(id(content))
        if id(inner) in seen:
            raise WeightsError("its state_dict holds itself; save the state_dict alone")
        content = inner
    tensors = {}
    waiting = [("", content)]
    seen = set()
    while waiting:
        prefix, x = waiting.pop()
        if isinstance(x, torch.Tensor):
            tensors[prefix.removesuffix(".")] = x
        elif isinstance(x, dict) and id(x) not in seen:
            seen.add(id(x))
            inner = [(f"{prefix}{name}.", y) for name, y in x.items() if isinstance(name, str)]
            waiting += reversed(inner)
    tensors.pop("", None)
    return tensors


def notes(path: str | os.PathLike) -> dict[str, Any]:
    """The notes that `write` put beside the tensors; {} for other files.

    Raises:
        WeightsError: the notes are not a JSON object.
    """
    if Path(path).suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get(_NOTES, "{}")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path}: its notes on the images ({_NOTES}) are no JSON object; export the file again"
        )
    return content


def write(path: str | os.PathLike, tensors: Mapping[str, Any], notes: str = "{}") -> None:
    """Writes a `.safetensors` file atomically.

    Args:
        path: of the file; an existing one is replaced.
        tensors: arrays by name.
        notes: JSON to store beside the tensors.

    Raises:
        OSError: the file cannot be written, on a full disk for instance.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    arrays = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    try:
        save_file(arrays, temporary, metadata={"format": "pt", _NOTES: notes})
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # safetensors makes files that only their owner may read
        temporary.replace(path)
    except SafetensorError as error:  # of a full disk, for instance
        raise OSError(str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)
