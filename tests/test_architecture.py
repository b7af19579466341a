"""Test the rules of docs/architecture.md: layers, file sizes, light imports, frozen commands."""

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from videoswin.cli.commands import COMMANDS, main

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "videoswin"
LAYERS = [
    {"_errors", "_text"},
    {"_files", "_progress", "_distributed"},
    {"model", "video"},
    {"acceleration", "weights", "data"},
    {"inference"},
    {"evaluation"},
    {"analysis"},
    {"training"},
    {"camera_motion"},
    {"recipes"},
    {"cli"},
]
"""Parts of the package from the ground up; a part imports only from lower rows."""
MODEL_MAY_IMPORT = {"__future__", "torch", "videoswin"}
LINES_PER_FILE = 400
TOOLS = {"dev", "parity"}
"""Extras that no code of the package needs."""
DISTRIBUTION = {"lightning_fabric": "lightning", "skimage": "scikit-image"}
"""Modules that are not named like the distribution they come in."""

SOURCES = sorted(PACKAGE.rglob("*.py"))


def part_of(module: str) -> str:
    return module.split(".")[1]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module that a file imports, inside functions and under TYPE_CHECKING too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            # `from videoswin.weights import catalog` imports a module, not a name.
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            known = {name for name in submodules if name in MODULES}
            names |= known or {node.module}
    return names


MODULES = {module_name(path) for path in SOURCES}


def layer_of(part: str) -> int:
    (layer,) = (index for index, parts in enumerate(LAYERS) if part in parts)
    return layer


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.parent != PACKAGE or p.stem != "__init__"], ids=module_name
)
def test_a_part_imports_only_from_lower_layers(path: Path) -> None:
    here = part_of(module_name(path))
    for target in imports(path):
        if target.startswith("videoswin.") and (there := part_of(target)) != here:
            assert layer_of(there) < layer_of(here), f"{path.name} imports {target}"


def test_files_do_not_import_each_other_in_a_circle() -> None:
    graph = {module_name(p): {m for m in imports(p) if m in MODULES} for p in SOURCES if p.parent != PACKAGE}
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module not in finished:
            for target in sorted(graph.get(module, ())):
                visit(target, (*trail, module))
            finished.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_no_source_file_is_longer_than_400_lines() -> None:
    sizes = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    assert {name: size for name, size in sizes.items() if size > LINES_PER_FILE} == {}


def test_a_name_of_a_type_has_one_meaning_in_the_package() -> None:
    files = defaultdict(list)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.name] if isinstance(node, ast.ClassDef) else []
            if isinstance(node, ast.Assign):  # aliases; type variables start with an underscore
                targets = [target.id for target in node.targets if isinstance(target, ast.Name)]
                names = [name for name in targets if re.fullmatch(r"[A-Z]|[A-Z]\w*[a-z]\w*", name)]
            for name in names:
                files[name].append(path.name)
    assert {name: where for name, where in files.items() if len(where) > 1} == {}


def test_the_model_needs_nothing_but_torch() -> None:
    for path in (PACKAGE / "model").glob("*.py"):
        outside = {name.partition(".")[0] for name in imports(path)} - MODEL_MAY_IMPORT
        assert outside <= sys.stdlib_module_names, f"{path.name} imports {outside}"


def test_every_imported_library_is_a_declared_dependency() -> None:
    tomllib = pytest.importorskip("tomllib")  # in Python since 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [
        *project["dependencies"],
        *(line for name in extras if name not in TOOLS for line in extras[name]),
    ]
    distributions = {re.match(r"[\w-]+", line)[0].lower() for line in declared}  # type: ignore[index]
    imported = {name.partition(".")[0] for path in SOURCES for name in imports(path)}
    lazy = {
        name
        for path in SOURCES
        for name in re.findall(r'(?<!_)\brequire\("([a-z]\w+)', path.read_text("utf-8"))
    }
    for module in (imported | lazy) - sys.stdlib_module_names - {"videoswin"}:
        assert DISTRIBUTION.get(module, module.replace("_", "-")) in distributions, module


class FirstImports(NamedTuple):
    """What a fresh interpreter has loaded and left behind."""

    by_the_model: set[str]
    """Top-level modules after importing the package and its model."""
    by_a_prediction: set[str]
    """Modules after a prediction, among rich and those of torch's compiler."""
    left_behind: list[str]
    """Files in the temporary directory after importing everything."""


