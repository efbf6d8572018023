"""An exported model beside the model: seconds by onnxruntime and by torch, and the largest difference of a pixel."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from benchmark.measure import Label, Table, interleave, ratios, spread
from benchmark.options import Options
from flowkit_models.data.sample_photos import test_photos
from flowkit_models.images.convert import to_float
from flowkit_models.inference.export import OPSET, program_of, write
from flowkit_models.models.base import ImageFlow
from flowkit_models.models.factory import find_checkpoint, load


@dataclass(frozen=True, kw_only=True)
class Export(Options):
    """An exported model beside the model, on crops of photographs at τ = 0: seconds and the largest difference."""

    model: str = "hcflow_x4"
    """A checkpoint, or a name that `flowkit models` lists."""
    pictures: int = 10
    """How many."""
    side: int = 96
    """Of the LR pictures, in pixels."""

    def toy(self) -> Self:
        """Two small pictures, by a model that is exported quickly."""
        return replace(self, model="rescale_x2", rounds=1, pictures=2, side=8)

    def measure(self, console: Console) -> list[Table]:
        """The table: torch, ONNX, and ONNX with weights in 16 bits, in turns."""
        model = load(find_checkpoint(self.model)).eval()
        pictures = self.crops()
        runners = {"torch": lambda lr: _by_torch(model, lr)}
        sizes = {"torch": ""}
        for name, half in (("onnxruntime", False), ("onnxruntime, --half", True)):
            runners[name], sizes[name] = _by_onnx(model, half, self.threads)
        results = {name: [run(lr) for lr in pictures] for name, run in runners.items()}
        works: dict[Label, Callable[[], object]] = {(name,): _all(run, pictures) for name, run in runners.items()}
        seconds = {label[0]: found for label, found in interleave(works, self.rounds, self.calls).items()}
        rows, numbers = [], {}
        for name, found in results.items():
            pairs = zip(found, results["torch"], strict=True)
            apart = max(float(np.abs(hr - expected).max()) for hr, expected in pairs)
            ratio = ratios(seconds[name], seconds["torch"]).median
            rows.append([name, f"{spread(seconds[name]).median:.2f} s", f"{ratio:.2f}", f"{apart:.1e}", sizes[name]])
            numbers[name] = {"seconds": seconds[name], "ratio": ratio, "difference": apart}
        headings = ["", f"{self.pictures} pictures", "over torch's", "largest difference", "size"]
        note = f"{self.side} × {self.side} pixels, τ = 0, opset {OPSET}, threads: {self.threads}; a pixel is in [0, 1]"
        return [Table(f"Export of {Path(self.model).name}", headings, rows, [note], numbers)]

    def crops(self) -> list[Tensor]:
        """Squares of the photographs in the wheels, (1, 3, side, side) in [0, 1]."""
        photos, random = list(test_photos().values()), np.random.default_rng(self.seed)
        found = []
        for i in range(self.pictures):
            photo = photos[i % len(photos)]
            top, left = (int(random.integers(full - self.side + 1)) for full in photo.shape[1:])
            found.append(to_float(photo[:, top : top + self.side, left : left + self.side])[None])
        return found


def _all(run: Any, pictures: list[Tensor]) -> Any:
    return lambda: [run(lr) for lr in pictures]


def _by_torch(model: ImageFlow, lr: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model.upscale(lr, temperature=0).numpy()


def _by_onnx(model: ImageFlow, half: bool, threads: int) -> tuple[Any, str]:
    """What enlarges a picture by onnxruntime, and the size of the file.

    Raises:
        ImportError: without onnxruntime.
    """
    try:
        import onnxruntime  # noqa: PLC0415 - of the extra `all`
    except ImportError:
        raise ImportError('the exported model is run by onnxruntime: pip install "flowkit-torch[all]"') from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        write(program_of(model, half=half), file, "onnx")
        size = file.stat().st_size
        session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda lr: session.run(["hr"], {"lr": lr.numpy()})[0], f"{size / 2**20:.1f} MiB"
