"""A process that dies or hangs costs its own file, and the others are done all the same."""

import importlib
import multiprocessing
import time

import pytest

from tests.data.check.misbehaving import act_as_named
from videoswin.data.check import map_in_processes


def results_of(names: list[str], **options: float) -> dict[str, str]:
    return {path: str(result) for path, result in map_in_processes(act_as_named, names, **options)}


def test_every_path_is_worked_on_once_and_failures_are_values():
    names = [f"file{number}" for number in range(20)] + ["broken"]
    results = list(map_in_processes(act_as_named, names, workers=2))
    assert sorted(path for path, _ in results) == sorted(names)
    assert {path: str(result) for path, result in results if path != "broken"} == {
        name: name.upper() for name in names[:-1]
    }
    assert "broken: it is broken" in [str(result) for _, result in results]


def test_a_process_that_dies_is_the_failure_of_its_file():
    causes = {"SIGKILL": "SIGKILL; is there too little memory?", "SIGSEGV": "SIGSEGV", "exit": "exit code 3"}
    results = results_of(["a", "SIGKILL", "b", "SIGSEGV", "exit", "c"], workers=1)
    for name, cause in causes.items():
        assert results[name] == f"{name}: the decoding process died ({cause})"
    assert [results[other] for other in ("a", "b", "c")] == ["A", "B", "C"]


def test_a_process_that_hangs_is_ended_and_the_rest_goes_on():
    results = results_of(["a", "hang", "b"], workers=1, timeout_seconds=2)  # others answer at once
    assert results["hang"] == "hang: the decoding process did not respond for 2 seconds and was killed"
    assert (results["a"], results["b"]) == ("A", "B")


def test_a_large_file_is_given_more_time(tmp_path):
    large = tmp_path / "hang"
    with large.open("wb") as file:
        file.truncate(2**19)
    began = time.monotonic()
    results = results_of([str(large)], workers=1, timeout_seconds=0.1)
    assert time.monotonic() - began > 0.5
    assert "did not respond for 1 seconds" in results[str(large)]


def test_closing_the_iterator_ends_the_processes():
    results = map_in_processes(act_as_named, ["a", *["hang"] * 5], workers=2)
    assert next(results) == ("a", "A")
    assert len(multiprocessing.active_children()) > 0
    results.close()
    assert multiprocessing.active_children() == []


def test_processes_do_not_hear_ctrl_c():
    assert results_of(["SIGINT", "b"], workers=1) == {"SIGINT": "SIGINT", "b": "B"}


def test_nothing_to_do_starts_nothing():
    assert results_of([], workers=2) == {}


def test_processes_that_cannot_start_are_an_error_and_not_failures_of_files(tmp_path, monkeypatch):
    module = tmp_path / "vanished.py"
    module.write_text("def work(path, alive): return path")
    monkeypatch.syspath_prepend(str(tmp_path))
    work = importlib.import_module("vanished").work
    module.unlink()
    with pytest.raises(ChildProcessError, match='below `if __name__ == "__main__":`'):
        list(map_in_processes(work, ["a"], workers=1))
