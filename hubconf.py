"""Entry points of torch.hub: the models that come with the package, by name, and `load` and `create` for others.

    torch.hub.load(REPOSITORY, "hcflow_x4")

takes the repository or, with source="local", a clone of it.
"""

from functools import partial as _partial

from flowkit_models import create, load
from flowkit_models import list_bundled as _list_bundled

dependencies = ["torch", "numpy", "einops", "safetensors", "PIL"]

__all__ = ["create", "load"]

for _name, _model in _list_bundled().items():
    _entry = _partial(load, _model.path)
    _entry.__doc__ = f"{_model}. Options as for `flowkit_models.load`: memory, precision."
    globals()[_name] = _entry
