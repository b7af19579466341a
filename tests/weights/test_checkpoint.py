import dataclasses
import json
import logging

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from videoswin._errors import InputError
from videoswin.model.config import NANO
from videoswin.model.swin import VideoSwin
from videoswin.video.spec import PER_CLIP, ClipSpec, ViewPlan
from videoswin.weights.catalog import load_labels
from videoswin.weights.checkpoint import Checkpoint, load_model, save_state_dict
from videoswin.weights.convert import parameter_shapes
from videoswin.weights.layouts import WRITERS
from videoswin.weights.metadata import Metadata


@pytest.fixture
def checkpoint(weights, config):
    return Checkpoint(
        weights=weights,
        config=config,
        clip=ClipSpec(frames=8, size=64, short_side=64, normalization=PER_CLIP, antialias=True),
        views=ViewPlan(clips=1, crops=1),
        labels=("a", "b", "c", "d", "é, with a comma"),
        lineage={"command": "videoswin train"},
        license="Apache-2.0",
        name="small",
    )


@pytest.fixture
def backbone(weights, config):
    """What an image model leaves: no head."""
    return Checkpoint.from_state_dict({k: v for k, v in weights.items() if not k.startswith("head.")})


def test_everything_comes_back_from_a_file(checkpoint, tmp_path):
    checkpoint.save(tmp_path / "x.safetensors")
    loaded = Checkpoint.load(tmp_path / "x.safetensors")
    for field in dataclasses.fields(Checkpoint):
        if field.name != "weights":
            assert getattr(loaded, field.name) == getattr(checkpoint, field.name)
    assert loaded.weights.keys() == checkpoint.weights.keys()
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in checkpoint.weights.items())


def test_an_exported_file_gets_the_metadata_of_the_checkpoint_and_a_precision(checkpoint):
    metadata = checkpoint.export_metadata("int8")
    assert type(metadata) is Metadata
    assert vars(metadata) == {
        name: value for name, value in vars(checkpoint).items() if name != "weights"
    } | {"precision": "int8"}
    assert vars(Metadata.of_exported_file(metadata.to_json(), "x.onnx")) == vars(metadata)


