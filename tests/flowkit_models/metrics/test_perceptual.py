"""LPIPS and DISTS against known values, the authors' packages, and by their laws."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from flowkit_models.images.image_file import read_image
from flowkit_models.metrics.perceptual import DISTS, LPIPS
from flowkit_models.metrics.pretrained import WeightsError
from flowkit_models.metrics.stochastic import diversity_score

PAIRS = ("I03", "I04", "I06", "I08", "I19")
KNOWN = {
    "lpips": (0.7237, 0.2572, 0.0508, 0.0521, 0.4253),
    "dists": (0.4742, 0.1424, 0.0682, 0.0287, 0.3123),
}


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "weights"


@pytest.fixture(scope="module")
def metrics(folder):
    return {"lpips": LPIPS(weights=folder), "lpips-vgg16": LPIPS("vgg16", folder), "dists": DISTS(folder)}


EACH = pytest.mark.parametrize("name", ["lpips", "lpips-vgg16", "dists"])


# VGG16 on a whole picture takes seconds: in the default run on the farthest pair and on the nearest
KNOWN_PAIRS = [
    pytest.param(name, i, marks=[pytest.mark.slow] if name == "dists" and i not in (0, 3) else [])
    for name in KNOWN
    for i in range(5)
]


@pytest.mark.parametrize(("name", "i"), KNOWN_PAIRS)
def test_known_values(shared, metrics, name, i):
    a, b = (
        read_image(shared / "data/calibration" / kind / f"{PAIRS[i]}.bmp")[None] for kind in ("dist_dir", "ref_dir")
    )
    with torch.no_grad():
        distance = metrics[name](a, b)
    assert distance.dtype == torch.float64
    assert distance.tolist() == [pytest.approx(KNOWN[name][i], abs=1e-4)]


@pytest.fixture
def authors(monkeypatch):
    """Runs torchvision's constructors inside the authors' packages without weights of its own."""
    torchvision = pytest.importorskip("torchvision")

    def use(metric):
        layers = torch.nn.Sequential(*metric.net.features)
        for net in ("alexnet", "vgg16"):
            monkeypatch.setattr(torchvision.models, net, lambda **options: SimpleNamespace(features=layers))

    return use


@pytest.mark.parametrize(("name", "net"), [("lpips", "alex"), ("lpips-vgg16", "vgg")])
def test_the_lpips_package_agrees(metrics, authors, name, net):
    lpips = pytest.importorskip("lpips")
    ours = metrics[name]
    authors(ours)
    a, b = torch.rand(2, 2, 3, 47, 66)
    theirs = [lpips.LPIPS(net=net, spatial=spatial, verbose=False) for spatial in (False, True)]
    torch.testing.assert_close(ours(a, b), theirs[0](a, b, normalize=True).flatten().double(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.maps(a, b), theirs[1](a, b, normalize=True)[:, 0], atol=1e-6, rtol=1e-5)


def test_the_dists_package_agrees(metrics, authors, folder):
    package = pytest.importorskip("DISTS_pytorch")
    ours = metrics["dists"]
    plain = LPIPS("vgg16", folder)  # whose network has the max-pooling that theirs replaces
    authors(plain)
    theirs = package.DISTS(load_weights=False)
    total = float(theirs.alpha.numel())
    theirs.alpha.data, theirs.beta.data = (v.float().view(1, -1, 1, 1) * total for v in (ours.alpha, ours.beta))
    a, b = torch.rand(2, 2, 3, 47, 66)
    torch.testing.assert_close(ours(a, b), theirs(a, b).double(), atol=1e-5, rtol=1e-5)


@EACH
@given(st.integers(0, 2**30), st.integers(32, 50), st.integers(32, 50))
def test_laws(metrics, name, seed, height, width):
    metric = metrics[name]
    a, b = torch.rand(2, 2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    distance = metric(a, b)
    assert distance.shape == (2,)
    assert (distance > 0).all()
    torch.testing.assert_close(metric(b, a), distance)
    assert metric(a, a).abs().max() < 1e-6
    torch.testing.assert_close(metric(a[1:], b[1:]), distance[1:], atol=1e-6, rtol=1e-5)


@EACH
def test_differentiable(metrics, name, folder):
    metric = (DISTS(folder) if name == "dists" else LPIPS("vgg16" if "vgg" in name else "alexnet", folder)).double()
    a, b = torch.rand(2, 1, 3, 32, 32, dtype=torch.float64)
    assert torch.autograd.gradcheck(metric, (a.requires_grad_(), b), fast_mode=True)


@EACH
@pytest.mark.parametrize("level", [0.0, 0.5])
def test_gradients_are_finite_where_features_are_equal_or_flat(metrics, name, level):
    a = torch.full((1, 3, 40, 40), level, requires_grad=True)
    for b in (a.detach(), torch.rand(1, 3, 40, 40)):
        (gradient,) = torch.autograd.grad(metrics[name](a, b).sum(), a)
        assert gradient.isfinite().all()


@EACH
def test_autocast_changes_nothing(metrics, name):
    a, b = torch.rand(2, 1, 3, 40, 40)
    with torch.autocast("cpu", torch.bfloat16):
        inside = metrics[name](a, b)
    torch.testing.assert_close(inside, metrics[name](a, b), atol=0, rtol=0)


@EACH
def test_8_bit_images_count_as_levels_over_255(metrics, name):
    a, b = torch.randint(0, 256, (2, 1, 3, 40, 40)).byte()
    torch.testing.assert_close(metrics[name](a, b), metrics[name](a / 255, b / 255))


def test_lpips_maps_say_where(metrics):
    a = torch.rand(1, 3, 96, 96)
    b = a.clone()
    b[..., 60:, 60:] = torch.rand(3, 36, 36)
    where = metrics["lpips"].maps(a, b)[0]
    assert where.shape == (96, 96)
    assert where[70:, 70:].mean() > 10 * where[:25, :25].mean()
    score = diversity_score(torch.stack((b, b.flip(2, 3))), a, metrics["lpips"].maps)
    assert 0 <= score.item() < 100


def test_moving_it_moves_everything(metrics):
    for metric in metrics.values():
        assert not any(p.requires_grad for p in metric.parameters())
        assert metric.state_dict().keys() == {k for k, _ in metric.named_parameters()}
    double = LPIPS(weights=metrics["lpips"].net.source).double()
    a, b = torch.rand(2, 1, 3, 40, 40)
    torch.testing.assert_close(double(a, b), metrics["lpips"](a, b), atol=1e-5, rtol=1e-5)


def test_checksums(metrics):
    assert metrics["lpips"].checksum == "b46189e918b5+020008de29c4"
    assert metrics["lpips-vgg16"].checksum.startswith("441a19f14162+")
    assert metrics["dists"].checksum.startswith("441a19f14162+")


def test_the_authors_packages_are_not_imported_nor_torchvision_before_it_is_needed(folder):
    code = (
        "import sys; from flowkit_models.metrics.perceptual import DISTS, LPIPS; "
        "assert 'torchvision' not in sys.modules; "
        f"LPIPS(weights={str(folder)!r}); DISTS({str(folder)!r}); "
        "assert not {'lpips', 'DISTS_pytorch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@EACH
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: (torch.rand(1, 3, 40, 40), torch.rand(1, 3, 40, 41)), r"of one size.*\(1, 3, 40, 41\)"),
        (lambda: (torch.rand(1, 1, 40, 40), torch.rand(1, 1, 40, 40)), r"\(B, 3, H, W\)"),
        (lambda: (torch.rand(1, 3, 15, 40), torch.rand(1, 3, 15, 40)), "or more, got"),
        (lambda: (torch.ones(1, 3, 40, 40).int(), torch.ones(1, 3, 40, 40)), "torch.int32"),
        (lambda: (torch.rand(1, 3, 40, 40), torch.full((1, 3, 40, 40), torch.nan)), "NaN"),
    ],
)
def test_rejects(metrics, name, make, message):
    with pytest.raises(ValueError, match=message) as error:
        metrics[name](*make())
    assert "\n" not in str(error.value)


def test_without_weights_the_reason_is_one_line(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.urlopen", offline)
    for make in (LPIPS, lambda: LPIPS("vgg16"), DISTS):
        with pytest.raises(WeightsError, match="no route to host") as error:
            make()
        assert "\n" not in str(error.value)
    save_file({"features.0.weight": torch.rand(64, 3, 3, 3)}, tmp_path / "vgg.safetensors")
    with pytest.raises(WeightsError, match="not the weights of vgg16"):
        DISTS(tmp_path / "vgg.safetensors")
    with pytest.raises(ValueError, match="alexnet, vgg16, got 'squeeze'"):
        LPIPS("squeeze", folder)
