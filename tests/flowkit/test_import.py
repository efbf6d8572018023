"""What `import flowkit` brings in, and what it does not."""

import subprocess
import sys

import pytest

import flowkit


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


NEIGHBOURS = ("nflows", "torchvision", "matplotlib", "hypothesis", "pytest", "skimage", "flowkit_models")


def test_neighbours_come_only_when_they_are_asked_for() -> None:
    code = """
import sys
def loaded():
    print(*{name.split('.')[0] for name in sys.modules})
import flowkit; loaded()
flowkit.testing.check_bijector; loaded()
flowkit.nflows.to_nflows; loaded()
"""
    core, testing, nflows = (set(line.split()) for line in run(code).splitlines())
    assert "einops" in core
    assert core.isdisjoint(NEIGHBOURS)
    assert testing.isdisjoint(NEIGHBOURS)
    assert "nflows" in nflows


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


PROMISED = """
    Bijector Chain Inverse ActNorm InvertibleConv1x1 Permutation Squeeze Haar Split
    Coupling Injector Affine Additive RationalQuadratic MixtureLogistic
    Level Hierarchy Latents Independent SingleScale CoarseToFine External Reversible
    Dequantize StandardNormal Near Flow initialize summary nets
"""


def test_names_that_programs_rely_on_stay() -> None:
    assert set(PROMISED.split()) <= set(flowkit.__all__)


def test_what_the_package_imports_for_its_users_is_public() -> None:
    public = {name for name, value in vars(flowkit).items() if getattr(value, "__module__", "").startswith("flowkit.")}
    assert public | {"elementwise", "nets", "objectives"} == set(flowkit.__all__)
    assert len(set(flowkit.__all__)) == len(flowkit.__all__)  # in the linter's order


def test_what_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'flowkit' has no attribute 'Glow'"):
        flowkit.Glow  # noqa: B018
