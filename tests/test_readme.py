"""README's Python runs, its commands are the ones that CI uses, and the paper's equations can be found in the code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_in_the_readme_runs(capsys) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert "total" in capsys.readouterr().out


def test_pictures_and_files_that_the_readme_names_are_there() -> None:
    for path in re.findall(r"\]\(([\w/.]+)\)", README) + re.findall(r"`(recipes/\w+\.py)`", README):
        assert (ROOT / path).is_file()


def test_two_commands_set_everything_up() -> None:
    commands = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    assert len(commands) == 2
    assert commands[0].endswith(".venv/bin/python recipes/hcflow_sr.py")
    assert 'install -e ".[all]"' in commands[1]


@pytest.mark.parametrize("number", range(1, 8))
def test_equations_of_the_paper_are_named_in_the_code(number: int) -> None:
    code = "".join(
        p.read_text() for folder in ("flowkit", "flowkit_models", "recipes") for p in (ROOT / folder).rglob("*.py")
    )
    assert f"eq. ({number})" in code
