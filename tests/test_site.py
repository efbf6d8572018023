"""Style of README and the site, a job of its own (`pytest -m docs`) beside `zensical build --strict`."""

import inspect
import pkgutil
import re
import tomllib
from pathlib import Path

import pages
import pytest
from pages import PAGES, ROOT

import flowkit
import flowkit_models

DOCS = ROOT / "docs"
PICTURES = (".png", ".svg", ".jpg", ".gif", ".webp")
pytestmark = pytest.mark.docs

each_page = pytest.mark.parametrize("page", PAGES, ids=pages.name)


@each_page
def test_blocks_say_what_they_are(page: Path) -> None:
    text = page.read_text()
    assert text.count("\n```") == 2 * len(pages.blocks(page)), "a fence without a language, or one that does not close"
    for block in pages.blocks(page):
        assert block.info in ("python", "python no-run", "sh", "text", "toml")
        if block.info == "python no-run":
            assert re.search(r"<!-- no-run: \w.* -->$", block.before), f"line {block.line}: say why it does not run"


def test_every_picture_is_shown_and_says_how_it_was_made() -> None:
    shown = set()
    for page in PAGES:
        for section in pages.sections(page):
            for target in pages.PICTURE.findall(section):
                shown.add((page.parent / target).resolve())
                commands = re.search(r"```(sh|python)\n|`python (recipes|tests)/", section)
                assert commands, f"{pages.name(page)}: {target} does not say what made it"
    pictures = {path for path in DOCS.rglob("*") if path.suffix in PICTURES}
    assert pictures == shown


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    named = set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
    for package in (flowkit, flowkit_models, flowkit.testing):
        public = {f"{package.__name__}.{name}" for name in package.__all__}
        modules = {name for name in public if inspect.ismodule(pkgutil.resolve_name(name))}  # shown name by name
        assert public - modules <= named
        assert modules <= named | {name.rpartition(".")[0] for name in named}
    assert {"flowkit.nflows.from_nflows", "flowkit.nflows.to_nflows"} <= named
    for name in named:
        assert pkgutil.resolve_name(name).__doc__, name


def test_every_page_is_in_the_navigation_and_says_at_once_what_it_gives() -> None:
    navigation = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    assert set(targets(navigation)) == {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}, "see zensical.toml"
    for page in DOCS.rglob("*.md"):
        title, second, third = page.read_text().split("\n", 3)[:3]
        assert title.startswith("# ")
        assert not second
        assert re.match(r"\w|`", third), f"{pages.name(page)}: its first words say what the reader gets"


def targets(navigation) -> list[str]:
    if isinstance(navigation, str):
        return [navigation]
    parts = navigation.values() if isinstance(navigation, dict) else navigation
    return [target for part in parts for target in targets(part)]