def test_a_multi_label_model_stays_one_and_older_packages_refuse_its_file(checkpoint, tmp_path):
    dataclasses.replace(checkpoint, multi_label=True).save(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert json.loads(file.metadata()["videoswin"])["version"] == 3
    assert Checkpoint.load(tmp_path / "x.safetensors").multi_label


@pytest.mark.parametrize("version", [1, 2])
def test_files_with_british_names_from_before_version_3_still_load(version, checkpoint, tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path)
    with safe_open(path, "pt") as file:
        fields = json.loads(file.metadata()["videoswin"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    fields |= {"version": version, "licence": fields.pop("license")}
    fields["clip"]["normalisation"] = fields["clip"].pop("normalization")
    save_file(tensors, path, metadata={"videoswin": json.dumps(fields)})
    loaded = Checkpoint.load(path)
    assert (loaded.license, loaded.clip) == (checkpoint.license, checkpoint.clip)


def test_the_same_checkpoint_makes_the_same_bytes(checkpoint, tmp_path):
    checkpoint.save(tmp_path / "a.safetensors")
    Checkpoint.load(tmp_path / "a.safetensors").save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_model_has_these_weights_in_eval_mode_and_its_own_memory(checkpoint):
    model = checkpoint.model()
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    state_dict = model.state_dict()
    assert all(torch.equal(state_dict[name], tensor) for name, tensor in checkpoint.weights.items())
    with torch.no_grad():
        model.head.weight.zero_()
    assert checkpoint.weights["head.weight"].any()


def test_half_precision_weights_make_a_single_precision_model(checkpoint):
    halves = {name: tensor.half() for name, tensor in checkpoint.weights.items()}
    model = dataclasses.replace(checkpoint, weights=halves).model()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_options_reach_the_model(checkpoint):
    assert checkpoint.model(drop_path=0.3).stages[-1].blocks[-1].drop_path == pytest.approx(0.3)


def test_load_model_gives_the_logits_of_the_model_that_was_saved(tmp_path):
    model = VideoSwin(NANO.replace(depths=(1, 1), num_heads=(1, 2))).eval()
    Checkpoint.from_state_dict(model.state_dict()).save(tmp_path / "x.safetensors")
    clips = torch.randn(1, 3, 4, 16, 16)
    assert torch.equal(load_model(tmp_path / "x.safetensors")(clips), model(clips))


def test_save_replaces_a_file_only_when_it_is_complete(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")

    def full_disk(*_args, **_keywords):
        raise OSError("no space left on device")

    monkeypatch.setattr("videoswin.weights.checkpoint.safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    assert path.read_bytes() == b"old"


def test_save_takes_weights_that_share_memory_or_are_strided(checkpoint, tmp_path):
    shared = torch.randn(64)
    weights = checkpoint.weights | {"norm.weight": shared, "norm.bias": shared}
    name = "stages.0.downsample.reduction.weight"
    weights[name] = weights[name].T.contiguous().T
    dataclasses.replace(checkpoint, weights=weights).save(tmp_path / "x.safetensors")
    assert torch.equal(Checkpoint.load(tmp_path / "x.safetensors").weights["norm.bias"], shared)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.bool])
def test_file_with_weights_of_another_type_is_refused(dtype, checkpoint, tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    weights = checkpoint.weights | {"norm.bias": torch.zeros(64).to(dtype)}
    for described in (metadata, None):
        save_file(weights, path, metadata=described)
        with pytest.raises(InputError, match=r"x\.safetensors.*float64, got others in norm\.bias; save them"):
            Checkpoint.load(path)


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(64, device="meta"), torch.zeros(64).to_sparse()],
    ids=["meta", "sparse"],
)
def test_weights_without_plain_values_are_refused(tensor, checkpoint, tmp_path):
    torch.save(checkpoint.weights | {"norm.bias": tensor}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x\.pth.*(float64, got others in norm\.bias|got one on the meta)"):
        Checkpoint.load(tmp_path / "x.pth")


def test_weights_that_the_model_has_no_place_for_are_refused(checkpoint):
    with pytest.raises(InputError, match=r"weights must match the config, got unknown tensors extra\.bias"):
        dataclasses.replace(checkpoint, weights=checkpoint.weights | {"extra.bias": torch.zeros(1)})


def test_window_that_no_model_can_have_is_the_callers_error(checkpoint, weights):
    for call in (checkpoint.with_window, lambda window: Checkpoint.from_state_dict(weights, window=window)):
        for window in ((10**9, 7, 7), (8, 7), (1, 2**15, 2**15)):
            with pytest.raises(InputError, match=r"window .*must "):
                call(window)


def test_file_whose_name_cannot_be_printed_is_loaded_under_an_escaped_one(weights, tmp_path):
    torch.save(weights, tmp_path / "a\x1b[31m.pth")
    assert Checkpoint.load(tmp_path / "a\x1b[31m.pth").name == "a\\x1b[31m"


def test_metadata_that_could_not_be_read_back_is_not_written(checkpoint, tmp_path):
    long = dataclasses.replace(checkpoint, lineage={"command": "x" * 2**24})
    with pytest.raises(InputError, match=r"at most 16777216 characters, got .*; shorten the lineage"):
        long.save(tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_other_suffixes_are_not_written(checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        checkpoint.save(tmp_path / "x.pth")


def test_metadata_is_one_versioned_json_object(checkpoint, tmp_path):
    checkpoint.save(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        metadata = file.metadata()
    description = json.loads(metadata["videoswin"])
    assert description["version"] == 3
    assert set(description) == {
        "version", "config", "clip", "views", "protocol", "labels", "multi_label", "lineage", "license",
        "name", "precision",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 4}, "version must be <= 3, got 4; install a newer videoswin"),
        ({"version": "1"}, "version must be an integer >= 1, got '1'"),
        ({"version": True}, "version must be an integer >= 1, got True"),
        ({"clip": [1]}, "ClipSpec must be an object with frames, .*, got"),
        ({"labels": ["a"]}, "must have 5 names, one for each class of the head, got 1"),
        ({"clip": {"frames": 0}}, "frames must be an integer from 1 to 4096, got 0"),
        ({"config": {"embed_dim": 32}}, "VideoSwinConfig has no value for depths, num_heads"),
    ],
)
def test_bad_metadata_is_an_error_that_names_the_file(change, message, checkpoint, tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path)
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["videoswin"])
    metadata = {"videoswin": json.dumps(description | change)}
    save_file(checkpoint.weights, path, metadata=metadata)
    with pytest.raises(ValueError, match=message) as error:
        Checkpoint.load(path)
    assert "x.safetensors is a videoswin checkpoint that does not load" in str(error.value)


def test_incomplete_file_of_ours_is_an_error(checkpoint, tmp_path):
    path = tmp_path / "x.safetensors"
    checkpoint.save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    del checkpoint.weights["norm.bias"]
    save_file(checkpoint.weights, path, metadata=metadata)
    with pytest.raises(ValueError, match=r"1 of 63 tensors are missing: norm\.bias"):
        Checkpoint.load(path)


def test_checkpoints_compare_by_identity_and_print_in_a_line_or_two(checkpoint):
    assert checkpoint == checkpoint
    assert checkpoint != dataclasses.replace(checkpoint)
    assert len(repr(checkpoint)) < 1000


def test_weights_that_are_not_floating_point_are_refused(checkpoint):
    weights = checkpoint.weights | {"norm.bias": torch.zeros(64, dtype=torch.int64)}
    with pytest.raises(ValueError, match=r"bfloat16, float32 or float64, got others in norm\.bias"):
        dataclasses.replace(checkpoint, weights=weights)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_file_with_nan_or_infinity_is_refused(value, checkpoint, tmp_path):
    checkpoint.weights["norm.bias"][3] = value
    checkpoint.save(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"must be finite, got 1 tensors with NaN or infinity: norm\.bias"):
        Checkpoint.load(tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"must be finite, got 1 tensors with NaN or infinity: norm\.bias"):
        Checkpoint.from_state_dict(checkpoint.weights)


def test_invalid_number_of_classes_is_an_error_without_log(checkpoint, caplog):
    with pytest.raises(ValueError, match="num_classes must be an integer from 1 to 1000000, got -1"):
        checkpoint.model(num_classes=-1)
    assert not caplog.records


def test_labels_must_fit_the_head(checkpoint):
    with pytest.raises(ValueError, match="must have 5 names, one for each class of the head, got 2"):
        dataclasses.replace(checkpoint, labels=("a", "b"))


def test_backbone_makes_a_model_only_with_a_fresh_head(backbone, caplog):
    assert backbone.labels == ()
    assert not backbone.has_head
    with pytest.raises(
        ValueError,
        match=r"num_classes must be set, .* is a backbone without a head; model\(num_classes=\.\.\.\) adds",
    ):
        backbone.model()
    with caplog.at_level(logging.WARNING):
        model = backbone.model(num_classes=7)
    assert "the head with 7 classes is newly initialized" in caplog.text
    assert model(torch.randn(1, 3, 4, 16, 16)).shape == (1, 7)


def test_backbone_is_saved_and_loaded_as_one(backbone, tmp_path):
    backbone.save(tmp_path / "x.safetensors")
    assert not Checkpoint.load(tmp_path / "x.safetensors").has_head


def test_a_new_number_of_classes_only_replaces_the_head(checkpoint):
    model = checkpoint.model(num_classes=5)
    state_dict = model.state_dict()
    assert not torch.equal(state_dict["head.weight"], checkpoint.weights["head.weight"])
    assert torch.equal(state_dict["norm.weight"], checkpoint.weights["norm.weight"])


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".torch", ".bin", ".safetensors"])
def test_foreign_files_are_read_whatever_their_suffix(layout, suffix, weights, config, tmp_path):
    path = tmp_path / f"foreign{suffix}"
    state_dict = WRITERS[layout](weights, config)
    save_state_dict(state_dict, path)
    loaded = Checkpoint.load(path)
    assert loaded.config == config
    assert loaded.name == "foreign"
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in weights.items())
    back = loaded.to_state_dict(layout)
    assert back.keys() == state_dict.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state_dict.items())


