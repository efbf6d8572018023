"""What `import flowkit` brings in, and what it does not."""

import subprocess
import sys

import pytest

import flowkit


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_core_imports_no_neighbour() -> None:
    loaded = run("import sys, flowkit; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert "einops" in loaded
    for name in ("nflows", "torchvision", "matplotlib", "hypothesis", "pytest", "skimage", "flowkit_models"):
        assert name not in loaded


def test_neighbours_come_when_they_are_asked_for() -> None:
    code = "import sys, flowkit; flowkit.nflows.to_nflows; flowkit.testing.check_bijector; print('nflows' in sys.modules)"
    assert run(code).strip() == "True"


def test_checking_needs_no_hypothesis() -> None:
    assert run("import sys, flowkit.testing; print({'hypothesis', 'pytest'} & set(sys.modules))").strip() == "set()"


def test_without_nflows_the_error_says_what_to_install() -> None:
    code = """
import sys
sys.modules["nflows"] = None
import flowkit
try:
    flowkit.nflows
except ImportError as error:
    print(error)
"""
    assert run(code).strip() == 'flowkit.nflows needs nflows: pip install "flowkit-torch[nflows]"'


PUBLIC = """
    Bijector Chain Inverse ActNorm InvertibleConv1x1 Permutation Squeeze Haar Split Coupling Injector Affine Additive
    RationalQuadratic MixtureLogistic Level Hierarchy Latents Independent SingleScale CoarseToFine External Reversible
    Dequantize StandardNormal Near Flow initialize summary nets
"""


@pytest.mark.parametrize("name", PUBLIC.split())
def test_public_names(name: str) -> None:
    assert name in flowkit.__all__
    assert hasattr(flowkit, name)


def test_all_lists_nothing_else() -> None:
    assert set(flowkit.__all__) <= set(PUBLIC.split())


def test_what_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'flowkit' has no attribute 'Glow'"):
        flowkit.Glow  # noqa: B018
