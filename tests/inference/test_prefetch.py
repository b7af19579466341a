"""load_ahead is ordered, bounded and ends cleanly."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from videoswin._errors import VideoError
from videoswin.inference.prefetch import copy_to_device, decoding_threads, load_ahead


def one_by_one(groups: Iterator[list]) -> list:
    return [item for group in groups for item in group]


def threads_of_ours() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith(("decode", "paths"))}


def assert_no_thread_is_left() -> None:
    """Threads end a moment after they were told to."""
    for _ in range(3000):
        if not threads_of_ours():
            break
        time.sleep(0.01)
    assert threads_of_ours() == set()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("together", [1, 4])
def test_the_order_is_that_of_the_paths_however_long_each_takes(threads: int, together: int) -> None:
    def load(number: int) -> int:
        time.sleep(0.01 * (number % 3 == 0))
        return 10 * number

    loaded = one_by_one(load_ahead(load, range(20), threads=threads, together=together))
    assert loaded == [(number, 10 * number) for number in range(20)]


def test_no_paths_are_no_videos() -> None:
    assert list(load_ahead(abs, [], threads=2)) == []


def test_videos_load_side_by_side() -> None:
    both = threading.Barrier(2, timeout=60)
    loaded = load_ahead(lambda number: both.wait(), range(2), threads=2)
    assert len(list(loaded)) == 2  # alone, each would wait for the other


@pytest.mark.parametrize("threads", [1, 3])
def test_however_slow_the_first_video_only_a_few_are_loaded(threads: int) -> None:
    release, began = threading.Event(), []

    def load(number: int) -> int:
        began.append(number)
        if number == 0:
            assert release.wait(60)
        return number

    results = load_ahead(load, iter(range(100)), threads=threads)
    threading.Timer(0.2, release.set).start()
    assert next(results) == [(0, 0)]
    time.sleep(0.1)
    assert len(began) <= 1 + threads + 1  # the one handed out, and threads + together
    results.close()


def test_those_that_are_ready_come_together() -> None:
    others = threading.Semaphore(0)

    def load(number: int) -> int:
        if number:
            others.release()
        else:
            assert all(others.acquire(timeout=60) for _ in range(3))
        return number

    groups = list(load_ahead(load, range(4), threads=2, together=4))
    assert len(groups) <= 2  # the last of the others may not be done when the first is
    assert one_by_one(iter(groups)) == [(number, number) for number in range(4)]


def test_an_unreadable_video_is_an_error_in_its_place() -> None:
    def load(name: str) -> str:
        if name == "b":
            raise VideoError(name, "broken")
        return name

    (_, error) = one_by_one(load_ahead(load, "abc", threads=2))[1]
    assert isinstance(error, VideoError)
    assert error.reason == "broken"


def test_what_goes_wrong_with_the_paths_or_in_loading_reaches_the_caller_after_what_came_before() -> None:
    def paths() -> Iterator[int]:
        yield 1
        raise OSError("no such folder")

    results = load_ahead(abs, paths(), threads=2, together=3)
    assert next(results) == [(1, 1)]
    with pytest.raises(OSError, match="no such folder"):
        next(results)
    results = load_ahead(lambda number: 1 // number, [1, 0, 1], threads=2, together=3)
    assert next(results) == [(1, 1)]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert_no_thread_is_left()


@pytest.mark.parametrize("count", [0, 1, 20])
def test_the_thread_that_reads_the_paths_has_ended_after_the_last_result(count: int) -> None:
    # Python kills a daemon thread that still runs at exit, which may abort the process.
    assert len(one_by_one(load_ahead(abs, iter(range(count)), threads=2))) == count
    assert "paths" not in threads_of_ours()


def test_stopping_early_leaves_no_thread() -> None:
    results = load_ahead(abs, iter(range(1000)), threads=3)
    next(results)
    assert threads_of_ours() != set()
    results.close()
    assert_no_thread_is_left()


def test_an_answer_does_not_wait_for_a_path_that_has_not_come() -> None:
    more = threading.Event()

    def paths() -> Iterator[int]:
        yield 1
        assert more.wait(60)

    results = load_ahead(abs, paths(), threads=1)
    assert next(results) == [(1, 1)]
    more.set()
    assert list(results) == []


def test_leaving_does_not_wait_for_a_path_that_has_not_come() -> None:
    more, came = threading.Event(), threading.Event()

    def paths() -> Iterator[int]:
        yield 1
        more.wait(60)
        came.set()

    results = load_ahead(abs, paths(), threads=1)
    next(results)
    results.close()
    assert not came.is_set()
    more.set()


def test_beside_a_model_on_the_cpu_half_of_the_cores_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {1: (1, 1), 2: (1, 1), 4: (2, 3), 16: (8, 15), 128: (32, 32)}
    for cores, (cpu, cuda) in expected.items():
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: range(cores))
        assert decoding_threads(torch.device("cpu")) == cpu
        assert decoding_threads(torch.device("cuda")) == cuda


def test_views_for_the_cpu_stay_where_they_are() -> None:
    views = torch.zeros(1, 3, 2, 4, 4, dtype=torch.uint8)
    assert copy_to_device(views, torch.device("cpu")) is views


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_what_decoders_send_to_a_gpu_arrives_whole_beside_its_kernels() -> None:
    device = torch.device("cuda")
    views = [torch.randint(256, (4, 3, 8, 64, 64), dtype=torch.uint8) for _ in range(16)]
    busy = torch.randn(2048, 2048, device=device)
    for (number, arrived), *_ in load_ahead(lambda i: copy_to_device(views[i], device), range(16), threads=4):
        busy = (busy @ busy).clamp(-1, 1)
        assert arrived.device.type == "cuda"
        assert torch.equal(arrived.cpu(), views[number])
