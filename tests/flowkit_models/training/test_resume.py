"""Runs that go on: longer, with the same photographs, from before a streak of bad numbers; the flags of layers."""

import warnings

import pytest
import torch
from PIL import Image
from support import InPhases, Noise, Summed, initialize, run, settings, tiny_flow, validate

import flowkit
from flowkit_models.data.crops import AlignedCrops, RandomCrops
from flowkit_models.data.pairs import find_pairs
from flowkit_models.training.optim import Adam, Cosine
from flowkit_models.training.state import load_state, save_state
from flowkit_models.training.trainer import train


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate("abc"):
        write(folder / f"{name}.bmp", i)
    return folder


def write(path, seed, size=24):
    generator = torch.Generator().manual_seed(seed)
    Image.fromarray(torch.randint(256, (size, size, 3), dtype=torch.uint8, generator=generator).numpy()).save(path)


def go(samples, out, **changes):
    changes = {"model": Adam(1e-3), "batch": 2, **changes}
    return train(Summed(tiny_flow()), samples, settings(**changes), out, validate=validate, resume=True)


# --- photographs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: write(folder / "d.bmp", 9), r"added d\.bmp; have them as they were, or start anew with --ov"),
        (lambda folder: (folder / "b.bmp").unlink(), r"removed b\.bmp; have them"),
        (lambda folder: write(folder / "c.bmp", 9), r"changed c\.bmp; have them"),
        (lambda folder: (folder / "a.bmp").rename(folder / "z.bmp"), r"added z\.bmp; removed a\.bmp; have them"),
    ],
)
def test_other_photographs_are_refused_by_name(photos, tmp_path, change, message) -> None:
    go(RandomCrops(photos, 8), tmp_path / "run", steps=1)
    for file in photos.iterdir():
        file.touch()  # dates say nothing
    assert go(RandomCrops(photos, 8), tmp_path / "run", steps=2).step == 2
    change(photos)
    with pytest.raises(ValueError, match=r"can't resume with other photographs: " + message):
        go(RandomCrops(photos, 8), tmp_path / "run", steps=3)


def test_lr_files_count_too(tmp_path) -> None:
    for place, size in (("HR", 24), ("LR_bicubic/X4", 6)):
        (tmp_path / "set" / place).mkdir(parents=True)
        write(tmp_path / "set" / place / "a.png", 1, size)
    samples = lambda: AlignedCrops(find_pairs(tmp_path / "set", 4), 8)  # noqa: E731
    go(samples(), tmp_path / "run", steps=1)
    write(tmp_path / "set" / "LR_bicubic" / "X4" / "a.png", 2, 6)
    with pytest.raises(ValueError, match="other photographs: changed a; have them"):
        go(samples(), tmp_path / "run", steps=2)


def test_photographs_in_memory_count_in_their_order(tmp_path) -> None:
    photos = {name: torch.randint(256, (3, 16, 16), dtype=torch.uint8) for name in "ab"}
    go(RandomCrops(photos, 8), tmp_path / "run", steps=1)
    with pytest.raises(ValueError, match="the same in another order"):
        go(RandomCrops(dict(reversed(photos.items())), 8), tmp_path / "run", steps=2)
    photos["b"][0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="changed b"):
        go(RandomCrops(photos, 8), tmp_path / "run", steps=2)


def test_a_run_that_noted_no_photographs_goes_on_with_a_warning(photos, tmp_path) -> None:
    go(RandomCrops(photos, 8), tmp_path / "run", steps=1)
    state = load_state(tmp_path / "run" / "state.pt")
    del state["data"], state["losses"], state["counters"]["suspect"]
    save_state(tmp_path / "run" / "state.pt", state)
    with pytest.warns(UserWarning, match="of an older flowkit, which noted no photographs"):
        go(RandomCrops(photos, 8), tmp_path / "run", steps=2)
    assert go(RandomCrops(photos, 8), tmp_path / "run", steps=3).step == 3


