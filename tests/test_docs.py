"""README and the site: code runs, commands parse, links and pictures exist, every public name is in the reference."""

import importlib
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pages
import pytest
from pages import PAGES, ROOT

import flowkit
import flowkit_models
from flowkit_models.cli import dispatch

DOCS = ROOT / "docs"
BENCH = ("normflows", "FrEIA")  # an extra that `all` may leave out
PICTURES = (".png", ".svg", ".jpg", ".gif", ".webp")

each_page = pytest.mark.parametrize("page", PAGES, ids=pages.name)


@each_page
# of spandrel's SwinIR; every other warning is an error
@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")
def test_the_python_of_a_page_runs(page: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(pages.modules(page))
    try:
        count = pages.run(page)
    except ModuleNotFoundError as error:
        if error.name in BENCH:
            pytest.skip(f"{error.name} is not installed")
        raise
    assert count or not any(block.info.startswith("python") for block in pages.blocks(page))


def test_a_page_that_prints_something_else_is_noticed(tmp_path, monkeypatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    for printed, fine in (("2", True), ("3", False), ("...", True)):
        page.write_text(f"```python\nx = 2\n```\ntext\n```python\nprint(x)\n```\n\n```text\n{printed}\n```\n")
        if fine:
            assert pages.run(page) == 2
        else:
            with pytest.raises(AssertionError, match=r"page\.md, line 6"):
                pages.run(page)
    page.write_text("text\n\n```python\n\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        pages.run(page)
    assert error.traceback[-1].lineno + 1 == 5  # the page's own line


@each_page
def test_blocks_say_what_they_are(page: Path) -> None:
    text = page.read_text()
    assert text.count("\n```") == 2 * len(pages.blocks(page)), "a fence without a language, or one that does not close"
    for block in pages.blocks(page):
        assert block.info in ("python", "python no-run", "sh", "text", "toml")
        if block.info == "python no-run":
            assert re.search(r"<!-- no-run: \w.* -->$", block.before), f"line {block.line}: say why it does not run"


@pytest.mark.parametrize(
    ("program", "options"),
    [
        pytest.param(program, options, id=f"{pages.name(page)} {program} {' '.join(options)}")
        for page in PAGES
        for program, options in pages.commands(page)
    ],
)
def test_the_options_of_a_command_are_those_of_its_program(program: str, options: list[str], monkeypatch) -> None:
    assert parse(program, options, monkeypatch) == 0
    assert parse(program, [*options, "--no-such-option"], monkeypatch) != 0 or "--help" in options


def parse(program: str, options: list[str], monkeypatch):
    """What a command line comes to, if nothing is done but to read it."""
    if program == "flowkit":
        monkeypatch.setattr(dispatch, "function_of", lambda task: lambda task: 0)
        return dispatch.main(options)
    module = pages.open_recipe(program)
    monkeypatch.setattr(module, "main", lambda *config: None)
    try:
        if hasattr(module, "parse"):
            module.parse(options)
            return 0
        return module.run(options)
    except SystemExit as end:
        return end.code or 0


def test_commands_are_found(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nfor s in a b; do\n  python recipes/x.py --stage $s \\\n    --more 'c d'\ndone\n"
        "torchrun --nnodes 4 recipes/y.py --out z …  # why\n.venv/bin/flowkit upscale 'a & b.png' && ls\n```\n"
    )
    assert pages.commands(page) == [
        ("x", ["--stage", "a", "--more", "c d"]),
        ("x", ["--stage", "b", "--more", "c d"]),
        ("y", ["--out", "z"]),
        ("flowkit", ["upscale", "a & b.png"]),
    ]


def test_extras_that_a_page_installs_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [n for page in PAGES for n in re.findall(r'(?:flowkit-torch|"\.)\[([\w,]+)\]', page.read_text())]
    assert named
    assert {extra for names in named for extra in names.split(",")} <= set(extras)


@each_page
def test_links_and_pictures_are_there(page: Path) -> None:
    for target in pages.LINK.findall(pages.prose(page)):
        if not re.match(r"https?:|#", target):
            assert (page.parent / target.partition("#")[0]).is_file(), f"{pages.name(page)}: {target}"
    for path in re.findall(r"`((?:recipes|tests|docs|flowkit|flowkit_models)/[\w/]+\.\w+)`", pages.prose(page)):
        assert (ROOT / path).is_file(), f"{pages.name(page)}: {path}"


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
        assert {f"{package.__name__}.{name}" for name in package.__all__} <= named
    assert {"flowkit.nflows.from_nflows", "flowkit.nflows.to_nflows"} <= named
    for name in named:
        parent, _, last = name.rpartition(".")
        found = getattr(importlib.import_module(parent), last, None) or importlib.import_module(name)
        assert found.__doc__, name


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


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as CI builds it, of a copy of what it is made of."""
    pytest.importorskip("zensical")
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(DOCS, project / "docs")
    shutil.copy(ROOT / "zensical.toml", project)
    for package in ("flowkit", "flowkit_models"):
        (project / package).symlink_to(ROOT / package)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    said = built.stdout + built.stderr
    assert built.returncode == 0, said
    assert "griffe:" not in said, said  # a docstring that the reference can't read
    return project / "site"


class Fetched(HTMLParser):
    """What a browser fetches of a page by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        if tag != "a" and not (tag == "link" and named.get("rel") in ("canonical", "next", "prev")):
            self.urls += [value for name, value in attributes if name in ("src", "href", "data", "poster") and value]


def test_the_site_builds_without_warnings_and_fetches_nothing(site: Path) -> None:
    found = list(site.rglob("*.html"))
    assert len(found) > len(list(DOCS.rglob("*.md")))  # and a 404
    for page in found:
        parser = Fetched()
        parser.feed(page.read_text())
        assert parser.urls
        outside = [url for url in parser.urls if re.match(r"(https?:)?//", url)]
        assert not outside, f"{page.name} fetches {outside}"
        # what the theme's script would load from elsewhere, where a page asks for it
        assert not re.search(r'class="(mermaid|glightbox|pyodide)', page.read_text())
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet.name


def test_the_reference_shows_signatures_and_examples(site: Path) -> None:
    page = (site / "api" / "flowkit.html").read_text()
    for name in flowkit.__all__:
        assert name == "nets" or f'id="flowkit.{name}"' in page
    assert "Examples:" in page
    text = re.sub(r"<[^>]+>", "", page)
    assert "number of leading channels that pass" in text