@pytest.mark.parametrize(
    ("num_classes", "label_set", "rule"),
    [
        (400, "kinetics400", "dense"),
        (600, "kinetics600", "dense"),
        (700, "kinetics700", "dense"),
        (710, "kinetics710", "dense"),
        (174, "something-v2", "segments"),
    ],
)
def test_labels_inferred_from_the_number_of_classes_are_noted(num_classes, label_set, rule, config):
    shapes = parameter_shapes(config.replace(num_classes=num_classes))
    checkpoint = Checkpoint.from_state_dict({name: torch.zeros(shape) for name, shape in shapes.items()})
    assert checkpoint.labels == load_labels(label_set)
    assert checkpoint.lineage["labels"] == f"{label_set}: inferred from the number of classes, {num_classes}"
    assert checkpoint.clip.rule == rule


def test_unknown_label_set_is_numbered(weights):
    checkpoint = Checkpoint.from_state_dict(weights)
    assert checkpoint.labels == ("class 0", "class 1", "class 2", "class 3", "class 4")
    assert checkpoint.lineage["labels"] == "unknown: classes are numbered"
    assert checkpoint.license.startswith("unknown")


def test_file_of_the_catalog_is_known_by_its_name(config, tmp_path, monkeypatch):
    path = tmp_path / "swin_base_patch244_window1677_sthv2.pth"
    monkeypatch.setattr("videoswin.weights.checkpoint.BASE", config)  # the real one has 350 MB
    shapes = parameter_shapes(config.replace(num_classes=174))
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, path)
    checkpoint = Checkpoint.load(path)
    assert checkpoint.name == "base-ssv2"
    assert checkpoint.license == "Apache-2.0"
    assert checkpoint.lineage["labels"] == "something-v2: published with the weights"
    assert checkpoint.clip.rule == "segments"
    assert checkpoint.views == ViewPlan(clips=1, crops=3)


