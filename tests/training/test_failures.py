"""Full disks, killed workers, damaged files, second runs: a clear error, and the run can resume."""

import contextlib
import errno
import json
import os
import shutil
import signal
import threading

import pytest
import torch

from tests.training.small_runs import LABELS, Harmful, ended, in_child, stripes
from videoswin import _files
from videoswin._distributed import WorkerKilledError, start_data_worker
from videoswin._errors import TrainingError
from videoswin.training import loop, run_folder, safeguards
from videoswin.weights.checkpoint import Checkpoint

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked to save time")


@pytest.fixture
def uninterrupted(complete_run):
    """Return the bytes of the checkpoint of an uninterrupted run."""
    return complete_run.checkpoint.read_bytes()


def interrupted(folder, **changes):
    """Fill a folder with a run that was interrupted at the end of its first epoch, before the validation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "validate", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            loop.train(stripes(**changes), folder)


@pytest.mark.parametrize(
    ("name", "step"),
    [("state.pt", 3), ("metrics.jsonl", 5), ("last.safetensors", 20), ("curves.png", 20), ("tensorboard", 5)],
)
def test_a_full_disk_ends_the_run_with_a_sentence_and_it_resumes_to_the_same_end(
    name, step, tmp_path, monkeypatch, uninterrupted
):
    folder, training_step, steps = tmp_path / "full", loop.training_step, []

    def counted(learner, batch, number):
        steps.append(number + 1)
        return training_step(learner, batch, number)

    naming = _files.naming

    @contextlib.contextmanager
    def full(path):
        with naming(path):
            yield
            if path.name == name and len(steps) >= step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as write() does, without a name

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", counted)
        patch.setattr(_files, "naming", full)
        patch.setattr(run_folder, "naming", full)
        with pytest.raises(TrainingError) as caught:
            loop.train(stripes(run__save_every=3), folder)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert f"{folder / name} cannot be written: No space left on device" in sentence
    # Every third step is saved, and the end of an epoch before it is validated.
    saved = 20 if step == 20 else (steps[-1] - 1) // 3 * 3
    assert (f"the state of step {saved}, which is intact" if saved else "no state was saved yet") in sentence
    assert "run the same command again" in sentence
    assert not list(folder.glob("*.part"))
    assert loop.train(stripes(), folder).read_bytes() == uninterrupted


def test_a_full_disk_is_named_however_a_library_says_it(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*model\.safetensors'") as caught:  # noqa: SIM117
        with _files.replacing(tmp_path / "model.safetensors"):
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert caught.value.errno == errno.ENOSPC


def test_a_run_that_ends_while_it_validates_resumes_with_that_validation(
    tmp_path, monkeypatch, uninterrupted
):
    def killed(*arguments, **options):
        raise WorkerKilledError("a data worker was killed")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", killed)
        with pytest.raises(TrainingError, match=r"resume from the state of step 20, which is intact"):
            loop.train(stripes(), tmp_path)
    validated, validate = [], loop.validate

    def counted(learner, *arguments):
        validated.append(learner.scheduler.last_epoch)  # the number of finished steps
        return validate(learner, *arguments)

    monkeypatch.setattr(loop, "validate", counted)
    assert loop.train(stripes(), tmp_path).read_bytes() == uninterrupted
    assert validated == [20, 40]


@needs_fork
def test_a_killed_data_worker_ends_the_run_with_a_sentence_and_it_resumes_to_the_same_end(
    tmp_path, uninterrupted
):
    with pytest.raises(
        TrainingError, match=r"data worker was killed.*\(data\.num_workers\)\. Run.*state of step 20"
    ):
        loop.train(stripes(data__clips=Harmful, data__num_workers=1), tmp_path / "killed")
    assert loop.train(stripes(data__num_workers=1), tmp_path / "killed").read_bytes() == uninterrupted


@needs_fork
def test_sigterm_ends_a_data_worker_whatever_it_does():
    def work():
        start_data_worker(0)
        os.write(ready[1], b"1")
        threading.Event().wait()

    ready = os.pipe()
    worker = in_child(work)
    os.read(ready[0], 1)
    os.kill(worker, signal.SIGTERM)
    assert ended(worker) == 0


def damaged(path):
    """Return damaged contents of a state file, by the kind of damage."""
    sound = path.read_bytes()
    weight = torch.load(path, weights_only=True)["parts"]["learning"]["weights"]["head.weight"]
    flipped = bytearray(sound)
    flipped[sound.index(weight.numpy().tobytes()) + 3] ^= 1
    torch.save({"weights": torch.zeros(3)}, path)
    return {
        "cut off": sound[: len(sound) // 2],
        "a bit of a weight flipped": bytes(flipped),
        "zeros": bytes(len(sound)),
        "empty": b"",
        "text": b"not a state",
        "something else": path.read_bytes(),
    }


def test_a_damaged_state_is_named_with_what_to_do(tmp_path):
    interrupted(tmp_path)
    path = tmp_path / "state.pt"
    for damage, contents in damaged(path).items():
        path.write_bytes(contents)
        with pytest.raises(TrainingError, match=r"state\.pt is damaged.*remove the file") as caught:
            loop.train(stripes(), tmp_path)
        assert "\n" not in str(caught.value), damage
    path.unlink()
    assert loop.train(stripes(), tmp_path).exists()


@pytest.mark.parametrize(
    "junk",
    [
        b"\0\0\0\0",
        b"\xff",
        b"[1]",
        b'"text"',
        b'{"loss": 1}',
        b'{"step": "x"}',
        b'{"step": 1, "loss": "x"}',
        b"[" * 100_000,
    ],
)
def test_junk_in_the_metrics_is_named_by_file_and_line(junk, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + junk + b"\n")
    with pytest.raises(
        ValueError, match=r"line 2 of .*metrics\.jsonl is damaged: remove that line"
    ) as caught:
        loop.train(stripes(), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("junk", [b"", b"\0", b"\xff", b"[1]", b"5", b'{"settings": 5}', b"[" * 100_000])
def test_junk_in_the_recipe_of_a_finished_run_is_named(junk, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "finished": true, "data": "noise with stripes"}\n')
    (tmp_path / "recipe.json").write_bytes(junk)
    with pytest.raises(ValueError, match=r"recipe\.json is damaged"):
        loop.train(stripes(), tmp_path)


def test_a_finished_run_whose_checkpoint_is_gone_says_so(tmp_path, complete_run):
    shutil.copytree(complete_run.folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "last.safetensors").unlink()
    with pytest.raises(TrainingError, match=r"is finished, but its last\.safetensors is missing"):
        loop.train(stripes(), tmp_path)


def test_the_last_checkpoint_is_not_passed_off_as_the_best_one(tmp_path, complete_run):
    shutil.copytree(complete_run.folder, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"step": 20, "val_score": 0.5}\n')
    with pytest.raises(TrainingError, match=r"best\.safetensors is missing"):
        loop.train(stripes(), tmp_path)


@needs_fork
def test_a_second_run_in_the_same_folder_is_refused_until_the_first_has_ended(tmp_path):
    def first():
        with run_folder.RunFolder(tmp_path).locked():
            if os.fork() == 0:  # as a data worker, which may live longer
                os.read(go_on[0], 1)
                os._exit(0)
            os.write(ready[1], b"1")
            signal.pause()

    ready, go_on = os.pipe(), os.pipe()
    holder = in_child(first)
    os.read(ready[0], 1)
    with pytest.raises(TrainingError, match=r"another training run is writing into .*--out"):
        loop.train(stripes(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    os.kill(holder, signal.SIGKILL)
    ended(holder)
    with run_folder.RunFolder(tmp_path).locked():
        os.write(go_on[1], b"1")


def test_it_trains_outside_the_main_thread(tmp_path, uninterrupted):
    thread = threading.Thread(target=loop.train, args=(stripes(data__num_workers=1), tmp_path / "thread"))
    thread.start()
    thread.join()
    assert Checkpoint.load(tmp_path / "thread" / "last.safetensors").labels == LABELS
    assert (tmp_path / "thread" / "last.safetensors").read_bytes() == uninterrupted


def test_a_second_request_to_stop_ends_a_run_that_does_not_heed_the_first(monkeypatch):
    def stuck():
        with safeguards.StopRequest():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)  # at once: the same request, from the launcher
            monkeypatch.setattr(safeguards, "SAME_REQUEST_SECONDS", -1.0)
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("still there")

    assert ended(in_child(stuck)) == -signal.SIGTERM


def test_asked_to_stop_while_no_batch_comes_it_saves_and_resumes_to_the_same_end(
    tmp_path, monkeypatch, uninterrupted
):
    build_loader = loop.build_loader

    class Stuck:
        def __init__(self, loader):
            self.loader = loader

        def __iter__(self):
            for number, batch in enumerate(self.loader):
                if number == 7:
                    os.kill(os.getpid(), signal.SIGTERM)
                    threading.Event().wait()
                yield batch

    with monkeypatch.context() as patch:
        patch.setattr(loop, "build_loader", lambda *arguments: Stuck(build_loader(*arguments)))
        assert loop.train(stripes(run__save_every=1000), tmp_path / "stuck") is None
    rows = [json.loads(line) for line in (tmp_path / "stuck" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 5
    assert torch.load(tmp_path / "stuck" / "state.pt", weights_only=True)["progress"]["step"] == 7
    resumed = loop.train(stripes(run__save_every=1000), tmp_path / "stuck")
    assert resumed.read_bytes() == uninterrupted
