"""Conversion of layouts whose libraries cannot be installed here, built from their published key names."""

import re

import pytest
import torch

from videoswin._errors import InputError
from videoswin.model.config import BASE, BASE_W16, LARGE, LARGE_384, MAX_DEPTH, MAX_STAGES, NANO, SMALL, TINY
from videoswin.model.swin import VideoSwin
from videoswin.model.windows import relative_position_index
from videoswin.weights import layouts
from videoswin.weights.containers import recognize
from videoswin.weights.convert import convert, describe_gaps, infer_config, parameter_shapes
from videoswin.weights.layouts import LAYOUTS, WRITERS

INDEX = relative_position_index((4, 4, 4), (4, 4, 4))


def renamed(weights, *substitutions):
    """`weights` with every (pattern, replacement) applied to its names."""
    result = {}
    for name, tensor in weights.items():
        for pattern, replacement in substitutions:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result


def official(weights):
    names = renamed(
        weights, (r"^stages", "layers"), (r"^(?!head)", "backbone."), (r"^head", "cls_head.fc_cls")
    )
    return names | {"backbone.layers.0.blocks.0.attn.relative_position_index": INDEX}


def mmaction2(weights):
    return renamed(official(weights), (r"^backbone\.norm\.", "backbone.norm3."))


def omnivore(weights):
    backbone = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    trunk = renamed(backbone, (r"^stages", "layers"))
    trunk |= {
        "depth_patch_embed.proj.weight": torch.zeros(32, 1, 2, 4, 4),
        "layers.0.blocks.0.attn.relative_position_index": INDEX,
    }
    heads = {
        "image.weight": torch.zeros(1000, 64),
        "image.bias": torch.zeros(1000),
        "video.1.weight": weights["head.weight"],
        "video.1.bias": weights["head.bias"],
    }
    return {"trunk": trunk, "heads": heads}


def omnivore_epic(weights):
    contents = omnivore(weights)
    return contents | {"heads": {"1.weight": weights["head.weight"], "1.bias": weights["head.bias"]}}


def image_weights(weights, side=4):
    """The same tensors as an image model's, with ImageNet's 1000 classes."""
    flat = dict(weights)
    for name, tensor in weights.items():
        if name.endswith("table"):
            flat[name] = tensor[: (2 * side - 1) ** 2]
    flat["patch_embed.proj.weight"] = weights["patch_embed.proj.weight"][:, :, 0]
    flat["head.weight"], flat["head.bias"] = torch.zeros(1000, 64), torch.zeros(1000)
    return flat


def microsoft(weights):
    flat = renamed(image_weights(weights), (r"^stages", "layers"))
    buffers = {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16, dtype=torch.int64),
        "layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16),
    }
    return {"model": flat | buffers}


def simmim(weights):
    backbone = {
        name: tensor for name, tensor in microsoft(weights)["model"].items() if not name.startswith("head.")
    }
    extra = {"encoder.mask_token": torch.zeros(1, 1, 32), "decoder.0.weight": torch.zeros(3072, 64, 1, 1)}
    return {"model": {f"encoder.{name}": tensor for name, tensor in backbone.items()} | extra}


VIDEO = {
    "official Video Swin (mmaction 0.x)": official,
    "mmaction2 1.x Swin": mmaction2,
    "Omnivore": omnivore,
}


@pytest.mark.parametrize("layout", VIDEO)
def test_video_layouts_from_their_key_tables(layout, weights, config):
    conversion = convert(VIDEO[layout](weights))
    assert conversion.layout == layout
    assert conversion.config == config
    assert all(torch.equal(conversion.weights[name], tensor) for name, tensor in weights.items())


@pytest.mark.parametrize("build", [microsoft, simmim])
def test_image_layouts_from_their_key_tables(build, weights, config):
    conversion = convert(build(weights))
    assert conversion.layout == "Microsoft image Swin"
    assert conversion.config.replace(num_classes=5) == config.replace(window=(8, 4, 4))
    assert not any(name.startswith("head.") for name in conversion.weights)
    name = "stages.0.downsample.reduction.weight"
    assert torch.equal(conversion.weights[name], weights[name])


