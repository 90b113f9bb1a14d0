"""Files of tensors by name, `.safetensors` and PyTorch's: read without running any code in them, written whole."""

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np

from ssl_jax.settings.machine import memory
from ssl_jax.settings.paths import user_path
from ssl_jax.settings.resolve import SettingError
from ssl_jax.settings.text import printable

_NOTES = "ssl_jax"


class WeightsError(ValueError):
    """A weight file that cannot be used; the message names the file and the first tensor that is wrong."""


def read(path) -> dict[str, np.ndarray]:
    """The tensors of a `.safetensors`, `.pth`, `.pt` or `.tar` file by name; no file's code is ever run.

    Raises:
        WeightsError: there is no such file, or it cannot be read safely.
    """
    try:
        path = user_path(path, "path")
    except SettingError as error:
        raise WeightsError(str(error)) from error
    if not path.is_file():
        raise WeightsError(f"{printable(path)}: there is no such file")
    _check_room(path, path.stat().st_size)
    try:
        tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
        if odd := next((name for name in tensors if not name.isprintable()), None):
            raise WeightsError(f"{path} has a tensor with the name {printable(odd)[:80]!r}; no network has such names")
        return tensors
    except WeightsError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        if found := re.search(r"GLOBAL ([\w.]+)", said):
            raise WeightsError(
                f"{path} holds Python objects ({found[1]}), and reading those could run any code; where you trust the "
                'file, save its tensors alone: torch.save(torch.load(FILE, weights_only=False)["state_dict"], NEW)'
            ) from error
        said = re.sub("^Weights only load failed.*? error: | Check the documentation .*", "", said)
        why = said or type(error).__name__
        raise WeightsError(f"{path} is not a weight file that can be read safely ({why})") from error


def _check_room(path, size: int) -> None:
    if size > (room := memory()):
        raise WeightsError(f"{path} holds {size:,} bytes of weights, and this machine has {room:,} bytes of memory")


def _read_safetensors(path):
    from safetensors.numpy import load_file

    return {name: np.asarray(x, np.float32) for name, x in load_file(path).items()}


def _check_stored(path) -> None:
    """Refuses a .zip whose members are packed: torch.save never does that, and a small file could fill the memory."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    packed = next((x for x in members if x.compress_type != zipfile.ZIP_STORED or x.flag_bits & 1), None)
    if packed:
        raise WeightsError(
            f"{path} is a compressed or encrypted archive ({printable(packed.filename)[:80]}), which torch.save never "
            "makes; save the tensors anew with torch.save"
        )
    _check_room(path, sum(x.file_size for x in members))


def _read_pickle(path):
    _check_stored(path)
    try:
        import torch
    except ImportError as error:
        raise WeightsError(
            f"{path}: only PyTorch reads such files; pip install torch, or give a .safetensors file"
        ) from error
    found = torch.load(path, map_location="cpu", weights_only=True)
    passed = set()
    while isinstance(found, dict) and isinstance(inner := found.get("state_dict", found.get("model")), dict):
        passed.add(id(found))
        if id(inner) in passed:
            raise WeightsError(f"{path}: its state_dict holds itself; save the state_dict alone")
        found = inner
    named = found.items() if isinstance(found, dict) else ()
    tensors = {name: x for name, x in named if isinstance(x, torch.Tensor) and isinstance(name, str)}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors by name; give a state_dict, alone or in a checkpoint")
    _check_room(path, sum(4 * x.numel() for x in tensors.values()))  # several may be views of a small one
    return {name: x.float().numpy() for name, x in tensors.items()}


def notes(path) -> dict:
    """What `write` noted in a file beside the tensors; {} for other files.

    Raises:
        WeightsError: the notes are no JSON object.
    """
    if Path(path).suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        text = (file.metadata() or {}).get(_NOTES, "{}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: its notes on the images ({_NOTES}) are no JSON object; export the file anew")
    return found


def write(path, tensors, notes: str = "{}") -> None:
    """A `.safetensors` file, whole or not at all, with `notes` in JSON beside the tensors."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    arrays = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    try:
        save_file(arrays, temporary, metadata={"format": "pt", _NOTES: notes})
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # safetensors makes files that nobody else may read
        temporary.replace(path)
    except SafetensorError as error:  # what it makes of a full disk, say
        raise OSError(str(error)) from error
    finally:
        temporary.unlink(missing_ok=True)
