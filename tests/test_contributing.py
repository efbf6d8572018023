"""What CONTRIBUTING says is enough to add a bijector is enough, and a missing row is noticed: done on a copy."""

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


class Forgotten(Stretch):
    """Public, and without a row."""
'''


def test_a_bijector_is_a_file_a_public_name_and_a_row(tmp_path) -> None:
    for folder in ("flowkit", "tests/flowkit"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / file, tmp_path / file)

    init, examples = tmp_path / "flowkit" / "__init__.py", tmp_path / "tests" / "flowkit" / "examples.py"
    (init.parent / "stretch.py").write_text(STRETCH)
    edit(init, "from flowkit.summaries", "from flowkit.stretch import Forgotten, Stretch\nfrom flowkit.summaries")
    edit(init, '    "Flow",', '    "Flow",\n    "Forgotten",')
    edit(init, '    "StandardNormal",', '    "StandardNormal",\n    "Stretch",')
    edit(examples, "]\nBY_NAME", '    Example("stretch", lambda: flowkit.Stretch()),\n]\nBY_NAME')

    asked = ("tests/flowkit/test_import.py", "tests/flowkit/test_laws.py", "-k", "public or stretch")
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *asked]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    registry = "tests/flowkit/test_laws.py::test_every_public_bijector_is_in_the_registry"
    failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert len(failed) == 1, said
    assert failed[0].startswith(f"FAILED {registry}"), said
    assert "{<class 'flowkit.stretch.Forgotten'>}" in said or "flowkit.stretch.Forgotten'>\n" in said, said
    assert "flowkit.stretch.Stretch'>" not in said, said
    for law in ("exact_laws", "laws_of_use", "other_image_sizes", "policies"):
        assert f"PASSED tests/flowkit/test_laws.py::test_{law}[stretch]" in said, said
    assert "PASSED tests/flowkit/test_import.py::test_what_the_package_imports_for_its_users_is_public" in said, said


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path.name, old)
    path.write_text(text.replace(old, new))