# As their own code writes them, first block of the first stage and everything outside the blocks.
OFFICIAL_NAMES = [
    "backbone.patch_embed.proj.weight",
    "backbone.patch_embed.proj.bias",
    "backbone.patch_embed.norm.weight",
    "backbone.patch_embed.norm.bias",
    "backbone.layers.0.blocks.0.norm1.weight",
    "backbone.layers.0.blocks.0.norm1.bias",
    "backbone.layers.0.blocks.0.attn.relative_position_bias_table",
    "backbone.layers.0.blocks.0.attn.relative_position_index",
    "backbone.layers.0.blocks.0.attn.qkv.weight",
    "backbone.layers.0.blocks.0.attn.qkv.bias",
    "backbone.layers.0.blocks.0.attn.proj.weight",
    "backbone.layers.0.blocks.0.attn.proj.bias",
    "backbone.layers.0.blocks.0.norm2.weight",
    "backbone.layers.0.blocks.0.norm2.bias",
    "backbone.layers.0.blocks.0.mlp.fc1.weight",
    "backbone.layers.0.blocks.0.mlp.fc1.bias",
    "backbone.layers.0.blocks.0.mlp.fc2.weight",
    "backbone.layers.0.blocks.0.mlp.fc2.bias",
    "backbone.layers.0.downsample.reduction.weight",
    "backbone.layers.0.downsample.norm.weight",
    "backbone.layers.0.downsample.norm.bias",
    "backbone.norm.weight",
    "backbone.norm.bias",
    "cls_head.fc_cls.weight",
    "cls_head.fc_cls.bias",
]
MMACTION2_NAMES = [name.replace("backbone.norm.", "backbone.norm3.") for name in OFFICIAL_NAMES]
OMNIVORE_NAMES = [
    *(name.replace("backbone.", "trunk.") for name in OFFICIAL_NAMES if name.startswith("backbone.")),
    "heads.video.1.weight",
    "heads.video.1.bias",
    "heads.image.weight",
    "heads.image.bias",
    "trunk.depth_patch_embed.proj.weight",
]


def outside_blocks_and_first(names):
    """Those names that do not differ from one block or stage to the next."""
    return {name for name in names if not re.search(r"blocks\.[1-9]|layers\.[1-9]", name)}


@pytest.mark.parametrize(
    ("build", "names"),
    [(official, OFFICIAL_NAMES), (mmaction2, MMACTION2_NAMES), (omnivore, OMNIVORE_NAMES)],
)
def test_key_tables_are_those_of_the_libraries(build, names, weights):
    assert outside_blocks_and_first(recognize(build(weights)).state_dict) == set(names)


@pytest.mark.parametrize(("layout", "names"), [("official", OFFICIAL_NAMES), ("mmaction2", MMACTION2_NAMES)])
def test_written_names_are_those_of_the_libraries(layout, names, weights, config):
    assert outside_blocks_and_first(WRITERS[layout](weights, config)) == set(names)


@pytest.mark.parametrize("build", [official, microsoft])
def test_integer_weights_are_refused_before_anything_casts_them(build, weights):
    weights["patch_embed.proj.weight"] = weights["patch_embed.proj.weight"].to(torch.int8)
    with pytest.raises(ValueError, match=r"float64, got others in patch_embed\.proj\.weight"):
        convert(build(weights))


def test_epic_model_has_its_single_head(weights):
    conversion = convert(omnivore_epic(weights))
    assert torch.equal(conversion.weights["head.weight"], weights["head.weight"])


def test_backbone_without_prefix_is_recognized(weights):
    backbone = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    conversion = convert(renamed(backbone, (r"^stages", "layers")))
    assert conversion.layout.startswith("official")
    assert set(conversion.weights) == set(backbone)


@pytest.mark.parametrize("layout", WRITERS)
def test_written_layouts_come_back_bit_for_bit(layout, weights, config):
    written = WRITERS[layout](weights, config)
    back = convert(written)
    assert back.config == config
    assert back.weights.keys() == weights.keys()
    assert all(torch.equal(back.weights[name], tensor) for name, tensor in weights.items())
    again = WRITERS[layout](back.weights, back.config)
    assert again.keys() == written.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in written.items())


@pytest.mark.parametrize("layout", WRITERS)
def test_layouts_are_written_without_a_head_too(layout, weights, config):
    del weights["head.weight"], weights["head.bias"]
    assert convert(WRITERS[layout](weights, config)).weights.keys() == weights.keys()


