"""SAIN: its block by formula, the clean LR image, JPEG on the way, temperatures of a mixture."""

import pytest
import torch

import flowkit_models
from flowkit.testing import check_bijector, perturb
from flowkit_models.models.sain.model import SAIN, SAINConfig

TINY = {"enhanced": 2, "blocks": 1, "growth": 3}


def tiny(name="sain_x4_small", memory="plain", **options) -> SAIN:
    torch.manual_seed(0)
    return perturb(flowkit_models.create(name, memory=memory, **{**TINY, **options}), 0.1).double()


@pytest.mark.parametrize(("name", "parameters"), [("sain_x2", 2_015_437), ("sain_x4", 6_493_763)])
def test_published_sizes(name, parameters) -> None:
    model = flowkit_models.create(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    blocks = {"sain_x2": (5, 3), "sain_x4": (10, 6)}[name]
    assert (model.config.enhanced, model.config.blocks) == blocks
    assert len(model.flow.levels[0].body) == (name == "sain_x4") + 1 + 3 * blocks[0] + 2 * blocks[1]


def test_the_blocks_are_the_paper_s() -> None:
    model = tiny(scale=2)
    hr = torch.rand(2, 3, 8, 12).double()
    haar, *parts = model.flow.levels[0].body
    x1, x2 = haar(hr)[0].split([3, 9], 1)
    for enhanced in (True, True, False):
        clean = x1
        if enhanced:
            clean = last = x1 + parts.pop(0).net(x2)
        y1 = clean - parts.pop(0).bijector.net(x2)
        g, h = parts.pop(0).net.nets
        x1, x2 = y1, x2 * (2 * torch.sigmoid(h(y1)) - 1).exp() + g(y1)
    encoded = model.encode(hr)
    assert torch.allclose(encoded.clean_lr, last, atol=1e-14)
    assert torch.allclose(encoded.lr, x1, atol=1e-14)
    assert torch.allclose(model.mixture.quantile(encoded.latents[0]), x2, atol=1e-12)
    stored = (last.clamp(0, 1) * 255).round() / 255
    assert torch.allclose(model.downscale(hr), stored, atol=1e-12)


def test_laws() -> None:
    model = tiny(scale=2, enhanced=1)
    check_bijector(model.flow, torch.rand(2, 3, 2, 4), sizes=[(4, 2)])


def test_there_and_back() -> None:
    model = perturb(flowkit_models.create("sain_x4_small"), 0.02).double().eval()
    hr = torch.rand(1, 3, 32, 48, dtype=torch.float64)
    encoded = model.encode(hr)
    assert (model.decode(encoded.lr, encoded.latents) - hr).abs().max() < 1e-9
    reduced = model.reduce(hr)
    again, recovered = model.restore(reduced.compressed, reduced.details)
    assert (again - hr).abs().max() < 1e-9
    assert (recovered - encoded.clean_lr).abs().max() < 1e-9
    assert torch.equal(model(hr).clean_lr, encoded.clean_lr)
    assert [len(encoded), encoded[0].shape, encoded[2].shape] == [3, (1, 3, 8, 12), (1,)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sain_x2", "sain_x4"])
def test_there_and_back_at_full_size(name) -> None:
    torch.manual_seed(0)
    model = perturb(flowkit_models.create(name), 0.01).double().eval()
    hr = torch.rand(1, 3, 256, 192, dtype=torch.float64)
    with torch.no_grad():
        encoded = model.encode(hr)
        assert (model.decode(encoded.lr, encoded.latents) - hr).abs().max() < 1e-9


def test_any_size_and_a_file_of_its_own(tmp_path) -> None:
    model = tiny().float().eval()
    for height, width in ((1, 1), (3, 7)):
        assert model.upscale(torch.rand(2, 3, height, width), n=2).shape == (2, 2, 3, 4 * height, 4 * width)
        assert model.downscale(torch.rand(2, 3, height, width)).shape == (2, 3, -(-height // 4), -(-width // 4))
    model.save(tmp_path / "m.safetensors")
    loaded = flowkit_models.load(tmp_path / "m.safetensors", memory="lean")
    assert loaded.config == SAINConfig(**TINY)
    assert loaded.survives_jpeg
    assert not flowkit_models.create("irn_x4_small").survives_jpeg
    hr = torch.rand(1, 3, 8, 8)
    assert torch.equal(loaded.downscale(hr), model.downscale(hr))


def test_lean_memory_changes_nothing_but_memory() -> None:
    plain = tiny()
    lean = tiny(memory="lean")
    lean.load_state_dict(plain.state_dict())
    hr = torch.rand(2, 3, 8, 12).double()
    gradients = []
    for model in (plain, lean):
        reduced = model.reduce(hr)
        again, recovered = model.restore(reduced.compressed.clamp(0, 1), 0 * reduced.details)
        sum(x.square().sum() for x in (*reduced, again, recovered)).backward()
        gradients.append([p.grad for p in model.flow.levels[0].body.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_a_temperature_scales_about_the_means_of_the_components() -> None:
    model = tiny(components=2)
    with torch.no_grad():
        model.mixture.means.copy_(torch.tensor([-2.0, 1.0]))
        model.mixture.log_vars.copy_(torch.tensor([-2.0, -3.0]))
        model.mixture.logits.copy_(torch.tensor([0.0, 1.0]))
        z = torch.randn(1, 45, 30, 30, dtype=torch.float64)
        assert torch.equal(model.scaled((z,), 1)[0], z)
        assert not model.scaled((z,), 0)[0].any()
        x = model.mixture.quantile(model.scaled((z,), 0.5)[0])
        for place, log_var, share in zip((x < -0.5, x > -0.5), (-2.0, -3.0), (0.269, 0.731), strict=True):
            assert x[place].std() == pytest.approx(0.5 * torch.tensor(log_var / 2).exp().item(), rel=0.05)
            assert place.double().mean() == pytest.approx(share, abs=0.01)


def test_latents_that_are_given_count_though_none_are_drawn() -> None:
    model = tiny()
    hr = torch.rand(2, 3, 8, 8).double()
    encoded = model.encode(hr)
    assert torch.allclose(model.upscale(encoded.lr, latents=encoded.latents)[0], hr, atol=1e-9)
    assert torch.equal(model.upscale(encoded.lr), model.upscale(encoded.lr, temperature=0))


def test_what_official_files_and_other_sizes_can_not_hold() -> None:
    with pytest.raises(ValueError, match="no official names are known"):
        tiny().official_state_dict()
    for size in (8, (9, 9)):
        with pytest.raises(ValueError, match="size: "):
            tiny().upscale(torch.rand(1, 3, 2, 2).double(), size=size)


def test_draws_of_the_mixture_have_its_moments_and_a_gradient() -> None:
    mixture = tiny(components=3).mixture
    with torch.no_grad():
        mixture.means.copy_(torch.tensor([-1.0, 0.0, 3.0]))
    torch.manual_seed(1)
    drawn = mixture.sample(torch.randn(20_000).double(), torch.rand(20_000, 3).double())
    quantiles = mixture.quantile(torch.randn(20_000).double())
    assert drawn.mean().item() == pytest.approx(quantiles.mean().item(), abs=0.06)
    assert drawn.std().item() == pytest.approx(quantiles.std().item(), rel=0.03)
    drawn.mean().backward()
    assert all(p.grad.abs().min() > 0 for p in mixture.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 3}, "scale must be a power of two"),
        ({"enhanced": 0}, "enhanced must be a whole number from 1"),
        ({"blocks": -1}, "blocks must be a whole number from 0"),
        ({"components": 0}, "components"),
        ({"purpose": "sr"}, 'purpose must be "rescaling"'),
    ],
)
def test_bad_configs(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        flowkit_models.create("sain_x4", **options)