def test_large_files_count_by_pieces(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("flowkit_models.data.image_cache._WHOLE", 100)
    monkeypatch.setattr("flowkit_models.data.image_cache._PIECE", 20)
    write(tmp_path / "a.bmp", 1, 48)
    (before,) = RandomCrops(tmp_path, 8).fingerprint().values()
    for place in (115, -1):
        content = bytearray((tmp_path / "a.bmp").read_bytes())
        content[place] ^= 1
        (tmp_path / "a.bmp").write_bytes(content)
        assert before not in RandomCrops(tmp_path, 8).fingerprint().values()


# --- longer


@pytest.mark.parametrize("lengths", [(4, 9), (9, 4)])
def test_a_run_gets_another_length_and_says_what_its_rate_does(tmp_path, lengths) -> None:
    def part(out, steps, stop=None):
        schedule = Adam(1e-3, schedule=Cosine(steps, warmup=2))
        own = settings(steps=stop or steps, model=schedule) if stop else settings(steps=steps, model=schedule)
        return train(Summed(tiny_flow()), Noise(), own, out, initialize=initialize, resume=True)

    first, second = lengths
    part(tmp_path / "run", first)
    result = part(tmp_path / "run", second)
    assert result.step == max(lengths)
    state = load_state(tmp_path / "run" / "state.pt")
    rate = state["optimizers"]["model"]["param_groups"][0]["lr"]
    assert rate == Adam(1e-3, schedule=Cosine(max(lengths), warmup=2)).rate(max(lengths))


def test_the_new_length_is_told_and_a_kill_after_it_changes_nothing(tmp_path, capsys) -> None:
    """The rate is a function of the step and the length: of two tries, one of which was stopped, both end alike."""
    ends = []
    for name, stops in (("once", (4, 10)), ("twice", (4, 7, 10))):
        for stop in stops:
            length = 4 if stop == 4 else 10

            class Stopping(Summed):
                last = stop

                def forward(self, phase, batch, draws, step, image=None):
                    if step > self.last:
                        raise KeyboardInterrupt
                    return super().forward(phase, batch, draws, step)

            own = settings(steps=length, save_every=1, model=Adam(1e-3, schedule=Cosine(length, warmup=2)))
            try:
                result = train(Stopping(tiny_flow()), Noise(), own, tmp_path / name, initialize=initialize, resume=True)
            except KeyboardInterrupt:
                assert stop == 7
        ends.append(result.model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    rate = Adam(1e-3, schedule=Cosine(10, warmup=2)).rate(5)
    said = (
        f"--steps is 10, was 4: from step 5 on the learning rate is that of a run of 10 steps, {rate:.3g} in that step"
    )
    assert capsys.readouterr().out.count(said) == 2


def test_another_schedule_is_refused_still(tmp_path) -> None:
    for schedule in (Cosine(8), Cosine(5, warmup=0, restarts=True)):
        own = settings(steps=2, model=Adam(1e-3, schedule=schedule))
        if schedule.restarts:
            with pytest.raises(ValueError, match=r"another config: training\.model\.schedule\.restarts was False"):
                train(Summed(tiny_flow()), Noise(), own, tmp_path, resume=True)
        else:
            train(Summed(tiny_flow()), Noise(), own, tmp_path)
    own = settings(steps=3, model=Adam(1e-3, schedule=Cosine(9)))
    with pytest.raises(ValueError, match=r"schedule\.steps was 8 and is 9"):
        train(Summed(tiny_flow()), Noise(), own, tmp_path, resume=True)


# --- bad numbers


class Dying(InPhases):
    """The weights of step 6 are finite, and make numbers that are not."""

    def forward(self, phase, batch, draws, step, image=None):
        outcome = super().forward(phase, batch, draws, step)
        return outcome._replace(loss=outcome.loss * (float("inf") if step > 6 else 1.0))


def test_states_of_a_bad_streak_replace_no_good_one(tmp_path) -> None:
    own = {"steps": 50, "save_every": 2, "validate_every": 3, "patience": 9}
    with pytest.raises(
        FloatingPointError, match=r"step 15: 9 iterations .*state\.pt has step 4; --resume with a smaller"
    ):
        train(Dying(tiny_flow()), Noise(), settings(**own), tmp_path, validate=validate, initialize=initialize)
    state = load_state(tmp_path / "state.pt")
    assert (state["counters"]["step"], state["counters"]["streak"]) == (4, 0)
    run(tmp_path / "other", "phases", steps=4, save_every=2, validate_every=3)
    expected = load_state(tmp_path / "other" / "state.pt")
    assert all(torch.equal(state["objective"][name], x) for name, x in expected["objective"].items())
    weaker = settings(**own, model=Adam(1e-4, clip_value=5.0, clip_norm=100.0))
    with pytest.raises(ValueError, match=r"schedule\.at was \[6, 12\] and is \[\]"):
        train(InPhases(tiny_flow()), Noise(), weaker, tmp_path, validate=validate, resume=True)
    weaker = settings(**{**own, "steps": 9}, model=Adam(1e-4, schedule=settings().model.schedule, clip_norm=1.0))
    assert train(InPhases(tiny_flow()), Noise(), weaker, tmp_path, validate=validate, resume=True).step == 9


def test_a_run_that_ends_in_a_bad_streak_says_so(tmp_path, capsys) -> None:
    own = settings(steps=9, save_every=2, patience=9, validate_every=100)
    train(Dying(tiny_flow()), Noise(), own, tmp_path, initialize=initialize)
    assert load_state(tmp_path / "state.pt")["counters"]["step"] == 6
    assert "the last steps were not finite, or their loss too large: " in capsys.readouterr().out


def test_a_bad_sample_delays_no_state(tmp_path) -> None:
    run(tmp_path / "run", bad=(4 * 6 - 1,), steps=6, validate_every=100)
    assert load_state(tmp_path / "run" / "state.pt")["counters"]["step"] == 6


# --- flags


@pytest.mark.parametrize("initialize", [None, initialize], ids=["identities", "from data"])
def test_a_trained_model_counts_as_initialised(tmp_path, initialize) -> None:
    result = train(Summed(tiny_flow()), Noise(), settings(steps=2), tmp_path, initialize=initialize, validate=validate)
    before = {name: x.clone() for name, x in result.model.state_dict().items()}
    batch = torch.stack([Noise()[i][0] for i in range(4)])
    with pytest.warns(UserWarning, match="every ActNorm was initialised before, nothing was done"):
        flowkit.initialize(result.model.flow, batch)
    assert all(torch.equal(x, before[name]) for name, x in result.model.state_dict().items())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = train(Summed(tiny_flow()), Noise(), settings(steps=2), tmp_path, resume=True, validate=validate)
    assert all(torch.equal(x, before[name]) for name, x in again.model.state_dict().items())
