"""Recipes that SIGKILL ends after a state was written, in a validation, in the middle of a write, and that go on."""

import importlib.util
import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from flowkit_models import files
from flowkit_models.evaluation.evaluator import Evaluator
from flowkit_models.training import trainer
from flowkit_models.training.logs import read_log
from flowkit_models.training.state import load_state

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = ("--steps", "24", "--batch", "2", "--crop", "32", "--draws", "1", "--save-every", "2", "--validate-every", "5")
KILLS = int(os.environ.get("FLOWKIT_KILLS", "4"))
"""How many of each kind of recipe; 20 is the proof."""


def killing(function, after):
    """The function, which kills its process once it has been called that often."""
    calls = [0]

    def called(*arguments, **options):
        out = function(*arguments, **options)
        calls[0] += 1
        if calls[0] == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return out

    return called


def train(name, options, out, where=None, after=0):
    """Runs a recipe in a process of its own, which is killed at a place when it comes there for the nth time."""
    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    if where == "state":
        trainer.save_state = killing(trainer.save_state, after)
    elif where == "validation":
        Evaluator.score = killing(Evaluator.score, after)
    elif where == "writing":  # of a log, of a file that has no name yet, of its folder
        files.os.fsync = killing(os.fsync, after)
    with Path(f"{out}.txt").open("a") as file:
        sys.stdout = sys.stderr = file
        sys.exit(module.run(lambda: module.main(module.parse([*options, "--out", str(out), "--resume"]))))


@pytest.fixture(scope="module")
def processes():
    """Starts processes quickly: they are forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch._dynamo", "flowkit_models.training.report", "flowkit_models.training.recipe"]
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (RECIPES.parent, Path(__file__).parent))))
        first = context.Process(target=print)
        first.start()
        first.join()
    return context


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    data, test = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("test")
    generator = torch.Generator().manual_seed(0)
    for folder, count in ((data, 6), (test, 1)):
        for i in range(count):
            small = torch.randint(256, (10, 12, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(small.numpy()).resize((96, 80)).save(folder / f"{i}.png")
    return [*TINY, "--data", str(data), "--test", str(test), "--device", "cpu", "--no-tensorboard"]


def run(processes, *arguments):
    process = processes.Process(target=train, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def differing(one, other, name="state"):
    """Names of what is not equal in two states, to the last bit; but for seconds."""
    if isinstance(one, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [name]
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return [
            n
            for key in one
            if key not in ("seconds", "config")
            for n in differing(one[key], other[key], f"{name}.{key}")
        ]
    if isinstance(one, list | tuple):
        pairs = enumerate(zip(one, other, strict=True))
        return [n for i, (a, b) in pairs for n in differing(a, b, f"{name}.{i}")]
    return [] if one == other else [name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"), [("hcflow_sr", ()), ("srflow_sr", ("--encoder", "scratch")), ("irn_rescale", ())]
)
def test_a_run_that_was_killed_often_is_the_one_that_was_not(processes, options, tmp_path, name, more) -> None:
    arguments = [*options, *more]
    assert run(processes, name, arguments, tmp_path / "whole") == 0, (tmp_path / "whole.txt").read_text()
    chance, killed = random.Random(name), []
    while len(killed) < KILLS:
        where = ("state", "validation", "writing")[len(killed) % 3]
        after = {"state": chance.randint(1, 2), "validation": chance.randint(1, 2), "writing": chance.randint(1, 18)}
        code = run(processes, name, arguments, tmp_path / "killed", where, after[where])
        if code == 0:  # it came to its end before: the rest of the kills fall on another run
            check(tmp_path)
            (tmp_path / "killed").rename(tmp_path / f"killed{len(killed)}")
            continue
        assert code == -signal.SIGKILL, (tmp_path / "killed.txt").read_text()
        killed.append(
            (where, load_state(state)["counters"]["step"] if (state := tmp_path / "killed/state.pt").exists() else 0)
        )
    assert run(processes, name, arguments, tmp_path / "killed") == 0, (tmp_path / "killed.txt").read_text()
    check(tmp_path)
    assert {where for where, step in killed if step} == {"state", "validation", "writing"}, killed
    print(name, killed)


def check(folder) -> None:
    """The files of both runs are equal, flags included, and nothing half-written is left."""
    whole, killed = folder / "whole", folder / "killed"
    for name in ("last", "best"):
        one, other = (load_file(out / f"{name}.safetensors") for out in (whole, killed))
        one.pop("flowkit.config"), other.pop("flowkit.config")
        assert not differing(one, other)
        assert all(bool(flag) for key, flag in one.items() if key.endswith(".initialized"))
    assert not differing(load_state(whole / "state.pt"), load_state(killed / "state.pt"))
    assert read_log(whole / "log.jsonl") == read_log(killed / "log.jsonl")
    assert sorted(file.name for file in whole.iterdir()) == sorted(file.name for file in killed.iterdir())
