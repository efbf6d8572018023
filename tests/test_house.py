"""The house stays as docs/architecture.md draws it: few folders, short files, names that say one thing.

import-linter holds the layers (`lint-imports`; the contracts are in pyproject.toml).
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowkit_models.models.registry import FAMILIES

ROOT = Path(__file__).parents[1]
PACKAGES = [ROOT / "flowkit", ROOT / "flowkit_models"]


def sources(*folders: Path) -> Iterator[Path]:
    return (path for folder in folders for path in sorted(folder.rglob("*.py")))


def named(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


def test_few_modules_lie_beside_the_folders_of_the_image_models() -> None:
    flat = {path.stem for path in PACKAGES[1].glob("*.py")} - {"__init__"}
    assert flat <= {"files", "devices", "spandrel", "terminal"}


def test_the_packages_are_few_folders() -> None:
    """Among them those of the model families, which have one each."""
    families = {PACKAGES[1] / "models" / name.lower() for name in FAMILIES}
    folders = {path.parent for path in sources(*PACKAGES)} - set(PACKAGES)
    assert families <= folders
    assert len(folders) <= 20, named(sorted(folders))


@pytest.mark.parametrize(("most", "folders"), [(400, ["flowkit", "flowkit_models", "recipes"]), (450, ["tests"])])
def test_files_are_short(most: int, folders: list[str]) -> None:
    paths = sources(*(ROOT / folder for folder in folders))
    assert named([path for path in paths if path.read_text().count("\n") > most]) == []


def test_no_two_test_files_share_a_name() -> None:
    """They are no packages: pytest refuses the second of a name, and with it the whole suite."""
    names = [path.name for path in sources(ROOT / "tests") if path.name.startswith("test_")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_function_has_the_name_of_its_module() -> None:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    found = [
        path
        for path in sources(*PACKAGES)
        if any(isinstance(node, functions) and node.name == path.stem for node in ast.parse(path.read_text()).body)
    ]
    assert named(found) == [], "which of the two an import gives, the order of imports decides"


def test_there_is_one_style_of_import() -> None:
    """`from package.module import name` or `from package import module`; the packages themselves by name."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(*PACKAGES, ROOT / "recipes", ROOT / "tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        and any(alias.name.startswith(("flowkit.", "flowkit_models.")) for alias in node.names)
    ]
    assert found == []


def test_nothing_below_imports_the_lazy_front_door() -> None:
    """An import of `flowkit_models` itself opens modules when they are used, where no linter sees it."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(PACKAGES[1])
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and node.module == "flowkit_models" and _lazy(node))
        or (isinstance(node, ast.Import) and any(alias.name == "flowkit_models" for alias in node.names))
    ]
    assert found == []


def _lazy(node: ast.ImportFrom) -> bool:
    return any(not (PACKAGES[1] / alias.name).is_dir() and not _module(alias.name) for alias in node.names)


def _module(name: str) -> bool:
    return (PACKAGES[1] / f"{name}.py").is_file()


def test_the_root_holds_no_weights_and_no_pictures() -> None:
    kinds = {".safetensors", ".pth", ".pt", ".png", ".jpg", ".svg"}
    assert [path.name for path in ROOT.iterdir() if path.suffix in kinds] == []