@pytest.fixture(scope="module")
def first_imports(tmp_path_factory: pytest.TempPathFactory) -> FirstImports:
    temporary = tmp_path_factory.mktemp("temporary")
    program = (
        "import sys; import videoswin, videoswin.model.swin; "
        "print(*{name.partition('.')[0] for name in sys.modules}); "
        "import torch; from videoswin import Predictor; "
        "predictor = Predictor.from_pretrained('camera-motion', device='cpu'); "
        "predictor.score(torch.zeros(1, 3, 8, 64, 64, dtype=torch.uint8)); "
        "print(*{'torch._dynamo', 'torch._inductor', 'sympy', 'rich'} & set(sys.modules)); "
        # torch._dynamo makes a folder for torch._inductor when it is imported, and takes seconds.
        "import videoswin.inference.export, videoswin.recipes.finetune; "
        "import videoswin.acceleration.triton.attention"
    )
    lines = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    ).stdout.split("\n")
    left_behind = sorted(path.name for path in temporary.iterdir())
    return FirstImports(set(lines[0].split()), set(lines[1].split()), left_behind)


def test_importing_and_loading_a_model_leave_nothing_in_the_temporary_directory(
    first_imports: FirstImports,
) -> None:
    assert first_imports.left_behind == []


def test_importing_and_predicting_load_neither_the_compiler_of_torch_nor_rich(
    first_imports: FirstImports,
) -> None:
    assert first_imports.by_a_prediction == set()


def test_the_package_and_its_model_load_no_library_but_torch_and_numpy(first_imports: FirstImports) -> None:
    others = {"av", "safetensors", "docstring_parser", "rich", "lightning", "skimage", "torchvision", "timm"}
    assert "torch" in first_imports.by_the_model
    assert not first_imports.by_the_model & others


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "from videoswin.cli.commands import *; command_line(COMMANDS).format_help(); "
        "import sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


FROZEN_COMMANDS = {
    "check": {"data", "model", "quick", "root", "min_frames", "out", "workers", "license", "json"},
    "convert": {"model", "out", "layout", "inflation", "window", "license", "json"},
    "demo": {"video", "model", "out", "license"},
    "export": {"model", "out", "format", "precision", "videos", "json", "license"},
    "models": {"json"},
    "predict": {"videos", "model", "protocol", "top", "device", "precision", "json", "license", "trust"},
    "evaluate": {
        *("data", "model", "protocol", "split", "out", "root", "workers", "device", "json"),
        *("precision", "license", "trust"),
    },
    "timeline": {
        *("videos", "model", "out", "format", "window", "hop", "threshold", "protocol", "device"),
        *("precision", "license", "json"),
    },
    "extract": {
        *("videos", "model", "out", "format", "stride", "fps", "protocol", "device"),
        *("precision", "license", "json"),
    },
    "search": {"index", "clip", "model", "top", "out", "device", "license", "json"},
    "protocols": {"json"},
    "recipes": {"name", "json"},
    "train": {
        *("recipe", "out", "data", "model", "epochs", "lr", "batch_size", "seed", "device", "precision"),
        *("root", "workers", "set", "license", "trust", "json"),
    },
}
"""Scripts depend on these: adding one is a decision, removing one is a break."""


def test_the_commands_and_their_options_are_the_frozen_ones() -> None:
    commands = {
        command.__name__: {name for name in command.__annotations__ if name != "return"}
        for command in COMMANDS
    }
    assert commands == FROZEN_COMMANDS


@pytest.mark.parametrize("command", sorted(FROZEN_COMMANDS))
def test_the_help_of_every_command_fits_a_screen_and_shows_an_example(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"Example: videoswin {command}" in text
    assert len(text.splitlines()) <= 30
    assert max(map(len, text.splitlines())) <= 100


def test_the_tree_in_the_architecture_page_is_the_real_tree() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"```\nvideoswin/\n(.*?)```", page, re.S)
    assert block is not None
    shown: set[str] = set()
    folders: list[str] = []
    for line in block[1].splitlines():
        indent, name = re.match(r"( +)(\S+)", line).groups()  # type: ignore[union-attr]
        folders = folders[: len(indent) // 2 - 1]
        shown.add("".join(folders) + name)
        if name.endswith("/"):
            folders.append(name)
    real = {str(path.relative_to(PACKAGE)) for path in SOURCES if path.stem != "__init__"}
    real |= {f"{path.parent.relative_to(PACKAGE)}/" for path in SOURCES if path.parent != PACKAGE}
    assert shown == real


def test_the_layers_in_the_architecture_page_are_the_enforced_ones() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", page.split("| layer | parts | task |")[1], re.M)
    shown = {int(number): set(re.findall(r"`(\w+)`", parts)) for number, parts in rows}
    assert shown == dict(enumerate(LAYERS))
