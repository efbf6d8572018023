"""Sharing of weights: folders and repositories of the Hugging Face hub, which hold `model.safetensors` and a card.

`huggingface_hub` (extra `hub`) is imported when a repository is meant, never for a folder.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowkit.compiling import Compilable

WEIGHTS = "model.safetensors"
"""Name of the weights' file in a folder or repository."""

CARD = "README.md"
"""Name of the model card there."""


class Shared(Compilable):
    """Base class of what can be shared: it has `save_pretrained`, and this makes a repository of what that writes."""

    def save_pretrained(self, folder: str | os.PathLike[str], **about: str) -> None:
        """Writes weights and model card to a folder."""
        raise NotImplementedError

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Weights of flowkit",
        **about: str,
    ) -> str:
        """Uploads weights and model card to a repository of the hub, in one commit; makes the repository if need be.

        A card that the repository has already stays as it is.

        Args:
            repo_id: "owner/name".
            revision: the branch; by default the main one.
            private: whether a repository that is made here is private; None: as the account has it.
            token: of the account; None: the one that `hf auth login` stored.
            commit_message: title of the commit.
            **about: as for `save_pretrained`.

        Returns:
            The commit's hash, which `revision=` takes.

        Raises:
            ImportError: without huggingface_hub.
            OSError: if the hub refuses or can't be reached; one line.
            ValueError: for a name that can't be a repository's.
        """
        check_named(repo_id)
        hub = _hub("push_to_hub")
        with tempfile.TemporaryDirectory() as folder, _Explained(repo_id, revision, CARD):
            self.save_pretrained(folder, **about)
            api = hub.HfApi(token=token, library_name="flowkit")
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            kept = [CARD] if api.file_exists(repo_id, CARD, revision=revision) else None
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                ignore_patterns=kept,
            )
        return str(commit.oid)


