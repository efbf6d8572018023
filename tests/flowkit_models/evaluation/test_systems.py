"""Systems: what each makes of a pair, how it is found and opened, and what is refused."""

import importlib
import importlib.util

import pytest
import torch
from safetensors.torch import save_file
from support import SIZES, edsr, tiny_flow

import flowkit_models
from flowkit_models.data.image_pair import make_pairs
from flowkit_models.evaluation.baselines import known_baseline
from flowkit_models.evaluation.systems import Bicubic, FlowSystem, Network, ResultsFolder, open_system
from flowkit_models.images.convert import to_float, to_uint8
from flowkit_models.images.image_file import ImageError, write_image


@pytest.fixture(scope="module")
def pair():
    photo = to_uint8(torch.rand(3, 20, 28, generator=torch.Generator().manual_seed(0)))
    return make_pairs({"a": photo}, 4)["a"]


@pytest.fixture(scope="module")
def flow():
    return tiny_flow().eval()


def generator():
    return torch.Generator().manual_seed(3)


def test_bicubic(pair):
    assert torch.equal(Bicubic(4).draw("a", pair, None, 5, None).images, pair.bicubic)


def test_network_is_clamped_and_alone(pair):
    images = Network(lambda lr: 30 * (lr - 0.5).repeat_interleave(4, 2).repeat_interleave(4, 3), 4, "n", {}).draw(
        "a", pair, None, 5, None
    )[0]
    assert images.shape == (1, 3, 20, 28)
    assert (images.min(), images.max()) == (0, 1)


def test_flow_draws_at_its_temperatures(flow, pair):
    system = FlowSystem(flow, "f", (0.0, 0.7))
    assert system.temperatures == (0.0, 0.7)
    assert system.draw("a", pair, 0.0, 3, generator()).images.shape == (1, 3, 20, 28)
    with torch.no_grad():
        expected = flow.upscale(to_float(pair.lr), 3, 0.7, generator())[:, 0]
    drawn = system.draw("a", pair, 0.7, 3, generator())
    assert torch.equal(drawn.images, expected)
    assert drawn.lr is None


def test_rescaling_starts_from_its_own_lr(pair):
    torch.manual_seed(0)
    model = flowkit_models.create("irn_x4_small").eval()
    drawn = FlowSystem(model, "f", (1.0,), rescaling=True).draw("a", pair, 1.0, 2, generator())
    with torch.no_grad():
        lr = model.downscale(to_float(pair.hr))
        expected = model.upscale(lr, 2, 1.0, generator())[:, 0]
    assert torch.equal(drawn.lr, lr)
    assert torch.equal(drawn.images, expected)
    assert not torch.equal(to_uint8(lr), pair.lr)


@pytest.mark.parametrize("suffix", ["", "x4", "_x4", "_SR", "_out", "x4_SR", "-rfanet", ".result"])
def test_results_by_name(tmp_path, pair, suffix):
    for name, value in (("a", 10), ("ab", 20), ("a_b", 30)):
        write_image(tmp_path / f"{name}{suffix}.png", torch.full((3, 20, 28), value, dtype=torch.uint8))
    (tmp_path / "notes.txt").write_text("")
    system = ResultsFolder(tmp_path, ["a", "ab", "a_b"], 4)
    assert [system.draw(name, pair, None, 1, None).images.unique().tolist() for name in ("a", "ab", "a_b")] == [
        [10],
        [20],
        [30],
    ]
    assert system.name == tmp_path.name
    assert len(system.about["sha256 of the files"]) == 64


def test_results_that_are_missing_or_twice_there(tmp_path):
    for name in ("a", "b_1", "b_2"):
        write_image(tmp_path / f"{name}.png", torch.zeros(3, 4, 4))
    with pytest.raises(ImageError, match=r"no image for c, d, e and 1 more$"):
        ResultsFolder(tmp_path, "acdef", 4)
    with pytest.raises(ImageError, match=r"b_1.png and b_2.png are both b"):
        ResultsFolder(tmp_path, "ab", 4)
    with pytest.raises(ImageError, match="no such folder"):
        ResultsFolder(tmp_path / "nowhere", "a", 4)


