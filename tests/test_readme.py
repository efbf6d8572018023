"""README's commands are the ones that CI uses, and the paper's equations can be found in the code."""

import pytest
from pages import ROOT, blocks

README = ROOT / "README.md"


def test_each_command_sets_everything_up() -> None:
    commands = [block.code.strip() for block in blocks(README) if block.info == "sh"]
    assert all(command.startswith("python3 -m venv .venv && .venv/bin/pip install -e ") for command in commands)
    assert commands[0].endswith(".venv/bin/flowkit upscale photo.jpg")
    assert commands[1].endswith(".venv/bin/python recipes/hcflow_sr.py")
    assert 'install -e ".[all]"' in commands[2]


@pytest.mark.parametrize("number", range(1, 8))
def test_equations_of_the_paper_are_named_in_the_code(number: int) -> None:
    code = "".join(
        p.read_text() for folder in ("flowkit", "flowkit_models", "recipes") for p in (ROOT / folder).rglob("*.py")
    )
    assert f"eq. ({number})" in code
