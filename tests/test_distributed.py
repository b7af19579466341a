"""Data workers and a shared memory that is too small: tensors arrive all the same."""

import multiprocessing
import resource
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from videoswin import _distributed
from videoswin._distributed import require_startable_workers, shared_memory_notice, start_data_worker
from videoswin._errors import InputError

MB = 2**20


class Numbers(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Two tensors an item, all of its own number."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((MB,), index, dtype=torch.uint8), torch.tensor([index, -1])[:1]


def received(**options: object) -> list[tuple[int, int, int]]:
    """Smallest and largest value of each item's first tensor, and its second."""
    loader = DataLoader(Numbers(), batch_size=None, worker_init_fn=start_data_worker, **options)
    return [(int(large.min()), int(large.max()), small.item()) for large, small in loader]


@pytest.fixture
def no_large_files() -> Iterator[None]:
    """No process may make a file of more than 64 kB: shared memory can be had only in smaller pieces."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


EXPECTED = [(index, index, index) for index in range(5)]


@pytest.mark.parametrize("free", [0, MB - 1, None])
def test_tensors_arrive_whatever_is_free(free: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_distributed, "free_shared_memory", lambda: free)
    assert received(num_workers=2) == EXPECTED


def test_tensors_arrive_although_shared_memory_refuses_what_it_promised(no_large_files: None) -> None:
    assert received(num_workers=1) == EXPECTED


def test_a_tensor_that_does_not_fit_is_pickled_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.arange(100)
    for free, shared in ((799, False), (800, True)):
        monkeypatch.setattr(_distributed, "free_shared_memory", lambda free=free: free)
        rebuild, arguments = _distributed._reduce(tensor)
        assert (rebuild is not torch.from_numpy) is shared
        assert tensor.is_shared() is shared
        assert torch.equal(rebuild(*arguments), tensor)


def test_the_notice_names_what_is_there_what_is_needed_and_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_distributed, "free_shared_memory", lambda: 64 * MB)
    notice = shared_memory_notice(58 * MB, workers=2)
    assert notice is not None
    assert "64 MB free, but workers=2 needs up to 290 MB" in notice
    assert "--shm-size=580m" in notice


@pytest.mark.parametrize(("free", "workers"), [(290 * MB, 2), (0, 0), (None, 2)])
def test_there_is_no_notice_where_nothing_is_missing(
    free: int | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_distributed, "free_shared_memory", lambda: free)
    assert shared_memory_notice(58 * MB, workers=workers) is None


def test_workers_that_cannot_be_started_are_refused_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room() -> None:
        raise OSError(28, "No space left on device")

    require_startable_workers(2, name="workers")
    monkeypatch.setattr(multiprocessing, "Semaphore", no_room)
    require_startable_workers(0, name="workers")
    with pytest.raises(InputError, match=r"workers must be 0 .*, got 2: .*\(No space left on device\)"):
        require_startable_workers(2, name="workers")


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(InputError, match="workers must be from 0 to 1024, got -1"):
        require_startable_workers(-1, name="workers")
