"""Decoded images in memory: what is kept, what is forgotten, and what a pickled copy takes along."""

import pickle
from types import SimpleNamespace

import pytest
import torch

from flowkit_models.data import image_cache as decoded
from flowkit_models.data.image_cache import Decoded, ImageFile
from flowkit_models.images.image_file import ImageError, write_image

BYTES = 3 * 8 * 10


@pytest.fixture
def files(tmp_path):
    for n in range(5):
        write_image(tmp_path / f"{n}.png", torch.full((3, 8, 10), n, dtype=torch.uint8))
    return [ImageFile.at(tmp_path / f"{n}.png") for n in range(5)]


@pytest.fixture
def reads(monkeypatch):
    """The names of the files decoded so far."""
    done = []

    def read(path):
        done.append(path.stem)
        return plain(path)

    plain = decoded.read_image
    monkeypatch.setattr(decoded, "read_image", read)
    return done


def values(store, indices):
    return [int(store[i][0].unique()) for i in indices]


def test_a_file_knows_its_size(files):
    assert (files[0].height, files[0].width, files[0].nbytes) == (8, 10, BYTES)
    assert files[3].read().unique().tolist() == [3]
    write_image(files[3].path, torch.zeros(3, 8, 11))
    with pytest.raises(ImageError, match=r"3\.png: 8 × 11, but was 8 × 10"):
        files[3].read()


def test_what_fits_is_decoded_once_and_at_once(files, reads):
    store = Decoded([(file,) for file in files], 5 * BYTES)
    assert len(store) == 5
    assert sorted(reads) == list("01234")
    assert values(store, [4, 0, 1, 2, 3, 4]) == [4, 0, 1, 2, 3, 4]
    assert len(reads) == 5


def test_what_does_not_fit_is_forgotten_the_longest_unused_first(files, reads):
    store = Decoded([(file,) for file in files], 2 * BYTES + 1)
    assert reads == []
    assert values(store, [0, 1, 0, 2, 0, 1]) == [0, 1, 0, 2, 0, 1]
    assert reads == ["0", "1", "2", "1"]


def test_no_memory_keeps_nothing(files, reads):
    store = Decoded([(file,) for file in files], 0)
    assert values(store, [1, 1]) == [1, 1]
    assert reads == ["1", "1"]


def test_workers_share_the_bytes_out(files, reads, monkeypatch):
    store = Decoded([(file,) for file in files], 4 * BYTES)
    monkeypatch.setattr(decoded, "get_worker_info", lambda: SimpleNamespace(num_workers=2))
    assert values(store, [0, 1, 2, 1, 0]) == [0, 1, 2, 1, 0]
    assert reads == ["0", "1", "2", "0"]


def test_groups_count_all_their_files_and_no_tensors(files, reads):
    tensor = torch.full((3, 50, 50), 9, dtype=torch.uint8)
    store = Decoded([(files[0], files[1]), (files[2], tensor), (tensor,)], 3 * BYTES)
    assert [len(store[i]) for i in range(3)] == [2, 2, 1]
    assert store[1][1] is store[2][0] is tensor
    assert sorted(reads) == ["0", "1", "2"]
    store = Decoded([(files[0], files[1]), (files[2],)], 2 * BYTES)
    assert values(store, [0, 1, 0]) == [0, 2, 0]
    assert len(reads) == 3 + 5


def test_a_pickled_copy_starts_empty(files, reads):
    store = Decoded([(file,) for file in files], 5 * BYTES)
    small = len(pickle.dumps(store))
    assert small < 2 * BYTES * 5
    copy = pickle.loads(pickle.dumps(store))
    assert values(copy, [3, 3]) == [3, 3]
    assert len(reads) == 6
    assert values(store, [3]) == [3]


def test_a_damaged_file_is_told_to_whoever_asks_for_it(files):
    data = files[1].path.read_bytes()
    files[1].path.write_bytes(data[:45])  # the head is whole
    store = Decoded([(file,) for file in files], 5 * BYTES)
    assert values(store, [0, 2]) == [0, 2]
    for _ in range(2):
        with pytest.raises(ImageError, match=r"1\.png: damaged"):
            store[1]


def test_negative_memory_is_refused():
    with pytest.raises(ValueError, match="number of bytes, got -1"):
        Decoded([], -1)
