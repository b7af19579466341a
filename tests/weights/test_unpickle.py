import os
import pickle
import re
import sys
import types
import typing
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from videoswin._errors import InputError
from videoswin.weights.unpickle import read_file


class Attack:
    """Pickles as a call of os.system."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class SubtleAttack(Attack):
    """Pickles as a call of eval, whose module is not blocked as such."""

    def __reduce__(self):
        return eval, (f"__import__('os').system({self.command!r})",)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("attack", [Attack, SubtleAttack])
def test_malicious_pickle_does_not_run(attack, zip_format, tmp_path):
    victim, path = tmp_path / "pwned", tmp_path / "bad.pth"
    contents = {"state_dict": {"a": torch.zeros(2)}, "meta": attack(f"touch {victim}")}
    torch.save(contents, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(
        ValueError,
        match=r"must have only tensors and plain values, got (posix\.system|eval); .* no code in it was run",
    ) as error:
        read_file(path)
    assert "\n" not in str(error.value)
    assert not victim.exists()
    torch.load(path, weights_only=False)
    assert victim.exists(), "the attack must be a real one"


def test_bare_malicious_pickle_does_not_run(tmp_path):
    victim, path = tmp_path / "pwned", tmp_path / "bad.bin"
    path.write_bytes(pickle.dumps(Attack(f"touch {victim}")))
    with pytest.raises(ValueError, match=r"bad\.bin"):
        read_file(path)
    assert not victim.exists()


@pytest.fixture
def trainer_objects(monkeypatch):
    """Classes under the names that trainers pickle; gone again when the file is read."""

    def define(name, *bases):
        module_name, _, class_name = name.rpartition(".")
        parts = module_name.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        cls = type(class_name, bases, {"__module__": module_name})
        setattr(sys.modules[module_name], class_name, cls)
        return cls

    buffer = define("mmengine.logging.history_buffer.HistoryBuffer")
    buffer.min = types.FunctionType((lambda self: None).__code__, {}, "min")
    buffer.min.__module__, buffer.min.__qualname__ = buffer.__module__, "HistoryBuffer.min"
    history = buffer()
    history._statistics_methods = {"min": buffer.min}
    history._log_history, history._count_history = np.arange(5.0), np.ones(5)
    history._max_length = 1_000_000
    node = define("yacs.config.CfgNode", dict)({"MODEL": {"EMBED_DIM": 96}})
    node.__dict__["__immutable__"] = True
    return {"message_hub": {"train/loss": history}, "config": node, "best": np.float64(0.8)}


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_trainer_checkpoint_with_pickled_objects_is_read(trainer_objects, zip_format, tmp_path, monkeypatch):
    path = tmp_path / "epoch_30.pth"
    tensor = torch.arange(6.0).view(2, 3)
    contents = {"state_dict": OrderedDict(a=tensor), "meta": {"epoch": 30}, **trainer_objects}
    torch.save(contents, path, _use_new_zipfile_serialization=zip_format)
    for module in [name for name in sys.modules if name.startswith(("mmengine", "yacs"))]:
        monkeypatch.delitem(sys.modules, module)
    read, metadata = read_file(path)
    assert torch.equal(read["state_dict"]["a"], tensor)
    assert metadata == {}
    assert type(read["message_hub"]["train/loss"]).__name__ == "Inert"


def stand_in(monkeypatch, name, *bases, **members):
    """A class under the name that a library gives it, as long as the test lasts."""
    module_name, _, class_name = name.rpartition(".")
    parts = module_name.split(".")
    for end in range(1, len(parts) + 1):
        module = ".".join(parts[:end])
        if module not in sys.modules:
            monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    cls = type(class_name, bases, {"__module__": module_name, **members})
    monkeypatch.setattr(sys.modules[module_name], class_name, cls, raising=False)
    return cls


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_checkpoint_with_a_hydra_configuration_is_read(zip_format, tmp_path, monkeypatch):
    node = stand_in(monkeypatch, "omegaconf.nodes.AnyNode")()
    node.__dict__.update(_val=3, _metadata=stand_in(monkeypatch, "omegaconf.base.ContainerMetadata")())
    node._metadata.__dict__.update(
        ref_type=typing.Any, object_type=dict, key_type=int, flags=defaultdict(list)
    )
    config = stand_in(monkeypatch, "omegaconf.dictconfig.DictConfig")()
    config.__dict__["_content"] = {"lr": node}
    path = tmp_path / "hydra.ckpt"
    contents = {"state_dict": {"a": torch.ones(2)}, "hyper_parameters": config}
    torch.save(contents, path, _use_new_zipfile_serialization=zip_format)
    read, _ = read_file(path)
    assert torch.equal(read["state_dict"]["a"], torch.ones(2))
    assert type(read["hyper_parameters"]).__name__ == "Inert"


@pytest.mark.parametrize("factory", [dict, list, int, float, None])
def test_defaultdict_is_read_as_a_plain_mapping(factory, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(defaultdict(factory, model={"a": torch.ones(2)}), path)
    read, _ = read_file(path)
    assert torch.equal(read["model"]["a"], torch.ones(2))
    with pytest.raises(KeyError):
        read["other"]


def test_lightning_hyperparameters_are_read(tmp_path, monkeypatch):
    attributes = stand_in(monkeypatch, "lightning_fabric.utilities.data.AttributeDict", dict)
    path = tmp_path / "epoch=3.ckpt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": attributes(lr=0.1)}, path)
    assert read_file(path)[0]["hyper_parameters"] == {"lr": 0.1}


def test_refusal_of_other_objects_says_how_to_save_the_tensors_alone(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    torch.save({"model": stand_in(monkeypatch, "their_library.Wrapper")()}, path)
    with pytest.raises(InputError, match=r"got their_library\.Wrapper.*torch\.save\(model\.state_dict\(\)"):
        read_file(path)


def exported_files(folder):
    with zipfile.ZipFile(folder / "a.pt2", "w") as archive:  # as torch.export.save begins it
        archive.writestr("a/archive_format", "pt2")
    (folder / "b.onnx").write_bytes(b"\x08\x0a\x12\x07pytorch")
    (folder / "c.xml").write_text('<?xml version="1.0"?><net name="x" version="11"></net>')
    (folder / "c.bin").write_bytes(bytes(64))
    return {"a.pt2": "PyTorch (.pt2)", "b.onnx": "ONNX Runtime", "c.xml": "OpenVINO", "c.bin": "OpenVINO"}


def test_exported_file_is_called_what_it_is(tmp_path):
    for name, runtime in exported_files(tmp_path).items():
        with pytest.raises(InputError, match=re.escape(f"got a model exported for {runtime}; give the")):
            read_file(tmp_path / name)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "damaged or not a PyTorch file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "damaged or not a PyTorch file"),
        (b"<!DOCTYPE html><html></html>", "damaged or not a PyTorch file"),
        (b"c\\iodule\nname\n.", "damaged or not a PyTorch file"),
        (b"PK\x03\x04" + bytes(64), "damaged or not a PyTorch file"),
        (b"\x10\0\0\0\0\0\0\0{'a': 1 aaaaaaaa", "damaged safetensors file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "must be a PyTorch or safetensors file, got a Keras file"),
    ],
)
def test_other_files_are_refused_in_one_line(contents, message, tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message) as error:
        read_file(path)
    assert "\n" not in str(error.value)


def test_safetensors_file_without_its_first_byte_is_refused(tmp_path):
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.ones(3)}, path)
    path.write_bytes(path.read_bytes()[1:])
    with pytest.raises(InputError, match="damaged or not a PyTorch file"):
        read_file(path)


def test_damaged_end_of_an_archive_is_refused(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"a": torch.ones(3)}, path)
    contents = bytearray(path.read_bytes())
    locator = contents.rindex(b"PK\x06\x07")
    contents[locator + 16 : locator + 20] = b"\xff" * 4  # the number of disks
    path.write_bytes(contents)
    with pytest.raises(InputError, match="is damaged"):
        read_file(path)


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_truncated_file_is_refused(zip_format, tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"a": torch.randn(100, 100)}, path, _use_new_zipfile_serialization=zip_format)
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ValueError, match="damaged or not a PyTorch file"):
        read_file(path)


def test_compressed_archive_is_refused(tmp_path):
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as stored,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as compressed,
    ):
        for name in stored.namelist():
            compressed.writestr(name, stored.read(name))
    with pytest.raises(
        InputError, match=r"must be an uncompressed archive, .*, got \d+ bytes that expand to 40"
    ):
        read_file(tmp_path / "b.pth")


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_key_whose_hash_would_take_years_is_refused(zip_format, tmp_path):
    doubled = ()
    for _ in range(60):
        doubled = (doubled, doubled)
    torch.save([doubled], tmp_path / "a.pth", _use_new_zipfile_serialization=zip_format)
    with pytest.raises(InputError, match="must have tuples of at most 1000000 values, got a larger one"):
        read_file(tmp_path / "a.pth")


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_tensor_of_more_values_than_the_file_has_is_refused(zip_format, tmp_path):
    contents = {"state_dict": {"a": torch.zeros(()).expand(10**6, 10**6)}}
    torch.save(contents, tmp_path / "a.pth", _use_new_zipfile_serialization=zip_format)
    with pytest.raises(
        InputError, match=r"must have the values of its tensors, got \d+ bytes for tensors of 4"
    ):
        read_file(tmp_path / "a.pth")


def test_tensors_may_share_their_values(tmp_path):
    shared = torch.arange(1000.0)
    weights = {"a": shared, "b": shared}
    torch.save({"state_dict": weights, "average": weights}, tmp_path / "a.pth")
    assert torch.equal(read_file(tmp_path / "a.pth")[0]["average"]["b"], shared)


def test_kind_is_read_from_the_bytes_not_the_name(tmp_path):
    path = tmp_path / "weights.bin"
    save_file({"a": torch.ones(3)}, path, metadata={"who": "timm"})
    contents, metadata = read_file(path)
    assert torch.equal(contents["a"], torch.ones(3))
    assert metadata == {"who": "timm"}


def test_file_that_holds_a_bare_tensor_is_refused(tmp_path):
    torch.save(torch.ones(3), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="must have a state dict, got a Tensor"):
        read_file(tmp_path / "a.pth")


# Scripting is deprecated, but the files are out there.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_file_is_refused_without_a_warning(tmp_path):
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt must be a checkpoint, got a model exported for TorchScript"):
        read_file(tmp_path / "a.pt")