class SharedFlow(Shared):
    """Weights of a flow in a folder or repository. They hold numbers only: whoever loads them makes the flow first."""

    def save_pretrained(self, folder: str | os.PathLike[str], **about: str) -> None:
        """Writes `model.safetensors`, atomically, and where there is none a model card, `README.md`.

        Args:
            folder: is made if there is none.
            **about: notes for file and card: `license="apache-2.0"`, `data="…"`.

        Raises:
            TypeError: if a note is no text.
            ValueError: if a weight is not finite, or of a type that no weight has, or the folder's name is empty.
            OSError: if the folder can't be written.
        """
        from safetensors.torch import save_file  # noqa: PLC0415 - only for those who save

        from flowkit.weights_file import check_keys, check_notes  # noqa: PLC0415 - so does this

        check_named(folder)
        folder = Path(folder)
        check_notes(about)
        state = self.state_dict()
        check_keys(state, state, str(folder))
        folder.mkdir(parents=True, exist_ok=True)
        # tied weights are stored under each of their names
        stored = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".flowkit-") as unfinished:
            weights, ordinary = Path(unfinished) / WEIGHTS, Path(unfinished) / "ordinary"
            ordinary.touch()
            save_file(stored, weights, {**about, "format": "pt"})
            weights.chmod(ordinary.stat().st_mode)  # the library makes files that only their owner can read
            weights.replace(folder / WEIGHTS)
        count = sum(parameter.numel() for parameter in self.parameters())
        use = (
            "Make the flow as it was made (below), then\n\n"
            '```python\nflow.load_pretrained("OWNER/NAME", revision="…")  # the hash of a commit pins it\n```\n\n'
            f"```text\n{self}\n```"
        )
        write_card(
            folder, front_matter([], about), about, f"A normalizing flow of flowkit with {count:,} parameters.", use
        )

    def load_pretrained(
        self,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> "SharedFlow":
        """Loads weights into this flow, made as theirs was. All of them fit, or nothing is changed.

        The file is a .safetensors: nothing is executed, and files of other formats are not looked for.

        Args:
            name: a folder with `model.safetensors`, such a file, or a repository of the hub, "owner/name".
            revision: branch, tag or commit of the repository.
            token: of an account, for a private repository.
            cache_dir: where downloads are kept, if not in the hub's own cache.
            local_files_only: take the repository from the cache, without a look at the hub.

        Returns:
            The flow itself.

        Raises:
            FileNotFoundError: if there is no such folder, repository, revision, or no weights in it.
            ImportError: if a repository is meant, without huggingface_hub.
            OSError: if the hub can't be reached.
            ValueError: if the file is damaged, or weights are missing, unexpected, misshapen or not finite; or if a
                revision is asked for, and what has the name is on this machine.
        """
        from flowkit.weights_file import check_keys, read_safetensors  # noqa: PLC0415 - only for those who load

        state, _ = read_safetensors(find_weights(name, revision, token, cache_dir, local_files_only))
        check_keys(self.state_dict(), state, os.fspath(name))
        self.load_state_dict(state)
        return self


def find_weights(
    name: str | os.PathLike[str],
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Path:
    """The weights' file of a folder or repository, which is downloaded if need be; arguments as `load_pretrained`.

    What is there under that path is taken before a repository of the name.

    Raises:
        FileNotFoundError: if there is none.
        ImportError: without huggingface_hub.
        OSError: if the hub can't be reached.
        ValueError: if the name is empty, a file is no .safetensors, or a revision is asked for of what is there under
            that path.
    """
    check_named(name)
    path = Path(name)
    if revision is not None and path.exists():
        raise ValueError(
            f"{path}: revision={revision!r} is of a repository, and this is on this machine: leave the revision out, "
            "or start in another folder"
        )
    if path.is_dir():
        path = path / WEIGHTS
        if not path.is_file():
            raise FileNotFoundError(f"{os.fspath(name)}: the folder has no {WEIGHTS}")
        return path
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(f"{path}: a .safetensors file was expected, nothing else is opened here")
        return path
    repo = os.fspath(name)
    if not _REPOSITORY.fullmatch(repo):
        raise FileNotFoundError(f"{repo}: no such folder or file, and not the name of a repository, owner/name")
    hub = _hub(repo)
    with _Explained(repo, revision, WEIGHTS):
        return Path(
            hub.hf_hub_download(
                repo,
                WEIGHTS,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                library_name="flowkit",
            )
        )


def check_named(name: str | os.PathLike[str]) -> None:
    """Refuses an empty name, which would stand for the current folder.

    Raises:
        ValueError: if it is empty.
    """
    if not os.fspath(name).strip():
        raise ValueError("the name of the model is empty: is a variable not set? The current folder is called .")


_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def front_matter(tags: list[str], about: Mapping[str, str], **more: str) -> str:
    """Head of a card, which the hub reads: library, tags, and the licence if it is a plain identifier."""
    lines = ["library_name: flowkit", *(f"{key}: {value}" for key, value in more.items())]
    lines += ["tags:", *(f"- {tag}" for tag in ["normalizing-flow", *tags])]
    license_ = about.get("license", "").lower()
    lines += [f"license: {license_}"] if re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license_) else []
    return "\n".join(["---", *lines, "---"])


def write_card(folder: Path, head: str, about: Mapping[str, str], what: str, use: str) -> None:
    """Writes a model card, unless the folder has one: a sentence, how to use it, a table of the notes."""
    if (folder / CARD).exists():
        return
    rows = [f"| {name} | {' '.join(text.split()).replace('|', '&#124;')} |" for name, text in about.items()]
    table = "\n".join(["## Notes", "", "| | |", "|---|---|", *rows])
    parts = [head, "# Model card", what, "## Use", use, *([table] if rows else [])]
    (folder / CARD).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _hub(what: str) -> Any:
    """The library.

    Raises:
        ImportError: if it is not installed; says what needs it.
    """
    try:
        import huggingface_hub  # noqa: PLC0415 - an extra
    except ImportError:
        raise ImportError(f'{what}: the hub needs huggingface_hub: pip install "flowkit-torch[hub]"') from None
    return huggingface_hub


class _Explained:
    """Turns the hub's errors into one line that names the repository and what to do.

    Args:
        repo: the repository.
        revision: that was asked for.
        file: that was asked for.
    """

    def __init__(self, repo: str, revision: str | None, file: str) -> None:
        self.repo, self.revision, self.file = repo, revision, file

    def __enter__(self) -> None:
        """Nothing to set up."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Raises the error that explains the hub's."""
        import httpx  # noqa: PLC0415 - comes with huggingface_hub
        from huggingface_hub import errors  # noqa: PLC0415 - an extra

        repo = self.repo
        if isinstance(error, errors.OfflineModeIsEnabled):
            raise FileNotFoundError(
                f"{repo}: the hub was not to be asked: unset HF_HUB_OFFLINE, or name a folder"
            ) from None
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise FileNotFoundError(
                f"{repo}: not in the cache of downloads, and the hub can't be reached or was not to be asked: "
                "connect, or name a folder"
            ) from None
        if isinstance(error, errors.GatedRepoError):
            raise PermissionError(
                f"{repo}: its owner grants access on request: ask on its page, then give token="
            ) from None
        if isinstance(error, errors.RepositoryNotFoundError):
            raise FileNotFoundError(
                f"{repo}: no such folder, and no such repository on the hub, or a private one: for that give token="
            ) from None
        if isinstance(error, errors.RevisionNotFoundError):
            raise FileNotFoundError(f"{repo}: the repository has no revision {self.revision!r}") from None
        if isinstance(error, errors.EntryNotFoundError):
            raise FileNotFoundError(
                f"{repo}: the repository has no {self.file}; other files are not opened: they may hold code"
            ) from None
        if isinstance(error, errors.HFValidationError):
            raise ValueError(f"{repo}: not the name of a repository, owner/name") from None
        if isinstance(error, errors.HfHubHTTPError | httpx.TransportError | ConnectionError):
            raise OSError(f"{repo}: the hub failed: {' '.join(str(error).split())[:200]}") from None
