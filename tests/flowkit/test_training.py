"""`flowkit.fit`: it finds densities, keeps the best weights, leaves randomness alone and names bad data."""

import copy
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import flowkit
from flowkit import fit


def normal_rows(n=600, features=2, seed=0):
    return 3 + 2 * torch.randn(n, features, generator=torch.Generator().manual_seed(seed))


def banana(n):
    z = torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    return torch.stack([z[:, 0], z[:, 0] ** 2 + 0.3 * z[:, 1]], 1)


def gaussian(features=2):
    return flowkit.Flow(flowkit.ActNorm(features), flowkit.StandardNormal())


def coupled(features=2, context=0, seed=0):
    torch.manual_seed(seed)
    parts = [flowkit.ActNorm(features)]
    for flip in (False, True):
        passive = features - 1 if flip else 1
        net = flowkit.nets.MLP(passive, 2 * (features - passive), 32, context_features=context)
        parts.append(flowkit.Coupling(net, 1, flowkit.Affine("tanh", clamp=2.0), flip=flip))
    return flowkit.Flow(flowkit.Chain(*parts), flowkit.StandardNormal(), shape=(features,))


class Positive(flowkit.Bijector):
    """log of every number; outside its support the log-det is −inf, as flowkit's maps have it."""

    def forward(self, x, context=None):
        inside = x > 0
        y = torch.where(inside, x, 1.0).log()
        return y, torch.where(inside, -y, -math.inf).flatten(1).sum(1)

    def inverse(self, y, context=None):
        return y.exp(), y.flatten(1).sum(1)


def test_it_learns_a_banana() -> None:
    flow = coupled()
    history = fit(flow, banana(2000), epochs=40, lr=5e-3)
    entropy = 1 + math.log(2 * math.pi) + math.log(0.3)
    assert history.start > entropy + 0.5
    assert abs(min(history.validation) - entropy) < 0.12
    assert len(history.train) == len(history.validation) <= 40


def test_conditions_are_used() -> None:
    context = torch.randn(1500, 1, generator=torch.Generator().manual_seed(2))
    x = torch.cat([normal_rows(1500, 1), context + 0.1 * normal_rows(1500, 1, 3)], 1)
    history = fit(coupled(context=1), x, context, epochs=15, lr=1e-2)
    assert min(history.validation) < history.start - 1


def test_best_weights_by_validation_stay() -> None:
    flow = coupled()
    x = banana(60)  # overfits
    seen = []
    history = fit(
        flow,
        x,
        epochs=60,
        lr=2e-2,
        batch=16,
        patience=60,
        validation=0.3,
        callback=lambda h: seen.append(copy.deepcopy(flow.state_dict())),
    )
    assert 0 < history.best_epoch < 60
    assert history.validation[history.best_epoch - 1] == min(history.validation)
    for name, value in flow.state_dict().items():
        assert torch.equal(value, seen[history.best_epoch - 1][name])
    assert not torch.equal(seen[-1]["bijector.parts.0.bias"], flow.state_dict()["bijector.parts.0.bias"])


def test_patience_ends_it_and_so_does_the_callback() -> None:
    history = fit(coupled(), normal_rows(60), epochs=60, lr=2e-2, batch=16, patience=3, validation=0.3)
    assert len(history.train) == history.best_epoch + 3 < 60
    history = fit(coupled(), normal_rows(60), epochs=60, callback=lambda h: len(h.train) == 2)
    assert len(history.train) == 2


def test_without_validation_the_last_weights_stay() -> None:
    history = fit(gaussian(), normal_rows(), epochs=3, validation=0)
    assert history.validation == []
    assert history.best_epoch == len(history.train) == 3


def test_rows_can_be_held_out_by_number() -> None:
    x = normal_rows(60)
    x[[3, 5]] += 1000
    flow = gaussian()
    history = fit(flow, x, epochs=2, validation=torch.tensor([5, 3]))
    assert history.validation[0] > 10_000 > history.train[0]
    for rows in (torch.tensor([3, 3]), torch.tensor([60]), torch.arange(60)):
        with pytest.raises(ValueError, match=r"validation must name rows that take part, each once and not all 60"):
            fit(flow, x, validation=rows)