def test_image_model_becomes_a_backbone_at_the_size_of_its_window():
    config = NANO.replace(window=(1, 12, 12), num_classes=1000, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    state_dict = {name: torch.zeros(shape) for name, shape in parameter_shapes(config).items()}
    state_dict["patch_embed.proj.weight"] = torch.zeros(32, 3, 4, 4)
    checkpoint = Checkpoint.from_state_dict(state_dict, window=(8, 12, 12))
    assert checkpoint.config.window == (8, 12, 12)
    assert checkpoint.clip.size == 384
    assert checkpoint.lineage["labels"] == "none: a backbone without a head"


def test_another_window_resizes_tables_and_says_so(checkpoint):
    wider = checkpoint.with_window((8, 4, 4))
    assert wider.config.window == (8, 4, 4)
    assert wider.lineage["window"] == "tables resized from (4, 4, 4) to (8, 4, 4)"
    assert wider.model()(torch.randn(1, 3, 8, 16, 16)).shape == (1, 5)
    assert checkpoint.with_window((4, 4, 4)) is checkpoint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tiny-k40", "'tiny-k40' is neither a file nor the name of a model; did you mean 'tiny-k400'"),
        (
            "no/such/file.pth",
            "'no/such/file.pth' is neither a file nor the name of a model; `videoswin models`",
        ),
        (".", "is a folder, not a file"),
        ("", "is neither"),
    ],
)
def test_unknown_names_are_errors(name, message):
    with pytest.raises(ValueError, match=message):
        Checkpoint.load(name)


def test_unknown_layout_cannot_be_written(checkpoint):
    with pytest.raises(
        ValueError, match="layout must be one of official, mmaction2, torchvision, got 'timm'"
    ):
        checkpoint.to_state_dict("timm")


def test_unreadable_layout_names_the_file(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(
        ValueError,
        match=r"resnet\.pth: the layout must be one of .*, got 1 tensors .* such as conv\.weight",
    ):
        Checkpoint.load(tmp_path / "resnet.pth")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_full_disk_is_an_os_error_with_the_name_of_the_file(name, tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_state_dict({"a": torch.zeros(100_000)}, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_choice_among_the_weights_of_a_file_is_logged_and_kept(weights, tmp_path, caplog):
    torch.save({"model": weights, "model_ema": dict(weights)}, tmp_path / "best.pth")
    checkpoint = Checkpoint.load(tmp_path / "best.pth")
    said = "the averaged weights under model_ema are used, not the raw ones under model"
    assert said in caplog.text
    assert checkpoint.lineage["conversion"].endswith(said)
