"""Feature networks are torchvision's, with its weights and no others; the perceptual loss's features."""

import sys

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from flowkit_models.metrics.features import FeatureNet, VGGFeatures
from flowkit_models.metrics.pretrained import WeightsError


def random_weights(net):
    """Weights of a network in torchvision's names, small enough to make quickly."""
    with torch.device("meta"):
        features = getattr(torchvision.models, net)().features
    g = torch.Generator().manual_seed(0)
    return {
        f"features.{name}": torch.randn(p.shape, generator=g) / p[0].numel() ** 0.5
        for name, p in features.named_parameters()
    }


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A folder of networks with known, meaningless weights, where the real ones are not needed."""
    folder = tmp_path_factory.mktemp("weights")
    for net in ("alexnet", "vgg16", "vgg19"):
        save_file(random_weights(net), folder / f"{net}_features.safetensors")
    return folder


@pytest.mark.parametrize(("net", "last"), [("alexnet", 12), ("vgg16", 30), ("vgg19", 36)])
def test_taps_are_the_outputs_of_torchvision_s_layers(made_up, net, last):
    with torch.device("meta"):
        theirs = getattr(torchvision.models, net)().features
    ours = FeatureNet(net, tuple(range(last + 1)), made_up)
    theirs.load_state_dict(ours.features.state_dict(), assign=True)
    x = torch.rand(1, 3, 80, 72)
    taps, expected = list(ours(x)), x
    assert len(taps) == len(theirs) == last + 1
    for tap, layer in zip(taps, theirs, strict=True):
        expected = layer(expected.clone())  # torchvision's ReLU writes into its argument; a tap must survive it
        assert torch.equal(tap, expected)


@pytest.mark.parametrize("net", ["alexnet", "vgg16", "vgg19"])
def test_random_weights_are_never_drawn(made_up, net):
    before = torch.get_rng_state()
    ours = FeatureNet(net, (4,), made_up)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.requires_grad or p.is_meta for p in ours.parameters())
    expected = random_weights(net)
    assert all(torch.equal(p, expected[name]) for name, p in ours.named_parameters())
    assert len(ours.features) == 5


def test_without_torchvision_the_error_names_the_extra(made_up, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(WeightsError, match=r'alexnet needs torchvision .*: pip install "flowkit-torch\[metrics\]"'):
        FeatureNet("alexnet", (4,), made_up)


def test_a_torchvision_of_another_torch_is_named(made_up, monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WeightsError, match=r"alexnet needs a torchvision that fits torch .*nms.* from one index"):
        FeatureNet("alexnet", (4,), made_up)


@pytest.mark.parametrize(("net", "smallest"), [("alexnet", 31), ("vgg16", 16), ("vgg19", 16)])
def test_the_smallest_image(made_up, net, smallest):
    whole = FeatureNet(net, (11 if net == "alexnet" else 28,), made_up)
    assert next(whole(torch.rand(1, 3, smallest, 40))).shape[2] == 1
    with pytest.raises(ValueError, match=rf"{net} takes images of {smallest} × {smallest} or more.*{smallest - 1}, 40"):
        next(whole(torch.rand(1, 3, smallest - 1, 40)))


def test_vgg_features_are_the_last_convolution_before_its_relu(made_up):
    x = torch.rand(2, 3, 40, 36)
    mean, std = ([*v] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    normal = torchvision.transforms.functional.normalize(x, mean, std)
    for net, last in (("vgg19", 34), ("vgg16", 28)):
        vgg = VGGFeatures(net, made_up)
        with torch.device("meta"):
            theirs = getattr(torchvision.models, net)().features[: last + 1]
        weights = {k.removeprefix("features."): v for k, v in random_weights(net).items()}
        assert isinstance(theirs[last], torch.nn.Conv2d)
        theirs.load_state_dict({k: v for k, v in weights.items() if k in theirs.state_dict()}, assign=True)
        features = vgg(x)
        assert features.shape == (2, 512, 2, 2)
        assert (features < 0).any()
        torch.testing.assert_close(features, theirs(normal))
        torch.testing.assert_close(vgg((255 * x).byte()), vgg((255 * x).byte() / 255))


def test_labels_say_which_network_it_is(made_up):
    assert VGGFeatures(weights=made_up).label == "VGG-19 conv5_4"
    stand_in = VGGFeatures("vgg16", made_up)
    assert "VGG-16 conv5_3" in stand_in.label
    assert "stand-in" in stand_in.label
    assert len(stand_in.checksum) == 12
    assert str(made_up) in stand_in.source


def test_vgg_features_are_differentiable(made_up):
    vgg = VGGFeatures("vgg16", made_up).double()
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(vgg, x, fast_mode=True)


def test_the_checksum_of_the_real_vgg16(shared):  # whose numbers DISTS and LPIPS are tested with
    vgg = VGGFeatures("vgg16", shared / "weights" / "vgg16_features.safetensors")
    assert vgg.checksum == VGGFeatures("vgg16", shared / "weights").checksum == "441a19f14162"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: FeatureNet("resnet", (0,), folder), "alexnet, vgg16, vgg19.*'resnet'"),
        (lambda folder: VGGFeatures("alexnet", folder), "vgg16 or vgg19.*'alexnet'"),
        (lambda folder: VGGFeatures("vgg16", folder)(torch.rand(1, 1, 32, 32)), r"\(B, 3, H, W\).*\(1, 1, 32, 32\)"),
        (lambda folder: VGGFeatures("vgg16", folder)(torch.rand(3, 32, 32)), r"got \(3, 32, 32\)"),
        (lambda folder: VGGFeatures("vgg16", folder)(torch.ones(1, 3, 32, 32).int()), "torch.int32"),
        (lambda folder: VGGFeatures("vgg16", folder)(torch.full((1, 3, 32, 32), torch.nan)), "NaN"),
        (lambda folder: VGGFeatures("vgg16", folder)(torch.rand(1, 3, 15, 32)), "16 × 16"),
        (lambda folder: VGGFeatures("vgg19", folder / "vgg16_features.safetensors"), "not the weights of vgg19"),
        (lambda folder: VGGFeatures("vgg16", folder / "alexnet_features.safetensors"), "not the weights of vgg16"),
    ],
)
def test_rejects(made_up, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(made_up)
    assert "\n" not in str(error.value)


def test_other_weights_are_a_weights_error(made_up):
    with pytest.raises(WeightsError, match=r"features\.16\.weight is missing, expected \(256, 256, 3, 3\)"):
        VGGFeatures("vgg19", made_up / "vgg16_features.safetensors")