def test_one_seed_one_result_and_randomness_outside_is_as_it_was() -> None:
    def trained(seed):
        torch.manual_seed(5)
        flow = flowkit.Flow(
            flowkit.Chain(flowkit.Dequantize(2), *coupled().bijector.parts), flowkit.StandardNormal(), (2,)
        )
        torch.manual_seed(seed + 100)  # what comes from outside does not matter
        before = torch.get_rng_state()
        history = fit(flow, normal_rows().round(), epochs=3, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return history, flow.state_dict()

    (one, weights), (again, same), (other, _) = trained(1), trained(1), trained(2)
    assert one == again
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert one != other


def test_modes_frozen_parameters_and_initialised_layers_stay() -> None:
    flow = coupled()
    flow.bijector.parts[1].eval()
    flow.bijector.parts[2].requires_grad_(False)
    frozen = copy.deepcopy(flow.bijector.parts[2].state_dict())
    fit(flow, normal_rows(), epochs=1)
    assert flow.training
    assert not flow.bijector.parts[1].net.training
    assert all(torch.equal(v, frozen[n]) for n, v in flow.bijector.parts[2].state_dict().items())
    assert flow.bijector.parts[0].initialized
    fit(flow, normal_rows(), epochs=1)  # no warning that it was initialised before


def test_weights_of_rows() -> None:
    x = torch.cat([normal_rows(400), -100 + normal_rows(400, seed=1)])
    weights = torch.cat([torch.ones(400), torch.zeros(400)])
    flow = gaussian()
    fit(flow, x, epochs=2, weights=weights)
    assert torch.allclose(-flow.bijector.bias, torch.tensor([3.0, 3.0]), atol=0.5)
    uneven = torch.cat([torch.full((400,), 3.0), torch.full((400,), 1.0)])
    flow = gaussian()
    fit(flow, x, epochs=400, lr=0.3, weights=uneven, batch=7000, validation=0, patience=400)
    mean = (uneven[:, None] * x).sum(0) / uneven.sum()
    assert torch.allclose(-flow.bijector.bias, mean, rtol=0.05)


def test_a_batch_counts_as_much_as_its_rows() -> None:
    """With batches of one row, normalised weights would all be 1."""
    x = torch.cat([torch.zeros(30, 1), torch.ones(30, 1)]) + 0.01 * normal_rows(60, 1)
    weights = torch.cat([torch.full((30,), 9.0), torch.ones(30)])
    flow = gaussian(1)
    flow.bijector.initialized.fill_(True)
    fit(flow, x, epochs=25, lr=0.05, batch=1, weights=weights, validation=0)
    assert -float(flow.bijector.bias.detach()) == pytest.approx(0.1 + 0.03, abs=0.08)


def test_images_and_other_peoples_modules() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(()))

        def log_prob(self, x, context=None):
            return -(x - self.mean).square().flatten(1).sum(1)

    module = Plain()
    fit(module, 1 + torch.rand(300, 3, 4, 4), epochs=20, lr=0.1)
    assert float(module.mean.detach()) == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("features", [1, 3])
def test_one_column(features) -> None:
    history = fit(gaussian(features), normal_rows(features=features), epochs=2)
    assert math.isfinite(history.validation[-1])


def test_one_row_is_told_and_trained_on() -> None:
    flow = coupled()
    flow.bijector.parts[0].initialized.fill_(True)
    with pytest.warns(UserWarning, match=r"there is one row: its density can grow without bound"):
        history = fit(flow, normal_rows(1), epochs=3)
    assert history.validation == []
    assert len(history.train) == 3


@pytest.mark.filterwarnings("ignore:initialize.*constant:UserWarning")
def test_constant_columns_are_named() -> None:
    x = normal_rows(features=3)
    x[:, 1] = 4
    with pytest.warns(UserWarning, match=r"fit: column 1 of x constant.*Dequantize"):
        history = fit(coupled(3), x, epochs=1)
    assert math.isfinite(history.train[0])


def bad(change):
    x, context, weights = normal_rows(), normal_rows(seed=1), torch.ones(600)
    change(x, context, weights)
    return {"x": x, "context": context, "weights": weights}


def put(which, row, column, value):
    def change(*tensors):
        tensors[which][(row, column) if which < 2 else row] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(0, [7, 20], 1, math.nan), "x has NaN or infinity in rows 7, 20 (column 1)"),
        (put(0, 3, 0, math.inf), "x has NaN or infinity in row 3 (column 0)"),
        (put(0, slice(0, 9), slice(0, 2), math.nan), "in rows 0, 1, 2, 3, 4, … (9 of them) (columns 0, 1)"),
        (put(1, 5, 0, math.nan), "the context has NaN or infinity in row 5 (column 0)"),
        (put(2, 5, 0, -1.0), "weights must be finite, not negative and not all 0; they are not in row 5"),
        (put(2, slice(None), 0, 0.0), "all are 0"),
    ],
)
def test_bad_rows_are_named(change, words) -> None:
    flow = coupled(context=2)
    before = copy.deepcopy(flow.state_dict())
    with pytest.raises(ValueError, match=re.escape(words)):
        fit(flow, **bad(change))
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


