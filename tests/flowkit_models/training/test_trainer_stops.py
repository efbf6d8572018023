"""Processes that are killed or told to stop at any moment, and resumed: the run is the one that was not stopped."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from support import run

from flowkit_models.training import trainer
from flowkit_models.training.logs import read_log
from flowkit_models.training.signals import Stopped
from flowkit_models.training.state import load_state, save_state

HERE = Path(__file__).parent
TESTS = HERE.parents[1]
STEPS = 20


@pytest.fixture(scope="module")
def processes():
    """Starts processes quickly: they are forked from one that has imported everything and done nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support", "torch._dynamo"])  # the latter comes with the first optimiser
    with pytest.MonkeyPatch.context() as patch:  # it does not inherit sys.path, and passes over what it can't import
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (TESTS.parent, TESTS, HERE))))
        first = context.Process(target=time.time)
        first.start()
        first.join()
    return context


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that were not stopped, each made once."""
    folder, made = tmp_path_factory.mktemp("whole"), {}

    def get(kind, steps):
        if (kind, steps) not in made:
            made[kind, steps] = folder / f"{kind}{steps}"
            run(made[kind, steps], kind, steps=steps)
        return made[kind, steps]

    return get


def start(processes, out, kind, **options):
    process = processes.Process(target=run, args=(out, kind), kwargs={"resume": True, **options})
    process.start()
    return process


def rows(out):
    return len(read_log(out / "log.jsonl"))


def wait_for_rows(process, out, more):
    """Waits until the log has grown, or the run is over."""
    before, deadline = rows(out), time.monotonic() + 60
    while process.is_alive() and rows(out) < before + more:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def assert_same(one, other):
    for name in ("last", "best"):
        a, b = (load_file(out / f"{name}.safetensors") for out in (one, other))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    a, b = (load_state(out / "state.pt") for out in (one, other))
    assert all(torch.equal(a["objective"][key], b["objective"][key]) for key in a["objective"])
    assert read_log(one / "log.jsonl") == read_log(other / "log.jsonl")


def kill_often(processes, out, kind, kills, steps, seed):
    """Kills a run at random moments, with a resume after each, and lets it end."""
    chance, reached = random.Random(seed), []
    for _ in range(kills):
        process = start(processes, out, kind, steps=steps, save_every=2)
        wait_for_rows(process, out, chance.randint(0, 3))
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the run was over before it could be killed"
        reached.append(rows(out))
    process = start(processes, out, kind, steps=steps, save_every=2)
    process.join()
    assert process.exitcode == 0
    return reached


def test_three_kills_change_nothing(processes, whole, tmp_path) -> None:
    """SIGKILL, with carried gradients and averaged weights; bit for bit."""
    reached = kill_often(processes, tmp_path / "run", "phases", 3, STEPS, seed=0)
    assert max(reached) > 0
    assert_same(whole("phases", STEPS), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["summed", "phases", "adversarial"])
def test_twenty_kills_change_nothing(processes, whole, tmp_path, kind) -> None:
    kill_often(processes, tmp_path / "run", kind, 20, 150, seed=kind)
    assert_same(whole(kind, 150), tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "code", "kind", "workers"),
    [(signal.SIGTERM, 143, "adversarial", 0), (signal.SIGINT, 130, "phases", 1)],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_saves_and_exits(processes, whole, tmp_path, number, code, kind, workers) -> None:
    out = tmp_path / "run"
    process = start(processes, out, kind, steps=STEPS, save_every=1000, validate_every=1000, workers=workers)
    wait_for_rows(process, out, 3)
    # a terminal sends Ctrl-C to the data workers, too
    for child in psutil.Process(process.pid).children(recursive=True):
        child.send_signal(number)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code
    step = load_state(out / "state.pt")["counters"]["step"]
    assert 3 <= step < STEPS
    assert [row["step"] for row in read_log(out / "log.jsonl")] == list(range(1, step + 1))
    assert f"{number.name} after step {step}: {out / 'state.pt'} has step {step}" in (tmp_path / "run.txt").read_text()

    run(out, kind, steps=STEPS, resume=True)
    assert torch.equal(
        *(
            torch.cat([p.flatten() for p in load_file(folder / "last.safetensors").values()])
            for folder in (whole(kind, STEPS), out)
        )
    )


def endless(model, step):
    """A validation that never ends."""
    while True:
        time.sleep(0.01)


def test_a_signal_during_a_validation_ends_it(processes, whole, tmp_path) -> None:
    out = tmp_path / "run"
    process = start(processes, out, "phases", steps=STEPS, validate=endless)
    wait_for_rows(process, out, 5)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 143
    counters = load_state(out / "state.pt")["counters"]
    assert (counters["step"], counters["validated"]) == (5, 0)

    run(out, "phases", steps=STEPS, resume=True)  # which makes up for it first
    assert_same(whole("phases", STEPS), out)


def test_a_signal_after_the_last_validation_is_not_lost(tmp_path, monkeypatch) -> None:
    def save(path, content):
        save_state(path, content)
        if content["counters"]["validated"] == STEPS:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(trainer, "save_state", save)
    with pytest.raises(Stopped) as stopped:
        run(tmp_path / "run", steps=STEPS)
    assert stopped.value.code == 143
    monkeypatch.undo()
    assert run(tmp_path / "run", steps=STEPS, resume=True).step == STEPS


def test_last_weights_are_never_older_than_the_state(tmp_path, whole, monkeypatch) -> None:
    """Killed right after each of the last two states, that before the last validation and that after it."""

    def save(path, content):
        save_state(path, content)
        if content["counters"]["step"] == STEPS:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_state", save)
        for validated in (STEPS - 5, STEPS):
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "run", "phases", steps=STEPS, resume=True)
            assert load_state(tmp_path / "run" / "state.pt")["counters"]["validated"] == validated
    run(tmp_path / "run", "phases", steps=STEPS, resume=True)
    assert_same(whole("phases", STEPS), tmp_path / "run")