@pytest.mark.parametrize("build", [official, mmaction2, omnivore, microsoft, simmim])
def test_every_name_is_accounted_for(build, weights):
    contents = build(weights) | {"optimizer": {"lr": 1}}
    state_dict = recognize(contents).state_dict
    conversion = convert(contents)
    assert len(conversion.loaded) + len(conversion.converted) == len(conversion.weights)
    assert len(conversion.weights) + len(conversion.unused) == len(state_dict) + 1
    assert set(conversion.unused) < {*state_dict, "optimizer"}


def test_summary_says_what_became_of_the_file(weights):
    summary = convert(microsoft(weights)).summary()
    assert summary == (
        "Microsoft image Swin: not a published architecture, 5 tensors loaded, 56 converted, "
        "2 unused (head.weight, head.bias), 2 constants recomputed, 0 missing"
    )


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_wrappers_and_containers_are_opened(wrapper, container, weights):
    state_dict = {f"{wrapper}{name}": tensor for name, tensor in weights.items()}
    conversion = convert({container: state_dict, "epoch": 3} if container else state_dict)
    assert conversion.weights.keys() == weights.keys()


@pytest.mark.parametrize("wrapper", ["model.", "net.", "trainer.net.", "backbone."])
def test_wrapper_is_stripped_beside_other_tensors_which_are_unused(wrapper, weights):
    state_dict = {f"{wrapper}{name}": tensor for name, tensor in weights.items()}
    conversion = convert(state_dict | {"criterion.weight": torch.ones(5), "epoch": torch.tensor(3)})
    assert conversion.weights.keys() == weights.keys()
    assert set(conversion.unused) == {"criterion.weight", "epoch"}


def test_two_models_in_one_file_are_refused(weights):
    both = {f"{side}.{name}": tensor for side in ("net", "old") for name, tensor in weights.items()}
    with pytest.raises(ValueError, match=r"one model, got one under each of (net, old|old, net); give one"):
        convert(both)
    with pytest.raises(ValueError, match=r"one model, got one under each of student, teacher; give one"):
        convert({"student": weights, "teacher": dict(weights)})


CONTAINERS = ("module", "model_state", "net", "network", "weights", "params", "state_dict_ema", "anything")


