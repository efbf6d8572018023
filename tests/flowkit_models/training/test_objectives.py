"""The papers' objectives: official losses and gradients, their phases, and what each loss needs."""

from fractions import Fraction

import pytest
import torch
from support import close, opened
from torch import Tensor, nn

import flowkit_models
from flowkit.bases import round_straight_through
from flowkit.testing import perturb
from flowkit_models.data.loader import Batch, Draws
from flowkit_models.images.jpeg import simulate_jpeg
from flowkit_models.images.resize import bicubic_resize
from flowkit_models.models.official_weights import entries
from flowkit_models.training.discriminator import Discriminator
from flowkit_models.training.objectives import (
    IRNRescaling,
    IRNWeights,
    Rescaling,
    RescalingWeights,
    SAINRescaling,
    SAINWeights,
    SRFlowLikelihood,
    SRWeights,
    SuperResolution,
)

SIZES = {"steps": 1, "conditional_steps": 1, "hidden": 4, "conditional_hidden": 4, "features": 3, "growth": 2}
ADVERSARY = SRWeights(nll=2e-3, pixel=1.0, perceptual=5e-2, gan=0.5)


class Recorded(Draws):
    """Draws that give recorded numbers back."""

    def __init__(self, numbers: dict[str, Tensor]) -> None:
        self.numbers = numbers

    def uniform(self, name: str, shape) -> Tensor:
        return self.numbers[name]

    normal = uniform


def gradients(model, stored: dict[str, Tensor]) -> None:
    """Compares the gradients of a model with stored ones, by official name."""
    ours = {key: p.grad.reshape(shape) for key, p, shape in entries(model) if p.grad is not None}
    names = [key for key in stored if key in ours]
    assert len(names) > 50
    for key in names:
        close(ours[key], stored[key].double(), 1e-6)


@pytest.mark.parametrize(
    ("weights", "stored"),
    [(SRWeights(), "grad_nll."), (SRWeights(nll=0, pixel=1.0), "grad_pix_tau0.")],
)
def test_super_resolution_by_official_gradients(weights, stored, golden, tmp_path) -> None:
    file, numbers = golden("hcflow_sr_x4"), golden("hcflow_sr_x4_f64")
    objective = SuperResolution(opened(file.part("sd."), tmp_path).double(), weights)
    batch = Batch(file["hr"].double(), file["lr"].double(), torch.arange(len(file["hr"])))
    out = objective("all", batch, Recorded({"noise": file["noise"].double()}), step=1)
    out.loss.backward()
    gradients(objective.model, numbers.part(stored))


def test_rescaling_by_official_numbers(golden, tmp_path) -> None:
    file, numbers = golden("hcflow_rescale_x4"), golden("hcflow_rescale_x4_f64")
    objective = Rescaling(opened(file.part("sd."), tmp_path).double(), RescalingWeights())
    batch = Batch(file["hr"].double(), file["lr"].double(), torch.arange(len(file["hr"])))
    epsilon = {f"z{i}": file[f"eps_level{1 - i}"].double() for i in range(2)}
    out = objective("all", batch, Recorded(epsilon), step=1)
    scalars = numbers.about["scalars"]
    assert float(out.loss.detach()) == pytest.approx(scalars["loss_total"], rel=1e-9)
    assert float(0.05 * out.logs["lr"]) == pytest.approx(scalars["loss_lr"], rel=1e-9)
    assert float(1e-5 * out.logs["latent"]) == pytest.approx(scalars["loss_z"], rel=1e-9)
    out.loss.backward()
    gradients(objective.model, numbers.part("grad_total."))


