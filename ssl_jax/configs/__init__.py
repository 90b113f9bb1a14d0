"""The config files of the project: `from ssl_jax.configs import swav`, `--config=swav`.

A wheel holds them in this package. In a checkout, and where one is installed with `pip install -e`,
they are the files of the folder `configs/` beside pyproject.toml.
"""

from pathlib import Path

_checkout = Path(__file__).resolve().parents[2]
if (_checkout / "pyproject.toml").is_file() and (_checkout / "configs").is_dir():
    __path__.append(str(_checkout / "configs"))