@pytest.mark.filterwarnings("ignore:initialize.*constant:UserWarning")  # what stands for rows that are all outside
def test_rows_outside_a_support_are_named_with_their_column() -> None:
    x = normal_rows(features=3).abs() + 0.1
    x[[4, 9], 2] = -1
    x[9, 0] = 0
    flow = flowkit.Flow(flowkit.Chain(Positive(), *coupled(3).bijector.parts), flowkit.StandardNormal(), (3,))
    before = copy.deepcopy(flow.state_dict())
    with pytest.raises(ValueError, match=r"outside the flow's support \(log_prob is −inf\) in rows 4, 9, because of c"):
        fit(flow, x, epochs=1)
    with pytest.raises(ValueError, match=r"because of columns 0, 2$"):
        fit(flow, x, epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    with pytest.raises(ValueError, match=r"in rows 0, 1, 2, 3, 4, … \(600 of them\)$"):
        fit(flow, -x.abs() - 1, epochs=1)
    x[[4, 9]] = x[[0, 1]]
    fit(flow, x, epochs=1)


@pytest.mark.filterwarnings("error:fit. x lies outside")
@pytest.mark.parametrize(
    "b",
    [
        flowkit.biject_to(torch.distributions.Uniform(torch.zeros(2), torch.ones(2))).inv,
        flowkit.biject_to(torch.distributions.constraints.simplex).inv,
        flowkit.distributions.from_transform(
            torch.distributions.StackTransform([torch.distributions.ExpTransform().inv] * 2, -1)
        ),
        flowkit.distributions.from_transform(torch.distributions.SigmoidTransform().inv),
    ],
    ids=lambda b: repr(b)[:30],
)
def test_data_in_any_domain_are_taken(b) -> None:
    x = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    x = x / x.sum(1, keepdim=True)
    with torch.no_grad():
        features = b(x)[0].shape[1]
    fit(flowkit.Flow(b >> flowkit.ActNorm(features), flowkit.StandardNormal()), x, epochs=1)


def test_angles_beyond_one_turn_are_told() -> None:
    """They have a density; but a network steered by 5 is not one steered by 5 − 2π, which is what is drawn."""
    angle = flowkit.RationalQuadratic(3, math.pi, ends="circular")
    b = flowkit.Autoregressive(flowkit.nets.MADE(2, angle.parameters, 16), angle)
    flow = flowkit.Flow(b, flowkit.Box([-math.pi] * 2, [math.pi] * 2))
    x = 6 * torch.rand(50, 2, generator=torch.Generator().manual_seed(0)) - 3
    fit(flow, x, epochs=1)
    x[[3, 7], 1] = 5.0
    with pytest.warns(UserWarning, match=r"outside the flow's domain in rows 3, 7 \(column 1\); bring angles"):
        fit(flow, x, epochs=1)


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (
            torch.zeros(5),
            {},
            r"rows \(N, ...\) with N ≥ 1, got \(5,\) float32, one column is x\[:, None\]",
        ),
        (torch.zeros(0, 2), {}, r"got \(0, 2\)"),
        (torch.zeros(5, 2, dtype=torch.int64), {}, r"got \(5, 2\) int64"),
        (normal_rows(), {"context": torch.zeros(5, 1)}, r"the context must have 600 rows, as x, got \(5, 1\)"),
        (normal_rows(), {"weights": torch.ones(5)}, r"weights must be \(600,\), one a row, got \(5,\)"),
        (normal_rows(), {"epochs": 0}, "epochs must be at least 1, got 0"),
        (normal_rows(), {"validation": 1}, r"validation must be a number in \[0, 1\), got 1"),
        (normal_rows(), {"lr": math.nan}, r"lr must be positive"),
    ],
)
def test_bad_arguments(x, options, words) -> None:
    with pytest.raises(ValueError, match=words):
        fit(coupled(), x, **options)


