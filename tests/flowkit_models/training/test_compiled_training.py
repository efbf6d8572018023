"""`--compile`: training goes through graphs, validation does not, and a resumed run keeps it."""

import pytest
import torch
from support import run, tiny_flow
from torch._dynamo.testing import CompileCounter

from flowkit.compiling import Compilable
from flowkit_models import ImageFlow
from flowkit_models.training.options import Options


@pytest.fixture
def counter(monkeypatch) -> CompileCounter:
    """Counts graphs, which then run as they are, since inductor would take minutes."""
    counting = CompileCounter()
    torch.compiler.reset()
    monkeypatch.setattr(ImageFlow, "compile", lambda self: Compilable.compile(self, backend=counting, fullgraph=True))
    return counting


@pytest.mark.slow
def test_a_compiled_run_has_a_graph_each_way_and_the_weights_of_an_eager_one(tmp_path, counter) -> None:
    result = run(tmp_path / "compiled", compile=True, steps=4, validate_every=2, average=0.0)
    assert counter.frame_count == 2  # there for the likelihood and back for a pixel loss: validation has none
    eager = run(tmp_path / "eager", steps=4, validate_every=2, average=0.0)
    for got, expected in zip(result.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"can't resume with another config: training\.compile was True"):
        run(tmp_path / "compiled", resume=True, steps=6, average=0.0)
    assert run(tmp_path / "compiled", resume=True, steps=6, average=0.0, compile=True).step == 6


@pytest.mark.slow
def test_what_is_not_finite_is_found_in_a_compiled_model(tmp_path, counter) -> None:
    result = run(tmp_path / "run", compile=True, steps=3, validate=None, bad=(5,))
    assert result.skipped == 1
    assert "hr of sample 5 is not finite" in (tmp_path / "run" / "log.jsonl").read_text()


def test_the_option_reaches_the_settings_and_a_lean_model_refuses_it() -> None:
    assert Options(compile=True).settings().compile
    assert not Options().settings().compile
    with pytest.raises(ValueError, match=r"^--compile: --memory lean .* use plain$"):
        Options(compile=True, memory="lean").settings()


def test_only_a_run_that_asks_for_it_compiles_its_model(tmp_path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(ImageFlow, "compile", lambda self: asked.extend([self]))
    run(tmp_path / "plain", steps=1, validate=None)
    assert not asked
    result = run(tmp_path / "compiled", steps=1, validate=None, compile=True)
    assert len(asked) == 1
    assert asked[0] is not result.model  # the average is scored and saved
    assert tiny_flow().compile_options is None
