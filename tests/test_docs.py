"""What is written is finished, and leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_placeholders_and_no_dead_links(page):
    text = page.read_text()
    assert not re.findall(r"\b(?:TODO|FIXME|XXX|[A-Z]{4,}_[A-Z_]{3,})\b", re.sub(r"(JAX|XDG|CUDA)_[A-Z_]+", "", text))
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in link:
            assert (page.parent / link).exists(), link
