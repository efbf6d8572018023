"""`model.compile`: likelihood, encoding and upscaling of image models are compiled, and the same."""

import copy

import pytest
import torch
from support import tiny_flow
from torch._dynamo.testing import CompileCounter


@pytest.mark.slow
def test_calls_of_an_image_model_are_one_graph_each() -> None:
    model, plain, counter = tiny_flow(), tiny_flow(), CompileCounter()
    model.compile(backend=counter, fullgraph=True)
    for batch in (2, 3):
        hr, lr, noise = torch.rand(batch, 3, 8, 8), torch.rand(batch, 3, 2, 2), torch.rand(batch, 3, 8, 8)
        torch.testing.assert_close(model.nll(hr, lr, noise), plain.nll(hr, lr, noise))
        torch.testing.assert_close(model.encode(hr).lr, plain.encode(hr).lr)
        drawn = [m.upscale(lr, 2, generator=torch.Generator().manual_seed(0)) for m in (model, plain)]
        torch.testing.assert_close(*drawn)
    assert counter.frame_count == 2  # there, and back
    average = copy.deepcopy(model)
    with torch.no_grad():
        for p in average.parameters():
            p.mul_(0.5)
    assert not torch.allclose(average.nll(hr, lr, noise), model.nll(hr, lr, noise))
    with pytest.raises(ValueError, match="contains NaN"):  # the checks stay
        model.nll(hr.fill_(torch.nan), lr)
