"""Image models in folders and repositories, and as entry points of torch.hub."""

from pathlib import Path

import pytest
import torch
from support import tiny_flow

import flowkit
import flowkit_models
from flowkit_models import ImageFlow
from flowkit_models.models.irn.model import IRN

ROOT = Path(__file__).parents[3]


def test_a_folder_holds_all_of_a_model(tmp_path) -> None:
    model = tiny_flow().eval()
    model.save_pretrained(tmp_path / "mine", temperature="0.4", use="tests", license="Apache-2.0")
    again = ImageFlow.from_pretrained(tmp_path / "mine")
    assert again.config == model.config
    assert not again.training
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    card = (tmp_path / "mine" / "README.md").read_text()
    for line in (
        "license: apache-2.0",
        "library_name: flowkit",
        "model.upscale(lr, temperature=0.4)",
        "| use | tests |",
    ):
        assert line in card, line
    assert "HCFlow ×4 of flowkit for super-resolution" in card
    # what a file says of itself goes on with the model, and can be said anew
    again.save_pretrained(tmp_path / "further", use="more")
    noted = flowkit_models.load(tmp_path / "further" / "model.safetensors").notes
    assert (noted["temperature"], noted["use"]) == ("0.4", "more")


def test_files_that_are_no_such_model_are_refused(tmp_path) -> None:
    tiny_flow().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^{tmp_path}: is an HCFlow, no IRN$"):
        IRN.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^hcflow_x5: no such file, and no model that comes with the package"):
        ImageFlow.from_pretrained("hcflow_x5")
    torch.save(tiny_flow().state_dict(), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"a \.safetensors file was expected"):
        ImageFlow.from_pretrained(tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"^hcflow_x4: revision='v1' is of a repository, and this would be a model of"):
        ImageFlow.from_pretrained("hcflow_x4", revision="v1")


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_name_is_not_the_current_folder(empty, tmp_path, monkeypatch) -> None:
    """What a shell or os.environ.get(…, "") makes of a variable that is not set."""
    monkeypatch.chdir(tmp_path)
    tiny_flow().save_pretrained(".")
    flow = flowkit.Flow(flowkit.ActNorm(2), flowkit.StandardNormal())
    for take in (
        ImageFlow.from_pretrained,
        flowkit_models.load,
        tiny_flow().save_pretrained,
        flow.save_pretrained,
        flow.load_pretrained,
        flow.push_to_hub,
    ):
        with pytest.raises(ValueError, match=r"^the name of the model is empty: is a variable not set\? The current"):
            take(empty)
    assert ImageFlow.from_pretrained(".").scale == 4


def test_notes_are_text(tmp_path) -> None:
    for write in (tiny_flow().save_pretrained, lambda path, **about: tiny_flow().save(f"{path}.safetensors", **about)):
        with pytest.raises(TypeError, match=r"^temperature=0\.8: notes are text, write temperature='0\.8'$"):
            write(tmp_path / "mine", temperature=0.8)
    assert not list(tmp_path.iterdir())


def test_revision_and_token_reach_the_hub(tmp_path, monkeypatch) -> None:
    import huggingface_hub  # noqa: PLC0415 - an extra, of the tests too

    tiny_flow().save_pretrained(tmp_path)
    asked = []

    def download(*names: str, **options: object) -> str:
        asked.append((names, options))
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = ImageFlow.from_pretrained("me/model", revision="0a1b", token="t", precision="bf16")
    assert model.precision == "bf16"
    ((names, options),) = asked
    assert names == ("me/model", "model.safetensors")
    assert (options["revision"], options["token"]) == ("0a1b", "t")


def test_torch_hub_lists_and_opens_the_bundled_models() -> None:
    entries = torch.hub._import_module("hubconf", ROOT / "hubconf.py")
    listed = {name for name, entry in vars(entries).items() if callable(entry) and not name.startswith("_")}
    assert listed == {*flowkit_models.list_bundled(), "load", "create"}  # by torch.hub.list's rule
    model = torch.hub.load(str(ROOT), "hcflow_x4", source="local", precision="bf16")
    assert isinstance(model, ImageFlow)
    assert (model.scale, model.precision) == (4, "bf16")
    assert "×4" in entries.hcflow_x4.__doc__
