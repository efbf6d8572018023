"""The discriminator against the official one's numbers, and at other crop sizes."""

import math

import pytest
import torch
from support import close, key_list
from torch import Tensor

from flowkit_models.training.discriminator import Discriminator
from flowkit_models.training.losses import adversarial


def formula(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the golden file: see disc.formula in its description."""
    parameters = [name for name in state if not name.rpartition(".")[2].startswith(("running", "num"))]
    made = {}
    for k, name in enumerate(parameters):
        shape = state[name].shape
        i = torch.arange(state[name].numel(), dtype=torch.float64)
        s = torch.sin(0.7 * (k + 1) + 0.37 * i + 0.0013 * (k + 1) * i).view(shape)
        if len(shape) >= 2:
            value = s * 2 / math.sqrt(math.prod(shape[1:]))
        else:
            value = 1 + 0.1 * s if name.endswith("weight") else 0.1 * s
        made[name] = value.float()
    return {**state, **made}


def test_official_numbers(golden) -> None:
    numbers = golden("hcflow_components")
    discriminator = Discriminator()
    discriminator.load_state_dict(formula(discriminator.state_dict()))
    discriminator.double()  # batch norm of two images makes rounding, which is each processor's, much larger
    b, c, i, j = torch.meshgrid(*(torch.arange(n) for n in (2, 3, 160, 160)), indexing="ij")
    images = (0.5 + 0.5 * torch.sin((0.05 * i * (c + 1) + 0.03 * j * (b + 1)).double())).float().double()
    with torch.no_grad():
        logits = discriminator.train()(images)
        later = discriminator.eval()(images)
    close(logits, numbers["disc.out_train_mode"], 2e-4)  # was computed in float32: 1.4e-4 from the exact numbers
    close(later, numbers["disc.out_eval_after_one_train_step"], 1e-6)
    close(discriminator.state_dict()["bn0_1.running_mean"], numbers["disc.bn0_1.running_mean_after"], 1e-6)
    expected = numbers.about["scalars"]["gan_loss"]
    real, fake = logits[:1], logits[1:]
    assert float(adversarial(fake, True)) == pytest.approx(expected["g"], abs=1e-4)
    assert float(adversarial(real, True)) == pytest.approx(expected["d_real"], abs=1e-4)
    assert float(adversarial(fake, False)) == pytest.approx(expected["d_fake"], abs=1e-4)


def test_official_names_and_size(shared) -> None:
    state = Discriminator().state_dict()
    assert {name: list(t.shape) for name, t in state.items()} == key_list(shared, "hcflow_keys_disc_160")
    assert sum(p.numel() for p in Discriminator().parameters()) == 14_960_201


@pytest.mark.parametrize("size", [32, 63, 64, 144])
def test_any_crop_size(size) -> None:
    assert Discriminator(size, features=2)(torch.rand(2, 3, size, size)).shape == (2, 1)


def test_wrong_sizes_are_said() -> None:
    with pytest.raises(ValueError, match="at least 32 pixels a side, got 31"):
        Discriminator(31)
    with pytest.raises(ValueError, match="made for crops of 64 × 64"):
        Discriminator(64, 2)(torch.rand(1, 3, 96, 64))
