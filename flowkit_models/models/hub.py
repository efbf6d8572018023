"""Image models in folders and repositories of the Hugging Face hub (`flowkit.hub`), which hold all that makes them."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

from flowkit.hub import WEIGHTS, Shared, check_named, find_weights, front_matter, write_card
from flowkit.weights_file import check_notes
from flowkit_models.models.bundled import find_bundled
from flowkit_models.models.words import PURPOSES, factors


class SharedModel(Shared):
    """Base class of the image models: `from_pretrained`, `save_pretrained`, `push_to_hub`.

    Attributes:
        notes: of the checkpoint that the model was loaded from: recommended τ, licence, how it was trained.
    """

    open_file: ClassVar[Callable[..., Any] | None] = None
    """`flowkit_models.load`, which the factory leaves here: it knows the families, and they this class."""

    notes: dict[str, str]
    config: Any
    scale: int
    any_scale: bool

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        memory: str = "plain",
        precision: str = "float32",
        **overrides: Any,
    ) -> Self:
        """Opens a model from a folder, a repository of the hub, or the package; in eval mode, on the CPU.

        The file is a .safetensors; flowkit's own hold the config as well. Nothing is executed, all weights fit, and
        other formats are not looked for: `flowkit_models.load` opens files of any kind.

        Args:
            name: a folder with `model.safetensors`, such a file, a repository, "owner/name", or a bundled model's name.
            revision: branch, tag or commit of the repository.
            token: of an account, for a private repository.
            cache_dir: where downloads are kept, if not in the hub's own cache.
            local_files_only: take the repository from the cache, without a look at the hub.
            memory: as for `create`.
            precision: as for `create`.
            **overrides: as for `load`.

        Raises:
            FileNotFoundError: if there is no such folder, repository, revision, or no weights in it.
            ImportError: if a repository is meant, without huggingface_hub.
            OSError: if the hub can't be reached.
            ValueError: if the name is empty, the file is no checkpoint, or damaged, or of another class of models; or
                if a revision is asked for, and what has the name is no repository.

        Example:
            >>> from flowkit_models import ImageFlow
            >>> ImageFlow.from_pretrained("hcflow_x4").scale
            4
        """
        check_named(name)
        bare = "/" not in os.fspath(name) and os.sep not in os.fspath(name) and not Path(name).exists()
        if bare and revision is not None:
            raise ValueError(
                f"{os.fspath(name)}: revision={revision!r} is of a repository, and this would be a model of the package"
            )
        path = find_bundled(name) if bare else find_weights(name, revision, token, cache_dir, local_files_only)
        if SharedModel.open_file is None:
            raise RuntimeError("from_pretrained: import it with `from flowkit_models import ImageFlow`")
        model = SharedModel.open_file(path, memory=memory, precision=precision, **overrides)
        if not isinstance(model, cls):
            raise ValueError(f"{os.fspath(name)}: is an {type(model).__name__}, no {cls.__name__}")
        return model

    def save_pretrained(self, folder: str | os.PathLike[str], **about: str) -> None:
        """Writes `model.safetensors`, atomically, and where there is none a model card, `README.md`.

        Args:
            folder: is made if there is none.
            **about: notes for file and card, in place of those that the model was loaded with, or beside them:
                `temperature="0.8"` (recommended τ), `use=`, `license=`, `data=`, `training=`, `scores=`.

        Raises:
            TypeError: if a note is no text.
            ValueError: if the folder's name is empty.
            OSError: if the folder can't be written.
        """
        check_named(folder)
        folder = Path(folder)
        check_notes(about)
        folder.mkdir(parents=True, exist_ok=True)
        notes = {**self.notes, **about}
        self.save(folder / WEIGHTS, **notes)
        told = {name: text for name, text in sorted(notes.items()) if name != "run"}
        told |= {f"config: {name}": str(value) for name, value in dataclasses.asdict(self.config).items()}
        purpose = PURPOSES[self.config.purpose]
        count = sum(parameter.numel() for parameter in self.parameters())
        tau = told.get("temperature", "0.8")
        use = (
            "```python\nfrom flowkit_models import ImageFlow\n\n"
            'model = ImageFlow.from_pretrained("OWNER/NAME", revision="…")  # the hash of a commit pins it\n'
            f"hr = model.upscale(lr, temperature={tau})[0]  # lr: (B, 3, h, w), RGB in [0, 1]\n```\n\n"
            "The same file serves `flowkit upscale photo.jpg -m model.safetensors`."
        )
        name = f"{type(self).__name__} {factors(self.scale, self.any_scale)}"
        what = f"{name} of flowkit for {purpose}, {count:,} parameters"
        write_card(
            folder,
            front_matter(["image-super-resolution"], told, pipeline_tag="image-to-image"),
            told,
            f"{what}: {told['use']}." if "use" in told else f"{what}.",
            use,
        )

    def save(self, path: str | os.PathLike[str], **about: str) -> None:
        """Writes weights and config to a file."""
        raise NotImplementedError
