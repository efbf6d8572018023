"""Batches and random numbers: functions of a sample's number, however samples are spread."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowkit_models.data.loader import Batch, Draws, key, load_batches


class Counting:
    def __getitem__(self, i):
        return torch.full((3, 4, 4), i % 256, dtype=torch.uint8), torch.full((3, 1, 1), float(i))


def numbers(batches):
    return [batch.index.tolist() for batch in batches]


def test_the_step_is_the_position_in_the_data() -> None:
    assert numbers(load_batches(Counting(), 4, range(1, 4))) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert numbers(load_batches(Counting(), 4, range(3, 4))) == [[8, 9, 10, 11]]


@given(processes=st.integers(1, 4), parts=st.integers(1, 3), first=st.integers(1, 10))
def test_processes_and_parts_share_the_batch_in_order(processes, parts, first) -> None:
    batch = processes * parts * 2
    shares = [next(load_batches(Counting(), batch, [first], rank, processes)) for rank in range(processes)]
    spread = [part for share in shares for part in share.split(parts)]
    assert [len(part.index) for part in spread] == [2] * (processes * parts)
    assert torch.cat([part.index for part in spread]).tolist() == list(range((first - 1) * batch, first * batch))
    assert all(torch.equal(part.lr[:, 0, 0, 0], part.index.float()) for part in spread)


def test_workers_give_the_same_in_the_same_order() -> None:
    assert numbers(load_batches(Counting(), 2, range(2, 7), workers=1)) == numbers(
        load_batches(Counting(), 2, range(2, 7))
    )


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="batch 4 can't be shared equally by 3 processes"):
        load_batches(Counting(), 4, [1], 0, 3)


def test_eight_bit_images_become_floats_on_the_device() -> None:
    batch = next(load_batches(Counting(), 2, [26])).to("cpu")
    assert batch.hr.dtype == torch.float32
    assert torch.equal(batch.hr[1, 0, 0, 0], torch.tensor(51 / 255))


@given(order=st.permutations(range(4)), seed=st.integers(0, 2**31))
def test_noise_belongs_to_the_sample(order, seed) -> None:
    index = torch.tensor([0, 7, 8, 2**40])
    for kind in ("uniform", "normal"):
        together = getattr(Draws(seed, index), kind)("noise", (2, 3))
        alone = [getattr(Draws(seed, index[i : i + 1]), kind)("noise", (2, 3)) for i in order]
        assert torch.equal(together[list(order)], torch.cat(alone))


def test_noise_differs_by_seed_sample_name_and_kind() -> None:
    def values(seed=0, index=5, name="z", kind="normal"):
        return getattr(Draws(seed, torch.tensor([index])), kind)(name, (4,))

    others = [values(seed=1), values(index=6), values(name="y"), values(kind="uniform")]
    assert not any(torch.equal(values(), other) for other in others)
    assert torch.equal(values(), values())


def test_distributions() -> None:
    draws = Draws(3, torch.arange(400))
    z, u = draws.normal("z", (50,)), draws.uniform("u", (50,))
    assert z.dtype == u.dtype == torch.float32
    assert abs(float(z.mean())) < 0.03
    assert abs(float(z.std()) - 1) < 0.03
    assert abs(float(z.pow(4).mean()) - 3) < 0.2
    assert 0 <= float(u.min()) < 0.001
    assert 0.999 < float(u.max()) < 1
    # neighbours have nothing in common
    assert abs(float(torch.corrcoef(z[:2])[0, 1])) < 0.5
    assert abs(float((z[1:] * z[:-1]).mean())) < 0.03


def test_scalars_can_be_drawn() -> None:
    assert Draws(0, torch.arange(3)).uniform("flip", ()).shape == (3,)


def test_keys_are_the_same_everywhere() -> None:
    assert key(0, "z") == 3961477983439902095
    assert Batch(*(torch.zeros(2, 1),) * 3).split(2)[1].hr.shape == (1, 1)
