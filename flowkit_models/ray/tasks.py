"""Rows of a Ray data set, done one by one wherever the cluster has room, and done again where a node was lost.

They are tasks and not actors: a task that was on a lost node runs on any other, an actor waits for room of its own. A
process of the cluster opens a model once and keeps it from task to task, so that there is one for each GPU or group
of cores all the same.
"""

import os
import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flowkit_models import devices
from flowkit_models.ray.storage import listed

Row = dict[str, Any]


def library() -> Any:
    """Ray, connected to a cluster, or to one of this machine's processes that it starts.

    Raises:
        ImportError: without it.
    """
    try:
        import ray  # noqa: PLC0415 - an extra
        import ray.data  # noqa: PLC0415
    except ImportError:
        raise ImportError('flowkit_models.ray needs Ray: pip install "flowkit-torch[ray]"') from None
    if not ray.is_initialized():
        ray.init()
    return ray


def rows_of(dataset: Any, root: str | None) -> tuple[Any, str]:
    """A data set with the column `path`, and what its paths are relative to.

    Args:
        dataset: a Ray data set with that column; a folder, file or URL; or several of these.
        root: a start of the paths; None: the folder that was named, or all of the path counts.

    Raises:
        FileNotFoundError: if a folder holds no pictures.
    """
    ray = library()
    if isinstance(dataset, ray.data.Dataset):
        return dataset, root or ""
    if isinstance(dataset, str | os.PathLike):
        paths, found = listed(os.fspath(dataset))
        root = found if root is None else root
    else:
        paths = [os.fspath(path) for path in dataset]
    items = [{"path": path} for path in paths]
    # small blocks: what is lost with a node is little
    return ray.data.from_items(items, override_num_blocks=max(1, min(len(items), 1000))), root or ""


def each(
    dataset: Any,
    do: Callable[..., Row],
    spec: Any,
    cpus: float = 1,
    gpus: float | None = None,
    at_once: int | None = None,
) -> Any:
    """Does the rows of a data set.

    Args:
        dataset: of Ray.
        do: makes the row of a result of a row and `spec`; a function of a module.
        spec: can be pickled.
        cpus: cores of a task.
        gpus: of a task; None: one where the cluster has any.
        at_once: tasks that run at the same time; None: as many as there is room for.

    Returns:
        A data set of the results, all of them done.
    """
    ray = library()
    gpus = float(ray.cluster_resources().get("GPU", 0) > 0) if gpus is None else gpus
    return dataset.map(
        do,
        fn_kwargs={"spec": spec},
        num_cpus=cpus,
        num_gpus=gpus,
        # lost nodes' tasks are done again by themselves; errors of a row are in its result
        compute=None if at_once is None else ray.data.TaskPoolStrategy(size=at_once),
        max_calls=0,  # a process with a GPU is kept as well, and its model with it
    ).materialize()


def settle(cpus: float) -> None:
    """Makes this process take a task's part of the machine."""
    torch.set_num_threads(max(1, int(cpus)))
    devices.SHARERS = max(1, int((os.cpu_count() or 1) // max(1.0, cpus)))


def for_all(model: str) -> str:
    """The path of a checkpoint that is here, from the root on; other names (of bundled models, URLs) as they are."""
    return str(Path(model).absolute()) if Path(model).is_file() else model


def below(path: str, root: str) -> str:
    """The part of a path after `root`; all but its protocol and drive if it does not start so.

    >>> below("s3://all/a/b.png", "s3://all"), below("s3://all/a/b.png", "")
    ('a/b.png', 'all/a/b.png')
    """
    start = root.rstrip("/") + "/"
    rest = path[len(start) :] if root and path.startswith(start) else path.partition("://")[2] or path
    return posixpath.normpath(rest.replace("..", "__")).lstrip("/")


def told(error: BaseException) -> str:
    """The message of an exception, in one line."""
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FileNotFoundError) and error.errno is None and ": " not in message:
        return f"{message}: no such file"  # fsspec says the path alone
    return message
