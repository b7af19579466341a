"""A .pt2 file that could run code is not loaded unless the caller trusts it."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videoswin._errors import InputError
from videoswin.inference.backends import load_backend, torch_export
from videoswin.inference.export import export_model
from videoswin.inference.predictor import Predictor
from videoswin.model.swin import token_grid
from videoswin.video.spec import ClipSpec, ViewPlan
from videoswin.weights.checkpoint import Checkpoint
from videoswin.weights.metadata import Metadata

pytestmark = [
    pytest.mark.timeout(600),  # torch.export is slow to import on a busy machine
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

PROGRAM = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"

Members = dict[str, bytes]
Edit = Callable[[Members, Path], None]


class Model(nn.Module):
    """Pixels to two logits: a product, a constant and a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.full((3,), 0.1)
        self.head = nn.Linear(3, 2)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.head(pixels.to(torch.float32).mean((2, 3, 4)) * self.scale)
        return logits


FACTS = Metadata(
    name="small",
    precision="fp32",
    clip=ClipSpec(frames=2, stride=1, size=4, short_side=4),
    views=ViewPlan(clips=1, crops=1),
    labels=("a", "b"),
    multi_label=False,
    license="MIT",
    lineage={},
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file as `videoswin export` writes it."""
    path = tmp_path_factory.mktemp("plain") / "model.pt2"
    batch = {"pixels": {0: torch.export.Dim("batch", min=1)}}
    pixels = torch.zeros(2, 3, 2, 4, 4, dtype=torch.uint8)
    program = torch.export.export(Model(), (pixels,), dynamic_shapes=batch)
    torch_export.write(program, path, FACTS)
    return path


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write_members(members: Members, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)


def in_json(members: Members, name: str, change: Callable[[Any], None]) -> None:
    contents = json.loads(members[name])
    change(contents)
    members[name] = json.dumps(contents).encode()


class Attack:
    """Makes the folder `marker` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def saved(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(Attack(marker), buffer)
    return buffer.getvalue()


def code(marker: Path) -> str:
    return f"__import__('os').mkdir({str(marker)!r})"


def first_entry(config: Any) -> Any:
    return next(iter(config["config"].values()))


def pickled_weight(members: Members, marker: Path) -> None:
    in_json(members, WEIGHTS, lambda config: first_entry(config).update(use_pickle=True))
    members["data/weights/weight_0"] = saved(marker)


def pickled_constant(members: Members, marker: Path) -> None:
    in_json(members, CONSTANTS, lambda config: first_entry(config).update(use_pickle=True))
    members["data/constants/tensor_0"] = saved(marker)


def opaque_constant(members: Members, marker: Path) -> None:
    in_json(
        members,
        CONSTANTS,
        lambda config: first_entry(config).update(path_name="opaque_obj_0", use_pickle=True),
    )
    members["data/constants/opaque_obj_0"] = pickle.dumps(Attack(marker))


def custom_constant(members: Members, marker: Path) -> None:
    in_json(
        members,
        CONSTANTS,
        lambda config: first_entry(config).update(path_name="custom_obj_0", use_pickle=True),
    )
    members["data/constants/custom_obj_0"] = saved(marker)


def legacy_weights(members: Members, marker: Path) -> None:
    members["data/weights/model.pt"] = saved(marker)


def legacy_constants(members: Members, marker: Path) -> None:
    members["data/constants/model.pt"] = saved(marker)


def sample_inputs(members: Members, marker: Path) -> None:
    members[SAMPLE_INPUTS] = saved(marker)


def expression(members: Members, marker: Path) -> None:
    def change(program: Any) -> None:
        batch, *_ = program["graph_module"]["graph"]["tensor_values"]["pixels"]["sizes"]
        batch["as_expr"]["expr_str"] = code(marker)

    in_json(members, PROGRAM, change)


def tree(members: Members, marker: Path) -> None:
    def change(program: Any) -> None:
        program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = '[1, {"type": "os.mkdir"}]'

    in_json(members, PROGRAM, change)


def operator(members: Members, marker: Path) -> None:
    """An operator of torch that makes a file."""

    def change(program: Any) -> None:
        graph = program["graph_module"]["graph"]
        graph["tensor_values"]["made"] = graph["tensor_values"]["p_head_bias"]
        values = {"filename": {"as_string": str(marker)}, "shared": {"as_bool": True}, "size": {"as_int": 2}}
        node = {
            "target": "torch.ops.aten.from_file.default",
            "inputs": [{"name": name, "arg": value, "kind": 1} for name, value in values.items()],
            "outputs": [{"as_tensor": {"name": "made"}}],
            "metadata": {},
            "name": "made",
        }
        graph["nodes"].insert(0, node)

    in_json(members, PROGRAM, change)


def name_of_an_input(members: Members, marker: Path) -> None:
    members[PROGRAM] = members[PROGRAM].replace(b'"pixels"', json.dumps(f"pixels={code(marker)}").encode())


def guard(members: Members, marker: Path) -> None:
    in_json(members, PROGRAM, lambda program: program.update(guards_code=[code(marker)]))


def metadata(members: Members, marker: Path) -> None:
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][0]["metadata"] = {"stack_trace": code(marker)}

    in_json(members, PROGRAM, change)


def unknown_field(members: Members, marker: Path) -> None:
    in_json(members, PROGRAM, lambda program: program.update(preamble=code(marker)))


def function_argument(members: Members, marker: Path) -> None:
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {"as_operator": "torch.os.mkdir"}

    in_json(members, PROGRAM, change)


def second_program(members: Members, marker: Path) -> None:
    members["models/other.json"] = members[PROGRAM]


def compiled(members: Members, marker: Path) -> None:
    members["data/aotinductor/model/model.wrapper.so"] = b"machine code"


REAL = {
    "pickled weight": (pickled_weight, "pickled tensor"),
    "pickled constant": (pickled_constant, "pickled tensor"),
    "opaque constant": (opaque_constant, "opaque_obj_0"),
    "legacy weights": (legacy_weights, "data/weights/model.pt"),
    "legacy constants": (legacy_constants, "data/constants/model.pt"),
    "sample inputs": (sample_inputs, "pickled sample inputs"),
    "expression": (expression, "expr_str"),
    "operator": (operator, "torch.ops.aten.from_file.default"),
    "name of an input": (name_of_an_input, "it has a name"),
}
"""Attacks that run when the file is trusted."""
POSSIBLE = {
    "custom constant": (custom_constant, "custom_obj_0"),
    "tree": (tree, "in_spec"),
    "guard": (guard, "guards_code"),
    "metadata": (metadata, "metadata"),
    "unknown field": (unknown_field, "preamble"),
    "function as an argument": (function_argument, "as_operator"),
    "second program": (second_program, "models/other.json"),
    "compiled": (compiled, "machine code"),
}
"""What another version of torch may run."""


def error_of(path: Path, *, trust: bool = False) -> str | None:
    """What loading and running the file fails with, if it does."""
    try:
        predictor = Predictor.from_pretrained(path, trust=trust)
        predictor.score(torch.zeros(1, 3, 2, 4, 4, dtype=torch.uint8))
    except InputError as error:
        return str(error)
    return None


def test_a_plain_file_loads_and_predicts(plain: Path) -> None:
    predictor = Predictor.from_pretrained(plain)
    views = torch.zeros(2, 3, 2, 4, 4, dtype=torch.uint8)
    assert predictor.score(views).shape == (2,)
    assert all(
        name.startswith(("data/", "models/", "extra/", "archive_", "byteorder", ".data/"))
        for name in members_of(plain)
    )


def test_an_exported_file_has_no_paths_of_this_machine(plain: Path) -> None:
    assert str(Path(__file__).parent).encode() not in plain.read_bytes()


@pytest.mark.parametrize("attack", [*REAL, *POSSIBLE])
def test_a_file_that_may_run_code_is_refused_before_anything_runs(
    attack: str, plain: Path, tmp_path: Path
) -> None:
    edit, reason = (REAL | POSSIBLE)[attack]
    members, marker, path = members_of(plain), tmp_path / "marker", tmp_path / "model.pt2"
    edit(members, marker)
    write_members(members, path)
    error = error_of(path)
    assert error is not None
    assert f"{path} was not loaded" in error
    assert reason in error
    assert "--trust" in error
    assert "\n" not in error
    assert not marker.exists()


@pytest.mark.parametrize("attack", REAL)
def test_trust_loads_it_and_the_attack_is_a_real_one(attack: str, plain: Path, tmp_path: Path) -> None:
    edit, _ = REAL[attack]
    members, marker, path = members_of(plain), tmp_path / "marker", tmp_path / "model.pt2"
    edit(members, marker)
    write_members(members, path)
    error_of(path, trust=True)  # the folder made, it may go on with something that is no tensor
    assert marker.exists()


def test_an_ambiguous_archive_is_refused(plain: Path, tmp_path: Path) -> None:
    members, path = members_of(plain), tmp_path / "model.pt2"
    write_members(members, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/MODELS/model.json", members[PROGRAM])
    with pytest.raises(ValueError, match="ambiguous"):
        Predictor.from_pretrained(path)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"model/{name}", content)
        archive.writestr("version", "8.2")  # as a file of the older format, which torch unpickles
    with pytest.raises(ValueError, match="was not loaded"):
        Predictor.from_pretrained(path)


def test_a_compressed_archive_is_refused(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members_of(plain).items():
            archive.writestr(f"model/{name}", content + b" " * 10_000 * (name == PROGRAM))
    with pytest.raises(ValueError, match="compressed"):
        Predictor.from_pretrained(path)


def test_deeply_nested_json_is_one_clear_error(plain: Path, tmp_path: Path) -> None:
    for name in (PROGRAM, WEIGHTS, "extra/videoswin"):
        members, path = members_of(plain), tmp_path / "model.pt2"
        members[name] = b"[" * 100_000 + b"]" * 100_000
        write_members(members, path)
        with pytest.raises(ValueError, match=r"model\.pt2"):
            Predictor.from_pretrained(path)


def test_a_damaged_file_is_one_clear_error(plain: Path, tmp_path: Path) -> None:
    whole, path = plain.read_bytes(), tmp_path / "model.pt2"
    generator = torch.Generator().manual_seed(0)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in torch.randint(len(whole), (8,), generator=generator).tolist():
            damaged[place] ^= 1 << int(torch.randint(8, (), generator=generator))
        path.write_bytes(damaged)
        error = error_of(path)
        assert error is None or "model.pt2" in error or "scores of small must be finite" in error


@pytest.mark.slow
def test_compiled_code_answers_as_the_checkpoint_does(checkpoint: Checkpoint, tmp_path: Path) -> None:
    target = tmp_path / "model.pt2"
    comparison = export_model(checkpoint, target, format="aotinductor")
    assert comparison.largest_difference < 1e-5
    with pytest.raises(ValueError, match=r"machine code compiled by AOTInductor; .* use --trust"):
        load_backend(target, torch.device("cpu"))
    model = load_backend(target, torch.device("cpu"), trust=True)
    assert model.metadata.labels == checkpoint.labels
    assert model(torch.zeros(3, 3, 4, 40, 40, dtype=torch.uint8)).shape == (3, 3)


def test_a_zip_file_that_is_no_program_is_one_clear_error(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.pt2")
    with pytest.raises(ValueError, match="archive, got another zip file"):
        Predictor.from_pretrained(tmp_path / "model.pt2")


def test_a_program_holds_every_weight_once(checkpoint: Checkpoint) -> None:
    from videoswin.inference.backends.graph import fold_norms, trace  # slow to import

    numbers = sum(tensor.numel() for tensor in trace(checkpoint, torch.bfloat16).state_dict.values())
    folded = checkpoint.model()
    fold_norms(folded, token_grid((checkpoint.clip.frames, checkpoint.clip.size, checkpoint.clip.size)))
    assert numbers == sum(parameter.numel() for parameter in folded.parameters())
