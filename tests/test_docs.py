"""What is written is finished, and leads somewhere."""

import re
from pathlib import Path

import pytest
from helpers.imports import check_imports

ROOT = Path(__file__).parent.parent
CODE = [*sorted((ROOT / "experiments").rglob("*.py")), *sorted((ROOT / "configs").glob("*.py"))]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_placeholders_and_no_dead_links(page):
    text = page.read_text()
    assert not re.findall(r"\b(?:TODO|FIXME|XXX|[A-Z]{4,}_[A-Z_]{3,})\b", re.sub(r"(JAX|XDG|CUDA)_[A-Z_]+", "", text))
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_on_pages_imports_what_is_there(page):
    for source in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        check_imports(source)


@pytest.mark.parametrize("path", CODE, ids=lambda p: p.stem)
def test_scripts_import_what_is_there(path):
    check_imports(path.read_text("utf-8"))


@pytest.mark.parametrize("page", [*PAGES, *CODE], ids=lambda p: p.name)
def test_commands_that_are_named_are_there(page):
    modules = set(re.findall(r"python -m (ssl_jax[.\w]*)", page.read_text("utf-8")))
    for module in modules - {"ssl_jax"}:
        assert ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file(), module
