"""The documents name only what exists: files, settings, words, programs, Python names."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from detr_jax.config import Config, settings
from detr_jax.config_forms import as_markdown

ROOT = Path(__file__).parents[1]
GENERATED = ROOT / "docs/settings.md"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", prose, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_has_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    for marker, command in {"demo": "bash scripts/demo.sh", "tests": "bash scripts/check.sh"}.items():
        assert f"<!-- {marker} -->\n```\n{command}\n" in text


@pages
def test_lines_are_short(page):
    if page == GENERATED:
        pytest.skip("generated: a setting is a line")
    rest = [line for line in page.read_text().splitlines() if not line.startswith("|") and "](" not in line]
    assert [line for line in rest if len(line) >= 120] == []


@pages
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pages
def test_files_exist(page):
    text = page.read_text()
    named = re.findall(r"\b(?:scripts|configs|docs|tests|detr_jax)/[\w/]+\.(?:py|sh|sbatch|md|png|txt)\b", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


@pages
def test_settings_exist(page):
    text = page.read_text()
    known = {one.name for one in settings(Config())}
    flags = set(re.findall(r"--config\.([a-z]\w*(?:\.\w+)*)", text))
    quoted = set(re.findall(r"`((?:model|data|loss|optim|train)\.\w+)(?:=[^`]*)?`", text))
    files = {"train.py", "train.log", "train.csv", "data.yaml", "model.safetensors"}
    assert flags | quoted - files <= known, (flags | quoted - files) - known


def test_the_page_of_settings_is_fresh():
    assert GENERATED.read_text() == as_markdown(), "run python scripts/make_settings.py"


@pages
def test_programs_exist(page):
    for name in re.findall(r"python -m detr_jax\.(\w+)", page.read_text()):
        assert (ROOT / f"detr_jax/{name}.py").is_file(), name


@pages
def test_words_of_configurations_exist(page, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    for name, words in re.findall(r"configs/(\w+)\.py:(\w+(?:,\w+)*)", page.read_text()):
        if not words.isupper():  # WORDS stands for any
            importlib.import_module(f"configs.{name}").get_config(words)


@pages
def test_python_examples_import_what_exists(page, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("detr_jax", "configs"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")
