"""Small models, photographs, and a way to run the demo's tasks in this process."""

import json
import math

import support
import torch

import flowkit_models
from flowkit_models.demo import scene as studio
from flowkit_models.demo.tasks import Tasks
from flowkit_models.images.image_file import write_image
from flowkit_models.images.resize import bicubic_resize

SIZES = {
    "hcflow_sr_x4_small": {**support.SIZES, "conditional_hidden": 4},
    "srflow_x4_small": {"steps": 1, "blocks": 1, "taps": (0,), "features": 4, "growth": 4, "hidden": 4},
    "irn_x4_small": {"blocks": (1, 1), "growth": 4},
}
OPTIONS = ("bicubic", "cut", 50, 50, 0.1, 3, 4)  # kind, fit, row, column, τ, seed, n


def saved(name, folder):
    torch.manual_seed(0)
    path = folder / f"{name}.safetensors"
    model = flowkit_models.create(name, **SIZES[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    model.save(path)
    return str(path)


def make_photo(path, height, width, seed=0):
    rough = torch.rand(3, -(-height // 8), -(-width // 8), generator=torch.Generator().manual_seed(seed))
    write_image(path, bicubic_resize(rough, 8)[:, :height, :width])
    return str(path)


class Direct:
    """Runs tasks here, with results as they come from a worker."""

    first = ""
    tasks = Tasks(96, "cpu", math.inf)

    def run(self, session, checkpoint, name, *arguments, progress=None):
        self.tasks.progress = progress or (lambda done, total: None)
        return json.loads(json.dumps(getattr(self.tasks, name)(*arguments)))


def draws_of(checkpoint, photo, kind="bicubic", temperature=0.1):
    return studio.make_draws(studio.make_scene(studio.open_model(checkpoint), photo, kind, 96), temperature, 3, 4)