def test_results_of_other_sizes(tmp_path, pair):
    image = torch.randint(0, 256, (3, 21, 30), dtype=torch.uint8)
    write_image(tmp_path / "a.png", image)
    with pytest.warns(UserWarning, match=r"a.png: cropped from 21 × 30 to 20 × 28"):
        found = ResultsFolder(tmp_path, "a", 4).draw("a", pair, None, 1, None).images
    assert torch.equal(found[0], image[:, :20, :28])
    for height, width in ((19, 28), (24, 28), (5, 7)):
        write_image(tmp_path / "a.png", image.new_zeros(3, height, width))
        with pytest.raises(ImageError, match=rf"a.png: {height} × {width}, but the HR image a is 20 × 28"):
            ResultsFolder(tmp_path, "a", 4).draw("a", pair, None, 1, None)


def test_opening(tmp_path, flow, pair):
    flow.save(tmp_path / "best.safetensors")
    torch.save({"model": edsr(4)}, tmp_path / "edsr.pt")
    published = flowkit_models.create("hcflow_sr_x4", **SIZES, conditional_hidden=4)
    torch.save(published.official_state_dict(), tmp_path / "official.pth")

    assert open_system("bicubic", 4, (0.0,)).name == "bicubic"
    assert open_system("Bicubic & Bicubic=bicubic", 4, (0.0,)).name == "Bicubic & Bicubic"
    ours = open_system(str(tmp_path / "best.safetensors"), 4, (0.0, 0.9))
    assert (ours.name, ours.temperatures) == (f"{tmp_path.name}/best", (0.0, 0.9))
    assert ours.about["kind"] == "HCFlow"
    assert ours.about["parameters"] == sum(p.numel() for p in flow.parameters())
    theirs = open_system(f"HCFlow={tmp_path}/official.pth", 4, (0.0,))
    assert theirs.name == "HCFlow"
    network = open_system(str(tmp_path / "edsr.pt"), 4, (0.0,))
    assert (network.name, network.about["kind"], network.temperatures) == ("edsr", "EDSR", (None,))
    with torch.no_grad():
        expected = known_baseline(edsr(4))[1](to_float(pair.lr)).clamp(0, 1)
    torch.testing.assert_close(network.draw("a", pair, None, 1, None).images, expected, rtol=1e-4, atol=1e-5)


def test_one_line_for_what_cannot_be_opened(tmp_path, flow):
    torch.save(edsr(2), tmp_path / "x2.pt")
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    torch.save({**edsr(4), "head.0.weight": torch.zeros(6, 1, 3, 3)}, tmp_path / "grey.pt")
    (tmp_path / "text.pth").write_text("no checkpoint")
    for given, said in (
        ("x2.pt", r"x2.pt: EDSR ×2, and the table is of ×4: see --scale"),
        ("other.safetensors", r"other.safetensors: looks like another network \(1 tensors: fc.weight\)"),
        ("grey.pt", "grey.pt: named like EDSR, of other shapes: .*"),
        ("text.pth", "text.pth: not a checkpoint"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            open_system(str(tmp_path / given), 4, (0.0,))
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth: no such checkpoint"):
        open_system(str(tmp_path / "nowhere.pth"), 4, (0.0,))


def test_without_spandrel_the_error_names_it(tmp_path, monkeypatch):
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(
        ValueError,
        match=r"no network that flowkit knows; spandrel knows many more: pip install .flowkit-torch\[spandrel\].$",
    ):
        open_system(str(tmp_path / "other.safetensors"), 4, (0.0,))


def test_spandrel_opens_the_rest(tmp_path, pair):
    pytest.importorskip("spandrel", reason="spandrel is an extra")
    rrdb = importlib.import_module("spandrel.architectures.ESRGAN.__arch.RRDB")

    torch.manual_seed(0)
    network = rrdb.RRDBNet(num_filters=8, num_blocks=1).eval()
    torch.save(network.state_dict(), tmp_path / "RRDB.pth")
    system = open_system(str(tmp_path / "RRDB.pth"), 4, (0.0,))
    assert (system.about["kind"], system.scale) == ("ESRGAN (by spandrel)", 4)
    with torch.no_grad():
        expected = network(to_float(pair.lr)).clamp(0, 1)
    torch.testing.assert_close(system.draw("a", pair, None, 1, None).images, expected)