@pytest.mark.parametrize("outer", [None, "model", "checkpoint"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_model_is_found_in_containers_of_any_name_and_depth(container, outer, weights):
    contents = {container: weights, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    conversion = convert({outer: contents, "best": 0.5} if outer else contents)
    assert conversion.weights.keys() == weights.keys()
    assert set(conversion.unused) == {"epoch", "optimizer"} | ({"best"} if outer else set())
    assert conversion.notes == ()


def averaged(weights):
    return {name: tensor + 1 for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("raw", "average"),
    [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema"), ("net", "swa_model")],
)
def test_averaged_weights_are_used_and_noted(raw, average, weights):
    conversion = convert({raw: weights, average: averaged(weights)})
    assert torch.equal(conversion.weights["norm.weight"], weights["norm.weight"] + 1)
    assert conversion.notes == (
        f"the averaged weights under {average} are used, not the raw ones under {raw}",
    )


def test_averaged_weights_are_also_recognized_by_their_prefix(weights):
    both = {f"model.{name}": tensor for name, tensor in weights.items()}
    both |= {f"model_ema.module.{name}": tensor for name, tensor in averaged(weights).items()}
    conversion = convert({"state_dict": both})
    assert torch.equal(conversion.weights["head.bias"], weights["head.bias"] + 1)
    assert conversion.notes[0].startswith("the averaged weights under state_dict.model_ema.module are used")


def test_average_that_mmengine_has_exchanged_with_the_raw_weights_is_taken(weights):
    contents = {"state_dict": averaged(weights), "ema_state_dict": weights, "message_hub": {}}
    assert torch.equal(convert(contents).weights["head.bias"], weights["head.bias"] + 1)


@pytest.mark.parametrize(
    "name", ["head.1", "fc", "classifier", "head.fc", "cls_head.fc", "module.classifier.1"]
)
@pytest.mark.parametrize("wrapper", ["", "encoder."])
def test_head_with_another_name_is_used_and_noted(name, wrapper, weights):
    backbone = {f"{wrapper}{key}": value for key, value in weights.items() if not key.startswith("head.")}
    head = {f"{name}.{part}": weights[f"head.{part}"] for part in ("weight", "bias")}
    conversion = convert(backbone | head)
    assert all(torch.equal(conversion.weights[key], tensor) for key, tensor in weights.items())
    assert conversion.config.num_classes == 5
    assert conversion.notes == (f"{name} is used as the head",)
    assert conversion.unused == ()


def test_head_in_a_container_of_its_own_is_taken(weights):
    backbone = {key: value for key, value in weights.items() if not key.startswith("head.")}
    head = {part: weights[f"head.{part}"] for part in ("weight", "bias")}
    conversion = convert({"backbone": backbone, "classifier": head, "epoch": 1})
    assert torch.equal(conversion.weights["head.weight"], weights["head.weight"])
    assert conversion.unused == ("epoch",)


def test_heads_that_do_not_fit_are_dropped_and_noted(weights):
    backbone = {key: value for key, value in weights.items() if not key.startswith("head.")}
    two_layers = {"fc.0.weight": torch.ones(7, 64), "fc.2.weight": torch.ones(5, 7)}
    verb_and_noun = {
        f"head.{name}.{part}": weights[f"head.{part}"] for name in "vn" for part in ("weight", "bias")
    }
    no_bias = {"classifier.weight": weights["head.weight"]}
    for head in (two_layers, verb_and_noun, no_bias):
        conversion = convert(backbone | head)
        assert "head.weight" not in conversion.weights
        assert set(head) <= set(conversion.unused)
        (note,) = conversion.notes
        assert note.startswith("the head is not one linear layer with a bias and was dropped: ")
        assert next(iter(head)) in note


def test_tensors_of_another_kind_are_not_taken_as_a_head(weights):
    backbone = {key: value for key, value in weights.items() if not key.startswith("head.")}
    conversion = convert(
        backbone | {"projection.weight": torch.ones(5, 64), "projection.bias": torch.ones(5)}
    )
    assert "head.weight" not in conversion.weights
    assert conversion.unused == ("projection.weight", "projection.bias")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([1], "must map names to tensors, got list"),
        ({1: torch.zeros(1)}, "must be names, got 1"),
        ({"trunk": 1, "heads": 2}, "must have tensors, got none"),
        ({"state_dict": {2: torch.zeros(1)}}, "must be names, got 2"),
    ],
)
def test_what_is_no_state_dict_is_refused(contents, message):
    with pytest.raises(ValueError, match=message):
        convert(contents)


@pytest.mark.parametrize("window", ["abc", (1, 2), 5, (8, 7, "7")])
def test_window_that_is_none_is_refused(window, weights):
    with pytest.raises(ValueError, match="window must be"):
        convert(weights, window=window)


def test_unknown_inflation_is_refused_for_a_video_file_too(weights):
    with pytest.raises(ValueError, match="must be 'average' or 'center', got 'bogus'"):
        convert(weights, inflation="bogus")


def test_table_that_is_a_number_is_missing(weights):
    weights["stages.1.blocks.0.attn.relative_position_bias_table"] = torch.tensor(1.0)
    with pytest.raises(
        ValueError, match=r"1 of 63 tensors are missing: stages\.1\.blocks\.0\.attn\.relative"
    ):
        convert(weights)


def test_odd_names_in_a_known_layout_are_unused(weights, config):
    file = WRITERS["torchvision"](weights, config)
    odd = {"features.4": torch.ones(1), "features.x.y": torch.ones(1)}
    assert odd.keys() <= set(convert(file | odd).unused)


def test_missing_tensors_are_an_error_that_names_them_and_the_layout(weights):
    file = mmaction2(weights)
    for name in [name for name in file if "layers.1.blocks.1" in name and "mlp" in name]:
        del file[name]
    message = (
        r"looks like a file of mmaction2 1\.x Swin, but 4 of 63 tensors are missing: "
        r"stages\.1\.blocks\.1\.mlp\.fc1\.weight, stages\.1\.blocks\.1\.mlp\.fc1\.bias, .* and 1 more"
    )
    with pytest.raises(ValueError, match=message):
        convert(file)


def test_missing_patch_norm_is_an_error(weights):
    file = {name: tensor for name, tensor in official(weights).items() if "patch_embed.norm" not in name}
    with pytest.raises(ValueError, match=r"2 of 63 tensors are missing: patch_embed.norm.weight"):
        convert(file)


def test_heads_that_differ_within_a_stage_are_an_error(weights):
    name = "stages.1.blocks.1.attn.relative_position_bias_table"
    weights[name] = weights[name][:, :1]
    with pytest.raises(
        ValueError, match=r"1 tensors have another shape: .*table must be \(343, 2\), got \(343, 1\)"
    ):
        convert(weights)


def test_tokens_of_four_frames_are_refused(weights):
    weights["patch_embed.proj.weight"] = torch.zeros(32, 3, 4, 4, 4)
    with pytest.raises(ValueError, match=r"tokens must be \(2, 4, 4\) .* got \(4, 4, 4\)"):
        convert(weights)


def test_swin_v2_is_recognized_and_refused(weights):
    file = microsoft(weights)["model"] | {"layers.0.blocks.0.attn.logit_scale": torch.zeros(1, 1, 1)}
    with pytest.raises(ValueError, match="got a Swin V2: V2 uses cosine attention"):
        convert(file)


def test_unknown_layout_is_refused_with_what_it_looks_like():
    file = {f"resnet.layer{i}.conv.weight": torch.zeros(1) for i in range(9)}
    with pytest.raises(
        ValueError, match=r"torchvision Swin3D.*got 9 tensors .* such as resnet\.layer0.* and 6 more"
    ):
        convert(file)


@pytest.mark.parametrize("contents", [{}, {"epoch": 3}, {"state_dict": {}}])
def test_files_without_tensors_are_refused(contents):
    with pytest.raises(ValueError, match="must have tensors, got none"):
        convert(contents)


def test_another_window_resizes_the_tables_of_a_video_file(weights, config):
    conversion = convert(official(weights), window=[8, 3, 3])
    assert conversion.config == config.replace(window=(8, 3, 3))
    assert conversion.weights["stages.0.blocks.0.attn.relative_position_bias_table"].shape == (15 * 25, 1)


def test_ambiguous_window_is_read_from_the_stored_lookup(config):
    config = config.replace(window=(5, 3, 3))  # 225 rows: (1, 8, 8) and (13, 2, 2) fit too
    weights = {name: torch.zeros(shape) for name, shape in parameter_shapes(config).items()}
    assert convert(WRITERS["torchvision"](weights, config)).config == config
    assert convert(weights, window=(5, 3, 3)).config == config
    with pytest.raises(ValueError, match="pass window="):
        convert(weights)


def test_window_that_is_not_square_is_asked_for_or_read_from_the_stored_lookup():
    config = NANO.replace(window=(4, 4, 6))
    weights = VideoSwin(config).state_dict()
    assert convert(WRITERS["torchvision"](weights, config)).config == config
    assert convert(weights, window=(4, 4, 6)).config == config
    with pytest.raises(ValueError, match=r"539 rows: .* pass window=\(time, height, width\)"):
        convert(weights)


def test_stored_lookup_wins_over_the_window_asked_for():
    config = NANO.replace(window=(4, 4, 6))
    file = WRITERS["torchvision"](VideoSwin(config).state_dict(), config)
    conversion = convert(file, window=(6, 4, 4))
    name = "stages.0.blocks.0.attn.relative_position_bias_table"
    assert conversion.config.window == (6, 4, 4)
    assert not torch.equal(conversion.weights[name], file["features.0.0.attn.relative_position_bias_table"])


def test_stored_lookup_of_no_window_is_an_error(weights):
    file = official(weights)
    file["backbone.layers.0.blocks.0.attn.relative_position_index"] = INDEX.flip(0)
    with pytest.raises(ValueError, match=r"relative_position_index \(64, 64\) and .* 343 rows fit no window"):
        convert(file)


def of_shapes(config):
    """A state dict that takes no memory."""
    return {name: torch.zeros(()).expand(shape) for name, shape in parameter_shapes(config).items()}


def test_names_cannot_claim_stages_blocks_or_models_without_end(weights):
    for name in ("stages.999999999.blocks.0.norm1.bias", "stages.0.blocks.999999999.norm1.bias"):
        with pytest.raises(
            InputError, match=r"at most 8 stages of 256 blocks, got more, such as \(stage, block\) \("
        ):
            convert(weights | {name: torch.zeros(1)})
    many = {f"{number}.patch_embed.proj.weight": torch.zeros(1) for number in range(101)}
    with pytest.raises(InputError, match="at most 100 possible prefixes of a model, got 101"):
        convert(many)


def test_published_architecture_is_named():
    summary = convert(WRITERS["torchvision"](of_shapes(TINY), TINY)).summary()
    assert summary.startswith("torchvision Swin3D: Swin-T, ")


@pytest.mark.parametrize("layout", WRITERS)
def test_foreign_file_without_its_last_blocks_is_refused(layout):
    shallow = TINY.replace(depths=(2, 2, 3, 2))
    message = r"a Swin-T of .*, but 3 blocks are missing, .* stages\.2\.blocks\.3, stages\.2\.blocks\.4"
    with pytest.raises(ValueError, match=message):
        convert(WRITERS[layout](of_shapes(shallow), shallow))


def test_shallow_model_of_our_own_is_loaded_and_called_what_it_is():
    shallow = TINY.replace(depths=(2, 2, 3, 2))
    assert "videoswin: not a published architecture, 134" in convert(of_shapes(shallow)).summary()


def test_no_file_is_recognized_twice(weights):
    for build in (official, mmaction2, microsoft):
        contents = build(weights)
        flat = contents.get("model", contents)
        assert sum(layout.recognizes(flat) for layout in LAYOUTS) == 1


VARIANTS = [TINY, SMALL, BASE, BASE_W16, LARGE, LARGE_384, NANO, TINY.replace(num_classes=174, in_channels=1)]


def shapes_only(config):
    return {name: torch.empty(shape, device="meta") for name, shape in parameter_shapes(config).items()}


@pytest.mark.parametrize("config", VARIANTS)
def test_every_variant_is_recognized_by_its_shapes(config):
    assert infer_config(shapes_only(config)) == config


def test_gaps_are_named(config, weights):
    assert describe_gaps(weights, config) == ""
    del weights["stages.1.blocks.0.norm2.bias"]
    weights["norm.weight"] = torch.zeros(3)
    gaps = describe_gaps(weights, config)
    assert "1 of 63 tensors are missing: stages.1.blocks.0.norm2.bias" in gaps
    assert "norm.weight must be (64,), got (3,)" in gaps


def test_half_a_head_is_a_gap(config, weights):
    del weights["head.weight"]
    assert re.search(r"missing: head.weight", describe_gaps(weights, config))


def test_a_config_with_more_blocks_than_the_file_has_tensors_creates_no_model(config, weights):
    huge = config.replace(depths=(MAX_DEPTH,) * MAX_STAGES, num_heads=(1,) * MAX_STAGES)
    parameter_shapes.cache_clear()
    assert describe_gaps(weights, huge) == "2048 blocks have 13 tensors each, got only 63 tensors"
    assert parameter_shapes.cache_info().misses == 0


def test_shapes_of_an_architecture_take_no_random_numbers(config):
    parameter_shapes.cache_clear()
    before = torch.get_rng_state()
    parameter_shapes(config)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_library_needs_only_one_layout(weights, config, monkeypatch):
    """Its patch embedding, its head, its norm and the two parts of its files have names of their own."""
    other = layouts.Layout(
        name="other",
        rules={
            "stem.conv.*": "patch_embed.proj.*",
            "stem.ln.*": "patch_embed.norm.*",
            "body.{i+1}.{j}.*": "stages.{i}.blocks.{j}.*",
            "merge.{i}.*": "stages.{i}.downsample.*",
            "last.*": "norm.*",
        },
        prefixes=("encoder.",),
        heads=("decoder.",),
        patch_embed="stem.conv.weight",
        parts=("encoder", "decoder"),
    )
    monkeypatch.setattr(layouts, "LAYOUTS", (*layouts.LAYOUTS, other))
    written = other.from_videoswin(weights, config)
    nested = {part: {} for part in other.parts}
    for name, tensor in written.items():
        part, _, rest = name.partition(".")
        nested[part][rest] = tensor
    for contents in (written, {"state_dict": {f"module.{name}": w for name, w in written.items()}}, nested):
        conversion = convert(contents)
        assert (conversion.layout, conversion.config) == ("other", config)
        assert all(torch.equal(conversion.weights[name], tensor) for name, tensor in weights.items())