class Wrapped(torch.nn.Module):
    def __init__(self, module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize(
    ("flow", "options", "words"),
    [
        (torch.nn.Linear(2, 2), {}, "fit: Linear has no log_prob; pass a flowkit.Flow, or a module that has it"),
        (flowkit.ActNorm(2), {}, "fit: ActNorm has no log_prob; pass a flowkit.Flow"),
        (Wrapped(coupled()), {}, r"fit: Wrapped has no log_prob; pass what it wraps, its \.module"),
        (None, {"seed": "a"}, "fit: seed must be a whole number, got 'a'"),
        (None, {"seed": 1.5}, r"fit: seed must be a whole number, got 1\.5"),
        (None, {"epochs": 2.0}, r"fit: epochs must be a whole number, got 2\.0"),
        (None, {"batch": "64"}, "fit: batch must be a whole number, got '64'"),
        (None, {"lr": "1e-3"}, "fit: lr must be a number, got '1e-3'"),
        (None, {"patience": None}, "fit: patience must be a number, got None"),
        (
            None,
            {"validation": "0.1"},
            "fit: validation must be a share, or a tensor with the numbers of rows, got '0.1'",
        ),
        (None, {"validation": [1, 2]}, r"fit: validation must be a share, or a tensor .*, got \[1, 2\]"),
        (None, {"weights": [1.0] * 600}, "fit: weights must be a tensor of real numbers, one a row, got"),
        (None, {"callback": 3}, "fit: callback must be a function of the history, got 3"),
    ],
)
def test_what_is_of_another_type_is_told(flow, options, words) -> None:
    flow = coupled() if flow is None else flow
    before = copy.deepcopy(flow.state_dict())
    with pytest.raises(TypeError, match=words):
        fit(flow, normal_rows(), **options)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def test_numbers_that_make_no_sense_are_told() -> None:
    for options, words in [
        ({"seed": 2**64}, "fit: seed must be a number of 64 bits"),
        ({"validation": torch.zeros(600, dtype=torch.bool)}, r"or the numbers of rows \(n,\), got \(600,\) bool"),
        ({"validation": torch.tensor([0.1])}, r"or the numbers of rows \(n,\), got \(1,\) float32"),
        ({"patience": math.nan}, r"patience must be a number in \[1, inf\], got nan"),
    ]:
        with pytest.raises(ValueError, match=words):
            fit(coupled(), normal_rows(), **options)  # type: ignore[arg-type]


def test_what_diverges_ends_with_its_best_weights() -> None:
    class Explodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))
            self.calls = 0

        def log_prob(self, x, context=None):
            self.calls += self.training
            bad = math.nan if self.calls > 5 else 1.0
            return -(x.square() * torch.exp(-self.scale)).sum(1) * bad - self.scale

    module = Explodes()
    with pytest.raises(FloatingPointError, match=r"fit: a loss of nan .* best weights until then; take a lower lr"):
        fit(module, normal_rows(600), epochs=20)
    assert 0 < float(module.scale.detach()) < 1
    assert module.training


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_trains_where_gradients_are_off(mode) -> None:
    flow, other, x = coupled(), coupled(), normal_rows(100)
    expected = fit(flow, x, epochs=2)
    with mode():
        assert fit(other, x, epochs=2) == expected
    assert torch.equal(flow.log_prob(x), other.log_prob(x))


def test_a_flow_that_has_nothing_to_train_is_told() -> None:
    x = normal_rows(50)
    for flow in (gaussian().requires_grad_(False), flowkit.Flow(flowkit.Permutation(2), flowkit.StandardNormal())):
        with pytest.raises(ValueError, match="fit: no parameter of the flow needs a gradient"):
            fit(flow, x)


class Counting(nn.Module):
    """A network that puts another tensor in its buffer's place, as running averages do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 2)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x, context=None):
        if self.training:
            self.count = self.count + 1
        return self.linear(x) + 0.05 * self.count


def test_buffers_that_are_replaced_are_as_they_were_at_the_best_epoch() -> None:
    coupling = flowkit.Coupling(Counting(), 1, flowkit.Affine())
    flow, x = flowkit.Flow(coupling, flowkit.StandardNormal(), shape=(2,)), normal_rows(300)
    history = fit(flow, x, epochs=12, lr=0.3, batch=32, validation=torch.arange(60), patience=100, seed=1)
    assert history.best_epoch < 12
    assert float(coupling.net.count) == 8 * history.best_epoch
    assert -float(flow.eval().log_prob(x[:60]).mean().detach()) == pytest.approx(min(history.validation), abs=1e-4)


@pytest.mark.parametrize(
    ("answer", "ends"),
    [(True, True), (np.True_, True), (torch.tensor(True), True), (np.False_, False), (1, False), ("yes", False)],
)
def test_a_true_answer_of_the_callback_ends_training(answer, ends) -> None:
    history = fit(gaussian(), normal_rows(60), epochs=3, callback=lambda _: answer)
    assert len(history.train) == (1 if ends else 3)


@pytest.mark.parametrize("context", [np.zeros((60, 3)), torch.tensor(3.0)])
def test_a_context_that_is_no_rows_is_told(context) -> None:
    with pytest.raises(ValueError, match="fit: the context must have 60 rows, as x, got"):
        fit(coupled(context=3), normal_rows(60), context)
