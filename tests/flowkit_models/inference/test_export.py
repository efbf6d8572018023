"""Image models as programs and ONNX files: the pictures of `upscale` and `decode`, at any size."""

import pytest
import torch

import flowkit_models
from flowkit.testing import perturb
from flowkit_models.inference.export import program_of, write

TINY = {"steps": 1, "conditional_steps": 1, "blocks": ((0, 0), (0, 0)), "features": 4, "hidden": 4, "growth": 4}


def hcflow():
    torch.manual_seed(0)
    return perturb(flowkit_models.create("hcflow_sr_x4_small", **TINY, conditional_hidden=4), 0.02).float()


def largest(a, b):
    return float((a - b).abs().max())


def test_a_program_enlarges_pictures_of_any_size(tmp_path) -> None:
    model = hcflow()
    write(program_of(model), tmp_path / "model.pt2", "pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for size in ((5, 9), (16, 3)):
        lr = torch.rand(1, 3, *size)
        assert largest(program(lr), model.upscale(lr, temperature=0)[0]) < 1e-5


@pytest.mark.slow
def test_above_zero_the_latents_are_inputs(tmp_path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="pip install flowkit-torch[all]")
    pytest.importorskip("onnxscript", reason="pip install flowkit-torch[all]")
    model = hcflow()
    write(program_of(model, 0.7), tmp_path / "model.onnx", "onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    assert [given.name for given in session.get_inputs()] == ["lr", "z0", "z1"]
    lr = torch.rand(1, 3, 6, 11)
    z = model.draw(lr)
    (got,) = session.run(["hr"], {"lr": lr.numpy(), **{f"z{i}": part.numpy() for i, part in enumerate(z)}})
    expected = model.upscale(lr, temperature=0.7, latents=z)[0]
    assert largest(torch.from_numpy(got), expected) < 1e-4
    assert largest(expected, model.upscale(lr, temperature=0)[0]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["srflow_x4_small", "irn_x4_small", "hcflow_rescale_x4_small"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_every_family(name, temperature, request) -> None:
    if name == "srflow_x4_small" and temperature:
        why = "its encoder halves sizes in floating point, which torch.export can't prove for every size (said in docs)"
        request.applymarker(pytest.mark.xfail(raises=ValueError, strict=True, reason=why))
    torch.manual_seed(0)
    model = perturb(flowkit_models.create(name), 0.02).float()
    program = program_of(model, temperature).module()
    lr = torch.rand(1, 3, 6, 10)
    z = model.draw(lr)
    got = program(lr, z) if temperature else program(lr)
    assert largest(got, model.upscale(lr, temperature=temperature, latents=z)[0]) < 1e-4


def test_a_temperature_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be at least 0 and finite, got -1"):
        program_of(hcflow(), -1)
