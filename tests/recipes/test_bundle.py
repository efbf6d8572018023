"""A run's checkpoint becomes a bundled file: what its notes say, and what they don't."""

import json

import pytest
import torch

from flowkit_models import create, list_bundled, load
from flowkit_models.models.checkpoint_file import read_about

NOTES = ("--temperature", "0.7", "--use", "tests", "--recipe", "python x.py", "--data", "noise", "--scores", "none")


@pytest.fixture
def bundle(recipe, tmp_path, monkeypatch):
    """Runs the script into a folder of its own; returns what its exit says."""
    module = recipe("bundle")
    (tmp_path / "bundled").mkdir()
    monkeypatch.setattr("flowkit_models.models.bundled.folder", lambda: tmp_path / "bundled")

    def bundled(*arguments: object):
        options = module.tyro.cli(module.Options, args=[*map(str, arguments), "--out", str(tmp_path / "bundled")])
        return module.run(lambda: module.main(options))

    return bundled


def test_a_run_is_bundled(bundle, train, tmp_path) -> None:
    toy = ("--steps", "2", "--batch", "2", "--crop", "32")
    assert train("irn_rescale", *toy, "--out", str(tmp_path / "run")) == 0
    assert bundle(tmp_path / "run", "toy", *NOTES) == 0
    model = list_bundled()["toy"]
    assert str(model) == "×4, τ = 0.7: tests"
    assert (model.purpose, model.license) == ("rescaling", "Apache-2.0")
    about = read_about(model.path)
    assert about["training"] == "2 of 2 planned steps of 2 crops of 32 × 32"
    assert json.loads(about["run"])["options"]["out"] == "run"
    assert not any(str(tmp_path) in text for text in about.values())
    ours, best = (load(path).state_dict() for path in ("toy", tmp_path / "run" / "best.safetensors"))
    assert all(torch.equal(ours[name], best[name]) for name in best)

    # a new note for a file that is bundled: the others stay
    assert bundle(model.path, "toy", "--use", "more tests") == 0
    assert read_about(model.path) == {**about, "use": "more tests"}

    # its licence among them
    load("toy").save(tmp_path / "theirs.safetensors", **{**about, "license": "CC-BY-NC-4.0"})
    for given, licence in (((), "CC-BY-NC-4.0"), (("--license", "MIT"), "MIT")):
        assert bundle(tmp_path / "theirs.safetensors", "theirs", *given) == 0
        assert list_bundled()["theirs"].license == licence


def test_a_file_without_notes_or_a_large_one_is_not_bundled(bundle, tmp_path, monkeypatch) -> None:
    path = tmp_path / "bare.safetensors"
    create("irn_x4_small").save(path, run="{}", step="3", training="none")
    assert bundle(path, "bare", *NOTES[:-2]) == f"error: {path}: says nothing of scores: give --scores"
    monkeypatch.setattr("bundle.LARGEST", 1000)
    assert bundle(path, "bare", *NOTES) == f"error: {path}: above 0.001 MB, the most of a bundled file"
    assert list_bundled() == {}
