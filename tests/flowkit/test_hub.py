"""Weights of a flow in folders and repositories: strict, without executing anything, with errors of one line."""

import os
import pickle
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors import safe_open

import flowkit
from flowkit import ActNorm, Affine, Coupling, Flow, Permutation, StandardNormal
from flowkit.hub import SharedFlow, find_weights


def made(seed: int, hidden: int = 4) -> Flow:
    torch.manual_seed(seed)
    net = flowkit.nets.MLP(1, 2, hidden)
    flow = Flow(ActNorm(2) >> Permutation([1, 0]) >> Coupling(net, keep=1, kind=Affine("tanh")), StandardNormal())
    return flowkit.testing.perturb(flow, 0.3)


def same(a: Flow, b: Flow) -> bool:
    """Equal weights; that they count as initialised is up to who loads them."""
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


class FakeHub:
    """The hub's functions on a folder: repositories are folders of it, and calls are kept."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls, self.fails = root, [], None

    def hf_hub_download(self, repo_id: str, filename: str, **options) -> str:
        self.calls.append((repo_id, filename, options))
        if self.fails is not None:
            raise self.fails
        return str(self.root / repo_id / filename)

    def api(self, **options) -> "FakeHub":
        self.calls.append(("api", options))
        return self

    def create_repo(self, repo_id: str, **options):
        self.calls.append(("create", repo_id, options))
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(repo_id=repo_id)

    def create_branch(self, repo_id: str, **options) -> None:
        self.calls.append(("branch", repo_id, options))

    def file_exists(self, repo_id: str, filename: str, revision: str | None) -> bool:
        return (self.root / repo_id / filename).exists()

    def upload_folder(self, repo_id: str, folder_path: str, ignore_patterns: list[str] | None, **options):
        self.calls.append(("upload", repo_id, options))
        for file in Path(folder_path).iterdir():
            if file.name not in (ignore_patterns or []):
                shutil.copy(file, self.root / repo_id / file.name)
        return SimpleNamespace(oid="0a1b2c")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.api)
    return fake


def test_a_folder_gives_the_flow_back_without_the_library(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    flow, other = made(0), made(1)
    flow.save_pretrained(tmp_path / "mine", license="MIT", data="two | moons")
    assert not same(flow, other)
    assert other.load_pretrained(tmp_path / "mine") is other
    assert same(flow, other)
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "license: mit\n" in card
    assert "| data | two &#124; moons |" in card
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["README.md", "model.safetensors"]
    (tmp_path / "mine" / "README.md").write_text("by hand")
    flow.save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "by hand"
    needed = r'^me/flow: the hub needs huggingface_hub: pip install "flowkit-torch\[hub\]"$'
    with pytest.raises(ImportError, match=needed):
        flow.load_pretrained("me/flow")


def test_files_have_ordinary_permissions_and_their_format(tmp_path) -> None:
    before = os.umask(0o022)
    try:
        made(0).save_pretrained(tmp_path, format="x")
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {
        "README.md": "0o644",
        "model.safetensors": "0o644",
    }
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"


def test_what_does_not_fit_changes_nothing(tmp_path) -> None:
    flow = made(0)
    made(1, hidden=5).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^{tmp_path}: the weights do not fit: .* misshapen"):
        flow.load_pretrained(tmp_path)
    Flow(ActNorm(2), StandardNormal()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"the weights do not fit: .* missing"):
        flow.load_pretrained(tmp_path)
    assert same(flow, made(0))
    broken = made(2)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        broken.save_pretrained(tmp_path)


def test_no_pickle_is_opened(tmp_path) -> None:
    flow = made(0)
    torch.save(flow.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"^.*: the folder has no model\.safetensors$"):
        flow.load_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a \.safetensors file was expected"):
        flow.load_pretrained(tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="damaged or truncated safetensors file"):
        flow.load_pretrained(tmp_path)


def test_a_repository_there_and_back(hub, tmp_path) -> None:
    flow, other = made(0), made(1)
    assert flow.push_to_hub("me/flow", private=True, token="t", revision="next", license="MIT") == "0a1b2c"
    assert [call[0] for call in hub.calls] == ["api", "create", "branch", "upload"]
    assert hub.calls[0][1]["token"] == "t"
    assert hub.calls[1][2] == {"private": True, "exist_ok": True}
    assert hub.calls[3][2]["revision"] == "next"
    other.load_pretrained("me/flow", revision="0a1b2c", token="t", cache_dir=tmp_path)
    assert same(flow, other)
    options = {"revision": "0a1b2c", "token": "t", "cache_dir": tmp_path, "local_files_only": False}
    assert hub.calls[4] == ("me/flow", "model.safetensors", {**options, "library_name": "flowkit"})
    card = hub.root / "me/flow/README.md"
    card.write_text("by hand")
    other.push_to_hub("me/flow")
    assert card.read_text() == "by hand"


ANSWER = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (errors.RepositoryNotFoundError("a\nb", response=ANSWER), FileNotFoundError, "no such repository on the hub"),
        (errors.GatedRepoError("a\nb", response=ANSWER), PermissionError, "its owner grants access"),
        (errors.RevisionNotFoundError("a\nb", response=ANSWER), FileNotFoundError, "has no revision 'v9'"),
        (errors.RemoteEntryNotFoundError("a\nb", response=ANSWER), FileNotFoundError, "has no model.safetensors"),
        (errors.LocalEntryNotFoundError("a\nb"), FileNotFoundError, "the hub can't be reached"),
        (errors.OfflineModeIsEnabled("a\nb"), FileNotFoundError, "unset HF_HUB_OFFLINE, or name a folder"),
        (errors.HfHubHTTPError("a\nb", response=ANSWER), OSError, "the hub failed: a b"),
        (httpx.ConnectError("a\nb"), OSError, "the hub failed: a b"),  # as uploads fail without a network
    ],
)
def test_errors_of_the_hub_are_one_line(hub, error, kind, told) -> None:
    hub.fails = error
    with pytest.raises(kind) as raised:
        made(0).load_pretrained("me/flow", revision="v9")
    assert str(raised.value).startswith("me/flow: ")
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_names_that_are_nothing_are_told_without_asking_anyone() -> None:
    for name in ("nothing", "a/b/c", "./x/y", "me/"):
        with pytest.raises(FileNotFoundError, match="no such folder or file, and not the name of a repository"):
            find_weights(name)


def test_a_revision_pins_no_folder(tmp_path, monkeypatch) -> None:
    """A folder that happens to have a repository's name is not taken for the commit that was asked for."""
    monkeypatch.chdir(tmp_path)
    made(0).save_pretrained("me/flow")
    for name in ("me/flow", "me/flow/model.safetensors"):
        with pytest.raises(
            ValueError, match=rf"^{name}: revision='v1' is of a repository, and this is on this machine"
        ):
            made(1).load_pretrained(name, revision="v1")


def test_a_note_that_is_no_text_is_told(tmp_path) -> None:
    with pytest.raises(TypeError, match=r"^epochs=3: notes are text, write epochs='3'$"):
        made(0).save_pretrained(tmp_path / "flow", epochs=3)
    assert not list(tmp_path.iterdir())


def test_the_library_itself_finds_what_its_cache_holds_and_says_what_not(tmp_path) -> None:
    """Offline, with a pinned revision, in the layout that the library makes of a download."""
    flow, commit = made(0), "0123456789abcdef0123456789abcdef01234567"
    flow.save_pretrained(tmp_path / "models--me--flow" / "snapshots" / commit)
    refs = tmp_path / "models--me--flow" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    for revision in (None, commit):
        other = made(1).load_pretrained("me/flow", revision=revision, cache_dir=tmp_path, local_files_only=True)
        assert isinstance(other, SharedFlow)
        assert same(flow, other)
    with pytest.raises(FileNotFoundError, match=r"^me/flow: not in the cache of .* connect, or name a folder$"):
        flow.load_pretrained("me/flow", revision="v9", cache_dir=tmp_path, local_files_only=True)
