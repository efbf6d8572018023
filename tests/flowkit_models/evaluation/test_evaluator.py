"""The scorer and the registry: a metric more is a function and a row, and what scores imports no training engine."""

import subprocess
import sys

import pytest
import torch
from support import tiny_flow

from flowkit_models.data.image_pair import make_pairs
from flowkit_models.evaluation.evaluator import Evaluator, means
from flowkit_models.evaluation.systems import Bicubic, FlowSystem, Network
from flowkit_models.evaluation.tables import results_page
from flowkit_models.images.convert import to_float
from flowkit_models.images.image_file import ImageError
from flowkit_models.metrics import registry
from flowkit_models.metrics.registry import METRICS, Case, Metric, Rules, register


@pytest.fixture
def pairs():
    g = torch.Generator().manual_seed(0)
    return make_pairs({n: torch.randint(0, 256, (3, 32, 40), generator=g).byte() for n in ("a", "b")}, 4)


@pytest.fixture
def flow():
    return tiny_flow().eval()


@pytest.fixture
def brightness(monkeypatch):
    """A metric that is added."""

    def compute(case: Case) -> list[float]:
        return [x.double().mean().item() for x in case.files]

    monkeypatch.setattr(registry, "METRICS", METRICS)
    register(Metric("brightness", "Brightness", 1, "lower", "grey levels; mean, {edges}", compute))
    yield
    del METRICS["brightness"]


def test_a_metric_more_is_a_function_and_a_row(brightness, pairs):
    rules = Rules(4, ("psnr", "brightness"), draws=2)
    rows = Evaluator(rules).score(Bicubic(4), pairs)
    expected = sum(pair.bicubic.double().mean().item() for pair in pairs.values()) / 2
    assert means(rows[0])["brightness"] == pytest.approx(expected)
    about = {"name": "tiny", "names": ["a", "b"], "lr": "made", "sha256": "0", "converted": {}}
    entry = {"system": {"name": "bicubic"}, "protocol": {**rules.protocol(), "weights": {}, "set": about}, "rows": rows}
    page = results_page("Table", {"tiny": [entry]}, rules.metrics).splitlines()
    assert page[2] == "| system | draws | PSNR ↑ | Brightness ↓ |"
    assert page[4].endswith(f"| {expected:.1f} |")
    assert "- Brightness: grey levels; mean, without 4 pixels at every edge" in page


def test_a_name_is_registered_once_and_an_unknown_one_lists_all(brightness):
    with pytest.raises(ValueError, match="'brightness' is registered already"):
        register(Metric("brightness", "B", 1, "lower", "", lambda case: []))
    with pytest.raises(ValueError, match=r"no metric is called 'sharpness'; there are psnr, ssim, .*, brightness$"):
        Evaluator(Rules(4, ("sharpness",)))


@pytest.mark.parametrize("name", [name for name in METRICS if METRICS[name].network is None and name != "niqe"])
def test_every_metric_scores_a_flow(name, flow, pairs):
    (row,) = Evaluator(Rules(4, (name,), draws=2)).score(FlowSystem(flow, "flow", (0.5,)), pairs)
    assert row["not_computed"] == {}
    assert set(row["metrics"][name]["images"]) == {"a", "b"}
    for column in ("heading", "words"):
        assert getattr(METRICS[name], column)


def test_learned_metrics_see_what_the_network_made_or_8_bits(flow, pairs):
    seen = []

    def network(a, b):
        seen.append(a)
        return (a - b).abs().mean((1, 2, 3))

    for rounded in (False, True):
        rules = Rules(4, ("lpips",), draws=1, rounded=rounded)
        (row,) = Evaluator(rules, networks={"lpips": network}).score(FlowSystem(flow, "flow", (0.5,)), pairs)
        whole = [torch.equal(255 * x, (255 * x).round()) for x in seen[-2:]]
        assert whole == [rounded, rounded]
        expected = sum((x - to_float(p.hr)).abs().mean().item() for x, p in zip(seen[-2:], pairs.values(), strict=True))
        assert means(row)["lpips"] == pytest.approx(expected / 2)


def test_each_row_starts_its_draws_anew(flow, pairs):
    evaluator = Evaluator(Rules(4, ("psnr", "bits_per_dim"), draws=2, seed=3))
    before = torch.manual_seed(99).get_state()
    both = evaluator.score(FlowSystem(flow, "flow", (0.3, 0.9)), pairs)
    assert evaluator.score(FlowSystem(flow, "flow", (0.9,)), pairs) == both[1:]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lr: lr, "small: made 8 × 10 of a, whose HR image is 32 × 40"),
        (lambda lr: lr.new_full((1, 3, 32, 40), torch.nan), "small: NaN or infinity in the result for a"),
    ],
)
def test_results_that_are_no_images(call, message, pairs):
    with pytest.raises(ImageError, match=message):
        Evaluator(Rules(4, ("psnr",))).score(Network(call, 4, "small", {}), pairs)


def test_scoring_imports_neither_the_training_engine_nor_the_command():
    code = (
        "import importlib, pkgutil, sys, flowkit_models.evaluation as package\n"
        "for module in pkgutil.walk_packages(package.__path__, 'flowkit_models.evaluation.'):\n"
        "    importlib.import_module(module.name)\n"
        "assert 'flowkit_models.evaluation.evaluator' in sys.modules\n"
        "banned = {'accelerate', 'psutil', 'tyro', 'rich', 'torchvision', 'flowkit_models.training'}\n"
        "assert not banned & set(sys.modules), banned & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
