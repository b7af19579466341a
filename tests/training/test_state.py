"""States are saved atomically, restored exactly, and refused by other runs."""

import pytest
import torch
from torch import nn

from videoswin.training.state import RunProgress, load_state, save_state

PROGRESS = RunProgress(step=5, epoch=1)


@pytest.fixture
def parts():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer}


def test_it_comes_back_bit_for_bit(parts, tmp_path):
    save_state(tmp_path / "state.pt", {"seed": 0}, parts, PROGRESS)
    model = nn.Linear(3, 2)
    others = {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}
    assert load_state(tmp_path / "state.pt", {"seed": 0}, others) == PROGRESS
    assert torch.equal(model.weight, parts["model"].weight)
    ours, theirs = (p["optimizer"].state_dict()["state"][0]["exp_avg"] for p in (parts, others))
    assert torch.equal(ours, theirs)


def test_without_a_file_there_is_nothing_to_go_on_from(parts, tmp_path):
    assert load_state(tmp_path / "state.pt", {}, parts) is None


def test_a_state_of_another_run_is_refused_and_the_difference_is_named(parts, tmp_path):
    save_state(tmp_path / "state.pt", {"seed": 0, "optimizer.lr": 0.1}, parts, PROGRESS)
    with pytest.raises(ValueError, match=r"optimizer\.lr: 0\.1 then, 0\.2 now"):
        load_state(tmp_path / "state.pt", {"seed": 0, "optimizer.lr": 0.2}, parts)


def test_a_save_that_fails_leaves_the_state_before_and_no_rubbish(parts, tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_state(path, {"seed": 0}, parts, PROGRESS)
    before = path.read_bytes()

    def cut_off(state, target):
        target.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(OSError, match="no space"):
        save_state(path, {"seed": 0}, parts, PROGRESS)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
