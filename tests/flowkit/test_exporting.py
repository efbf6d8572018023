"""Flows as programs of torch.export and as ONNX files: equal to the flow, at any batch, with nothing left to invert."""

import sys
from collections import Counter

import pytest
import torch
from torch import nn

import flowkit
from flowkit import ActNorm, Affine, Coupling, Flow, InvertibleConv1x1, MixtureLogistic, StandardNormal, exporting
from flowkit.testing import perturb


def flow(kind=None):
    torch.manual_seed(0)
    kind = kind or Affine("tanh")
    net = flowkit.nets.MLP(2, 2 * kind.parameters, hidden=8)
    b = ActNorm(4) >> InvertibleConv1x1(4) >> Coupling(net, 2, kind)
    return perturb(Flow(b, StandardNormal()).eval().requires_grad_(False))


def operators(program):
    return Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")


@pytest.mark.parametrize("module", [exporting.LogProb, exporting.FromLatents])
def test_a_program_is_the_flow_at_any_batch_and_inverts_nothing(module) -> None:
    b = flow()
    x = torch.randn(3, 4)
    program = exporting.program(module(b), (x,), exporting.batch_of_any_size(x))
    assert not [name for name in operators(program) if "linalg" in name or "det" in name]
    for batch in (2, 7):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(program.module()(x), module(b)(x))


def test_the_flow_itself_is_left_as_it_was() -> None:
    b = flow()
    before = {name: tensor.clone() for name, tensor in b.state_dict().items()}
    exporting.program(exporting.LogProb(b), (torch.randn(3, 4),), half=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in b.state_dict().items())


def test_half_of_the_space_and_numbers_within_the_weights_rounding(tmp_path) -> None:
    b = nn.Sequential(nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 128)).requires_grad_(False)
    x, sizes = torch.randn(5, 128), []
    for half in (False, True):
        program = exporting.program(b, (x,), half=half)
        torch.export.save(program, tmp_path / "program.pt2")
        sizes.append((tmp_path / "program.pt2").stat().st_size)
    assert sizes[0] - sizes[1] > 0.9 * 2 * (2 * 128 * 128)
    difference = (program.module()(x) - b(x)).abs().max()
    assert 0 < difference < 2e-3


def test_what_iterates_is_named_as_not_exportable() -> None:
    class Iterates(nn.Module):
        def forward(self, x):
            while x.abs().max() > 1:
                x = x / 2
            return x

    with pytest.raises(ValueError, match=r"Iterates can't be exported: .*depends on values, as where it iterates"):
        exporting.program(Iterates(), (torch.randn(3, 4),))
    with pytest.raises(ValueError, match=r"Sequential can't be exported: 1 \(Iterates\): "):
        exporting.program(nn.Sequential(nn.Linear(4, 4), Iterates()).requires_grad_(False), (torch.randn(3, 4),))


@pytest.mark.parametrize("module", [exporting.LogProb, exporting.FromLatents])
@pytest.mark.parametrize("part", ["Residual", "ODE"])
def test_a_part_of_ours_that_iterates_is_named_with_its_place(module, part) -> None:
    b = {
        "Residual": lambda: flowkit.Residual(flowkit.nets.lipschitz(flowkit.nets.MLP(2, 2), 0.9), 0.9),
        "ODE": lambda: flowkit.ODE(flowkit.nets.WithTime(flowkit.nets.MLP(3, 2)), solver="rk4"),
    }[part]()
    x = torch.randn(3, 2)
    made = Flow(ActNorm(2) >> b, StandardNormal()).eval().requires_grad_(False)
    for shapes in (None, exporting.batch_of_any_size(x)):
        with pytest.raises(
            ValueError, match=rf"parts.1 \({part}\): {part} .*(derivatives|converged).*no program holds$"
        ):
            exporting.program(module(made), (x,), shapes)
    with pytest.raises(ValueError, match=rf"^{part} .*no program holds"):  # of torch alone, too
        torch.export.export(module(made), (x,))


def test_the_extra_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r'onnxscript: pip install "flowkit-torch\[export\]"'):
        exporting.onnx(None, tmp_path / "flow.onnx", ["x"], "log_prob")


def test_an_output_that_is_called_as_an_input_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="the output can't be called x, as an input is"):
        exporting.onnx(None, tmp_path / "flow.onnx", ["x"], "x")


SPLINE = pytest.param(flowkit.RationalQuadratic(3), id="spline", marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", [pytest.param(Affine("tanh"), id="affine"), SPLINE])
def test_onnx_computes_the_same_without_flowkit(kind, tmp_path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install flowkit-torch[all]")
    pytest.importorskip("onnxscript", reason="pip install flowkit-torch[all]")
    b = flow(kind)
    x = torch.randn(3, 4)
    for module, output in ((exporting.LogProb(b), "log_prob"), (exporting.FromLatents(b), "sample")):
        path = tmp_path / f"{output}.onnx"
        program = exporting.program(module, (x,), exporting.batch_of_any_size(x))
        exporting.onnx(program, path, ["x"], output)
        x = torch.randn(9, 4)
        (got,) = runtime.InferenceSession(path).run([output], {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), module(x), atol=1e-4, rtol=1e-4)


def test_an_inverse_by_bisection_is_exported_in_a_fixed_number_of_steps() -> None:
    b = flow(MixtureLogistic(2))
    x = torch.randn(3, 4)
    program = exporting.program(exporting.FromLatents(b), (x,))
    torch.testing.assert_close(program.module()(x), b.decode(x), atol=1e-5, rtol=1e-5)


def test_a_table_of_weights_and_a_grid_is_a_constant() -> None:
    exported = exporting.program(flowkit.SharedGaussianization(2), (torch.randn(2, 3),))
    operations = {str(node.target) for node in exported.graph.nodes if node.op == "call_function"}
    assert not any("ndtri" in name or "arange" in name or "linspace" in name for name in operations)
