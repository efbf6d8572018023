"""What CONTRIBUTING says is enough to add a bijector is enough: done by the book, on a copy."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

STRETCH = '''"""A map that stretches what is far from zero."""

import torch
from torch import Tensor

from flowkit.bijector import TensorMap


class Stretch(TensorMap):
    """y = x + x³."""

    def forward(self, x: Tensor, context: object = None) -> tuple[Tensor, Tensor]:
        """Steeper far from zero."""
        return x + x**3, (1 + 3 * x**2).log().flatten(1).sum(1)

    def inverse(self, y: Tensor, context: object = None) -> tuple[Tensor, Tensor]:
        """Cardano's formula: the one real root."""
        x = 2 / 3**0.5 * torch.sinh(torch.asinh(1.5 * 3**0.5 * y) / 3)
        return x, -self.forward(x)[1]
'''


def test_a_bijector_is_a_file_a_public_name_and_a_row(tmp_path) -> None:
    for folder in ("flowkit", "tests/flowkit"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / file, tmp_path / file)

    init, examples = tmp_path / "flowkit" / "__init__.py", tmp_path / "tests" / "flowkit" / "examples.py"
    (init.parent / "stretch.py").write_text(STRETCH)
    edit(init, "from flowkit.summaries", "from flowkit.stretch import Stretch\nfrom flowkit.summaries")
    edit(init, '    "StandardNormal",', '    "StandardNormal",\n    "Stretch",')

    def run(*tests: str) -> str:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout

    registry = "tests/flowkit/test_laws.py::test_every_public_bijector_is_in_the_registry"
    assert f"FAILED {registry}" in run(registry)
    edit(examples, "]\nBY_NAME", '    Example("stretch", lambda: flowkit.Stretch()),\n]\nBY_NAME')
    said = run("tests/flowkit/test_import.py", "tests/flowkit/test_laws.py", "-k", "public or import or stretch")
    assert "failed" not in said, said
    assert int(said.split(" passed")[0].split()[-1]) > 10, said  # every law


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path.name, old)
    path.write_text(text.replace(old, new))
