"""README and the pages: code runs, commands parse, links and pictures exist."""

import re
import tomllib
from pathlib import Path

import pages
import pytest
from pages import PAGES, ROOT

from flowkit_models.cli import dispatch

BENCH = ("normflows", "FrEIA")  # an extra that `all` may leave out

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
    if program.title() in dispatch.SUBCOMMANDS:  # a recipe that calls the command
        program, options = "flowkit", [program, *options]
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