@pytest.mark.parametrize("name", ["irn_x4_small", "irn_x2_small", "irn_x3_conv_small"])
def test_irn_by_official_numbers(name, golden, tmp_path) -> None:
    file = golden(name)
    expected = file.part("out64.train.")
    model = opened(file.part("sd."), tmp_path).double()
    weights = IRNWeights(fit=model.scale**2)
    objective = IRNRescaling(model, weights)
    batch = Batch(file["in.hr"].double(), file["in.lr_ref"].double(), torch.arange(len(file["in.hr"])))
    out = objective("all", batch, Recorded({"z0": file["in.z_train"].double()}), step=1)
    close(weights.fit * out.logs["fit"], expected["l_forw_fit"], 1e-9)
    close(out.logs["latent"], expected["l_forw_ce"], 1e-9)
    close(out.logs["back"], expected["l_back_rec"], 1e-9)
    out.loss.backward()
    ours = {key: p.grad for key, p, _ in entries(model)}
    keys = file.about["state_dict_keys_in_order"]
    norms = torch.stack([torch.zeros(()).double() if ours[k] is None else ours[k].norm() for k in keys])
    close(norms, expected["grad_norms"], 1e-6)


@pytest.mark.parametrize("name", ["srflow_x4_small", "srflow_x8_small"])
def test_srflow_by_official_numbers(name, golden, tmp_path) -> None:
    file = golden(name)
    model = opened(file.part("sd."), tmp_path, taps=tuple(file.about["config"]["blocks"])).double()
    batch = Batch(file["in.hr"].double(), file["in.lr"].double(), torch.arange(len(file["in.hr"])))
    out = SRFlowLikelihood(model, pixel=2.0)("all", batch, Draws(0, batch.index), step=1)
    nll, l1 = file["out64.grad.nll.loss"], file["out64.grad.l1.loss"]
    close(out.loss, nll + 2 * l1, 1e-9)


def tiny(**options) -> flowkit_models.ImageFlow:
    torch.manual_seed(0)
    return perturb(flowkit_models.create("hcflow_sr_x4", **SIZES, blocks=((0, 0), (0, 0)), **options), 0.05).double()


def batch_of(size: int = 32) -> Batch:
    hr = torch.rand(2, 3, size, size, dtype=torch.float64)
    return Batch(hr, torch.nn.functional.avg_pool2d(hr, 4), torch.tensor([7, 8]))


def test_consistency_is_the_distance_of_the_samples_lr_image() -> None:
    batch, weights = batch_of(), SRWeights(nll=0.0, consistency=3.0, temperature=0.7)
    out = SuperResolution(tiny(), weights)("all", batch, Draws(0, batch.index), step=1)
    assert out.image is not None
    error = (bicubic_resize(out.image, Fraction(1, 4)) - batch.lr).square().mean()
    close(out.loss, 3 * error, 1e-12)
    assert error > 0


