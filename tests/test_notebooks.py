"""The notebooks in the repository: stripped, ready for Colab, and up to date with the library.

Nothing is executed here; `python notebooks/run.py` does that.
"""

import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
from helpers.imports import check_imports

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
FIGURE = re.compile(
    r"^\s*(display\(\s*(figures|contact_sheet)\.|Image\.fromarray\((?!.*\.save)|pages\[)",
    re.MULTILINE,
)

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def cells(path, kind):
    return ["".join(c["source"]) for c in read(path)["cells"] if c["cell_type"] == kind]


def python(path):
    """The code of a notebook, without magics, and the files that it writes."""
    for source in cells(path, "code"):
        lines = source.splitlines()
        if lines[0].startswith("%%writefile"):
            lines = lines[1:]
        yield "\n".join(re.sub(r"^(\s*)%.*", r"\1pass", line) for line in lines)


def test_all_notebooks_exist():
    assert {p.stem for p in NOTEBOOKS} == {
        "conr",
        "neighbourhoods",
        "swav",
        "your_method",
        "your_pictures",
    }


@each
def test_stripped(path, tmp_path):
    notebook = read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    copy = tmp_path / path.name
    shutil.copy(path, copy)
    runpy.run_path(str(FOLDER / "run.py"))["strip"](copy)
    assert copy.read_bytes() == path.read_bytes()  # as `--strip` leaves it


def test_strip_removes_what_a_run_leaves(tmp_path):
    notebook = read(NOTEBOOKS[0])
    copy = tmp_path / "used.ipynb"
    notebook["metadata"]["widgets"] = {}
    for i, cell in enumerate(c for c in notebook["cells"] if c["cell_type"] == "code"):
        cell["execution_count"] = i
        cell["metadata"] = {"execution": {"iopub": "now"}}
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["x"]}]
    copy.write_text(json.dumps(notebook))
    runpy.run_path(str(FOLDER / "run.py"))["strip"](copy)
    assert copy.read_bytes() == NOTEBOOKS[0].read_bytes()


@each
def test_first_code_cell_installs(path):
    first, *rest = cells(path, "code")
    assert first == cells(NOTEBOOKS[0], "code")[0]
    assert 'find_spec("ssl_jax") is None' in first
    assert "%pip install" in first
    assert not any("%pip" in source for source in rest)


@each
def test_no_local_paths_and_nothing_written_to_the_repository(path):
    text = "\n".join("".join(c["source"]) for c in read(path)["cells"])
    assert not re.findall(
        r"""["'\s(](?:/|~/|[A-Z]:\\)(?:home|root|tmp|work|usr|mnt|content|Users)\b""", text
    )
    assert "tempfile.mkdtemp" in text
    assert 'os.environ.get("SSL_JAX_SMALL")' in text


@each
def test_code_parses_and_imports_exist(path):
    for source in python(path):
        check_imports(source, but=("simclr",))  # written by the notebook itself


@each
def test_figures_are_followed_by_what_to_look_for(path):
    notebook = read(path)["cells"]
    for i, cell in enumerate(notebook):
        if cell["cell_type"] == "code" and FIGURE.search("".join(cell["source"])):
            after = notebook[i + 1 : i + 3]
            assert any(
                "**" in "".join(c["source"]) for c in after if c["cell_type"] == "markdown"
            ), cell["id"]
