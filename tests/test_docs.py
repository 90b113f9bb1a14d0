"""What is written is finished, and leads somewhere."""

import re
from pathlib import Path

import pytest
from helpers.imports import check_imports

ROOT = Path(__file__).parent.parent
CODE = [*sorted((ROOT / "experiments").rglob("*.py")), *sorted((ROOT / "configs").glob("*.py"))]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def page_id(path: Path) -> str:
    """The name of a test on a page; there are two README.md."""
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them; a repeated one gets a number."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = found[name] = found.get(name, -1) + 1
        names.add(f"{name}-{count}" if count else name)
    return names


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_no_placeholders_and_no_dead_links(page):
    text = page.read_text()
    names = re.sub(r"(JAX|XDG|CUDA|\w\.[A-Z]+)_[A-Z_]+", "", text)  # variables and constants
    assert not re.findall(r"\b(?:TODO|FIXME|XXX|[A-Z]{4,}_[A-Z_]{3,})\b", names)
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_to_headings_lead_to_one(page):
    for link, anchor in re.findall(r"\]\(([^)#]*)#([^)]+)\)", page.read_text("utf-8")):
        if "://" not in link:
            target = page.parent / link if link else page
            assert anchor in anchors(target), f"{link}#{anchor}"


def test_readme_is_one_page():
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


def test_pre_commit_has_the_ruff_of_the_lock():
    locked = re.search(
        r"^ruff==([\d.]+)", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE
    )
    hooks = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert re.findall(r"rev: v([\d.]+)", hooks) == [locked[1]]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_on_pages_imports_what_is_there(page):
    for source in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        check_imports(source)


@pytest.mark.parametrize("path", CODE, ids=lambda p: p.stem)
def test_scripts_import_what_is_there(path):
    check_imports(path.read_text("utf-8"))


@pytest.mark.parametrize("page", [*PAGES, *CODE], ids=page_id)
def test_commands_that_are_named_are_there(page):
    modules = set(re.findall(r"python -m (ssl_jax[.\w]*)", page.read_text("utf-8")))
    for module in modules - {"ssl_jax"}:
        assert ROOT.joinpath(*module.split(".")).with_suffix(".py").is_file(), module