class Shown(nn.Module):
    """A distance that keeps what it was shown."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        self.shown = a, b
        return (a - b).square().mean((1, 2, 3))


def test_lpips_sees_the_same_cut_of_sample_and_image() -> None:
    distance, weights, cuts = Shown(), SRWeights(nll=0.0, lpips=2.0, temperature=0.7), set()
    batch = batch_of()
    objective = SuperResolution(tiny(), weights, distance=distance)
    for start in range(0, 40, 2):
        draws = Draws(0, torch.tensor([start, start + 1]))
        out = objective("all", batch, draws, step=1)
        close(out.loss, 2 * distance(*distance.shown).mean(), 1e-12)
        assert out.image is not None
        for i, (sample, image) in enumerate(zip(*distance.shown, strict=True)):
            places = [
                (y, x)
                for y in range(4)
                for x in range(4)
                if torch.equal(sample, out.image[i, :, y : y + 29, x : x + 29])
            ]
            assert len(places) == 1
            (y, x) = places[0]
            assert torch.equal(image, batch.hr[i, :, y : y + 29, x : x + 29])
            cuts.add((y, x))
    assert {y for y, _ in cuts} == {x for _, x in cuts} == {0, 1, 2, 3}
    out.loss.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in objective.model.parameters())


def full(**options) -> SuperResolution:
    features = nn.Conv2d(3, 4, 3).double().requires_grad_(False)
    return SuperResolution(tiny(), ADVERSARY, features, Discriminator(32, 2).double(), **options)


def test_the_likelihood_can_be_a_part_of_some_steps_only() -> None:
    model, batch = tiny(), batch_of()
    draws = Draws(0, batch.index)
    seldom, always = (SuperResolution(model, SRWeights(pixel=3.0, nll_every=n)) for n in (3, 1))
    for step, there in ((1, True), (2, False), (3, False), (4, True)):
        out, whole = seldom("all", batch, draws, step), always("all", batch, draws, step)
        assert ("nll" in out.logs) == there
        close(out.loss, whole.loss if there else 3 * whole.logs["pixel"], 1e-9)


@pytest.mark.parametrize(("pixel", "every"), [(1.0, 0), (0.0, 2)])
def test_steps_without_a_loss_are_refused(pixel, every) -> None:
    with pytest.raises(ValueError, match="nll_every"):
        SRWeights(pixel=pixel, nll_every=every)


def test_the_official_steps_take_the_likelihood_every_time() -> None:
    with pytest.raises(ValueError, match="nll_every must be 1"):
        SuperResolution(tiny(), SRWeights(pixel=1.0, nll_every=2), official_steps=True)


def test_turns_of_the_official_steps_add_up_to_the_paper_sum() -> None:
    summed, stepped = full(), full(official_steps=True)
    assert [phase.name for phase in summed.phases] == ["all", "discriminator"]
    assert [(t.name, t.trains, t.zero_grad) for t in stepped.phases] == [
        ("nll", "model", True),
        ("pixel", "model", True),
        ("sample", "model", True),
        ("discriminator", "discriminator", True),
    ]
    stepped.load_state_dict(summed.state_dict())
    batch = batch_of()
    draws = Draws(0, batch.index)
    total = summed("all", batch, draws, 1)
    parts = [stepped(name, batch, draws, 1) for name in ("nll", "pixel", "sample")]
    close(sum(part.loss for part in parts), total.loss, 1e-9)
    assert torch.equal(parts[-1].image, total.image)
    discriminator = [
        objective("discriminator", batch, draws, 1, image)
        for objective, image in ((summed, total.image), (stepped, None))
    ]
    close(discriminator[0].loss, discriminator[1].loss, 1e-9)


def test_only_the_official_hcflow_plus_keeps_the_last_gradient() -> None:
    plus = SuperResolution(tiny(), SRWeights(nll=2e-3, pixel=1.0), official_steps=True)
    assert [(phase.name, phase.zero_grad) for phase in plus.phases] == [("nll", False), ("pixel", True)]
    nll = SuperResolution(tiny(), SRWeights(), official_steps=True)
    assert [(phase.name, phase.zero_grad) for phase in nll.phases] == [("nll", True)]


def test_there_is_no_wait_for_a_discriminator_that_is_not_there() -> None:
    model = flowkit_models.create("hcflow_sr_x4_small", **SIZES)
    objective = SuperResolution(model, SRWeights(pixel=1.0), discriminator_first=2)
    assert [phase.name for phase in objective.active(1)] == ["all"]


def test_the_discriminator_comes_first() -> None:
    objective = full(discriminator_first=2)
    assert [phase.name for phase in objective.active(2)] == ["discriminator"]
    assert [phase.name for phase in objective.active(3)] == ["all", "discriminator"]


def test_gradients_go_where_they_should() -> None:
    objective = full()
    batch = batch_of()
    draws = Draws(0, batch.index)
    out = objective("all", batch, draws, 1)
    out.loss.backward()
    assert all(p.grad is not None for p in objective.model.parameters())
    objective.zero_grad()
    objective("discriminator", batch, draws, 1, out.image).loss.backward()
    assert all(p.grad is None for p in objective.model.parameters())
    assert all(p.grad is not None for p in objective.discriminator.parameters())


def test_the_frozen_encoder_gets_no_gradient() -> None:
    torch.manual_seed(0)
    sizes = {"steps": 1, "transitions": 1, "hidden": 4, "blocks": 1, "taps": (0,), "features": 3, "growth": 2}
    objective = SRFlowLikelihood(perturb(flowkit_models.create("srflow_x4", **sizes)).double(), frozen=3)
    batch = batch_of(16)
    for step, frozen in ((3, True), (4, False)):
        objective.requires_grad_(True).zero_grad()
        objective("all", batch, Draws(0, batch.index), step).loss.backward()
        assert (objective.model.encoder.first.weight.grad is None) is frozen


def test_likelihood_as_a_way_to_train_rescaling() -> None:
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("hcflow_rescale_x4_small"), 0.05).double()
    batch = batch_of(16)
    plain, with_nll = (
        Rescaling(model, RescalingWeights(nll=w))("all", batch, Draws(0, batch.index), 1) for w in (0, 0.5)
    )
    close(with_nll.loss - plain.loss, 0.5 * with_nll.logs["nll"], 1e-9)
    assert "bits_per_dim" in with_nll.logs


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sain_s_losses_by_their_formula(temperature) -> None:
    torch.manual_seed(0)
    model = perturb(flowkit_models.create("sain_x4_small", enhanced=1, growth=3), 0.05).double()
    weights = SAINWeights(1.0, 2.0, 3.0, 4.0, 5.0, temperature=temperature, quality=(40, 60))
    batch = batch_of(32)
    draws = Draws(0, batch.index)
    out = SAINRescaling(model, weights)("all", batch, draws, 1)
    y, clean = (model.encode(batch.hr).lr, model.encode(batch.hr).clean_lr)
    stored = round_straight_through(clean)
    quality = 40 + (draws.uniform("quality", (1,))[:, 0] * 21).long()
    assert bool(((quality >= 40) & (quality <= 60)).all())
    files, bicubic = (simulate_jpeg(x.detach(), quality) for x in (stored, batch.lr))
    expected = {
        "clean": (clean - batch.lr).square().sum() / 2,
        "bicubic": (y - bicubic).square().sum() / 2,
        "compressed": (y - files).square().sum() / 2,
    }
    for name, value in expected.items():
        close(out.logs[name], value, 1e-9)
    parts = [getattr(weights, name) * out.logs[name] for name in ("back", *expected, "recovered")]
    close(out.loss, sum(parts), 1e-9)
    if temperature == 0:
        again = model.decode(simulate_jpeg(stored, quality, "4:2:0", "smooth"), (torch.zeros(2, 45, 8, 8).double(),))
        close(out.image, again, 1e-9)
    out.loss.backward()
    body, mixture = model.flow.levels[0].body, model.mixture
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in body.parameters())
    assert mixture.means.grad.abs().min() > 0


def test_irn_plus() -> None:
    torch.manual_seed(0)
    weights = IRNWeights(16.0, 0.0, 0.01, 0.01, 1.0)
    features = nn.Conv2d(3, 4, 3).double().requires_grad_(False)
    model = flowkit_models.create("irn_x4_small").double()
    objective = IRNRescaling(model, weights, features, Discriminator(32, 2).double(), discriminator_first=1)
    batch = batch_of()
    draws = Draws(0, batch.index)
    out = objective("all", batch, draws, 2)
    expected = 16 * out.logs["fit"] + 0.01 * (out.logs["back"] + out.logs["perceptual"]) + out.logs["gan"]
    close(out.loss, expected, 1e-9)
    assert torch.equal(
        objective("discriminator", batch, draws, 2, out.image).loss, objective("discriminator", batch, draws, 2).loss
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SuperResolution(tiny(), ADVERSARY), "perceptual loss needs a network"),
        (lambda: SuperResolution(tiny(), SRWeights(lpips=1.0)), "LPIPS needs its network"),
        (lambda: SuperResolution(tiny(), SRWeights(gan=1.0)), "adversarial loss needs a discriminator"),
        (
            lambda: SuperResolution(tiny(), SRWeights(), discriminator=Discriminator(32, 2)),
            "a discriminator needs its weight",
        ),
        (lambda: SRWeights(nll=0), "nor all zero"),
        (lambda: SRWeights(nll=-1.0), "must not be negative"),
        (lambda: SAINWeights(quality=(50, 40)), r"quality must be a range .* got \(50, 40\)"),
        (lambda: SAINWeights(temperature=0.5), "temperature must be 0 .* or 1"),
    ],
)
def test_what_a_loss_needs(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()
