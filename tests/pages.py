"""README and docs as programs: their Python blocks run in order, and their commands are parsed, not run.

Blocks of one page share their names; they can import what lies in the folder of recipes/benchmark of that name. A
`text` block right after a Python block is what that block prints, compared as doctest does (white space, `...`).
`python no-run` is a block that is only compiled; the line before it says why, in a comment: <!-- no-run: reason -->.

Run a page, and keep the files that it writes (its pictures): python tests/pages.py docs/build_a_flow.md --into docs
"""

import argparse
import contextlib
import doctest
import importlib.util
import io
import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```(?P<info>[^\n`]+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@dataclass(frozen=True)
class Block:
    """A fenced block: what its first line says, its code, the number of its first line, the prose just before it."""

    info: str
    code: str
    line: int
    before: str


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    text, found, end = page.read_text(), [], 0
    for m in FENCE.finditer(text):
        line = text[: m.start("code")].count("\n") + 1
        found.append(Block(m["info"].strip(), m["code"], line, text[end : m.start()].strip()))
        end = m.end()
    return found


def prose(page: Path) -> str:
    """A page without its blocks."""
    return FENCE.sub("", page.read_text())


def sections(page: Path) -> list[str]:
    """A page, cut at its `##` headings."""
    return re.split(r"^(?=## )", page.read_text(), flags=re.MULTILINE)


def modules(page: Path) -> Path:
    """The folder of the modules that a page may import."""
    return ROOT / "recipes" / "benchmark" / page.stem


def run(page: Path) -> int:
    """Runs the Python of a page in the working folder. Returns how many blocks ran.

    Raises:
        AssertionError: if a block prints something else than the `text` block after it.
    """
    names: dict[str, Any] = {"__name__": "page"}
    torch.manual_seed(0)
    count, found = 0, blocks(page)
    for block, after in itertools.zip_longest(found, found[1:]):
        if block.info not in ("python", "python no-run"):
            continue
        code = compile("\n" * (block.line - 1) + block.code, name(page), "exec")
        if block.info == "python no-run":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        count += 1
        if after is not None and after.info == "text" and not after.before:
            _compare(page, block, after.code, printed.getvalue())
    return count


def _compare(page: Path, block: Block, expected: str, printed: str) -> None:
    if not doctest.OutputChecker().check_output(expected, printed, OPTIONS):
        raise AssertionError(
            f"{name(page)}, line {block.line}: the page says\n{expected}\nand its code prints\n{printed}"
        )


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Recipes, and `flowkit`, that the `sh` blocks of a page call, with their options."""
    shell = (block.code.replace("\\\n", " ") for block in blocks(page) if block.info == "sh")
    return [program for code in shell for line in code.splitlines() for program in _programs(line)]


def _programs(line: str) -> Iterator[tuple[str, list[str]]]:
    """The programs of ours that a command line calls. `…` stands for more words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    for joined, words in itertools.groupby(lexer, key=lambda word: set(word) <= set("();<>|&")):
        command = [word for word in words if word != "…"]
        for i, word in enumerate(command):
            if not joined and re.fullmatch(r"recipes/(\w+\.py|benchmark)|(.*/)?flowkit", word):
                yield Path(word).stem, command[i + 1 :]
                break


def open_recipe(recipe: str) -> ModuleType:
    """A recipe as a module."""
    if recipe == "benchmark":
        return importlib.import_module("benchmark.__main__")
    spec = importlib.util.spec_from_file_location(recipe, ROOT / "recipes" / f"{recipe}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[recipe] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Runs one page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--into", type=Path, default=Path(), help="folder for the files that the page writes")
    options = parser.parse_args()
    page = options.page.resolve()
    torch.set_num_threads(1)
    sys.path.insert(0, str(modules(page)))
    os.chdir(options.into)
    print(f"{run(page)} blocks of {name(page)} ran")


if __name__ == "__main__":
    main()
