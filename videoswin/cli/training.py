"""The commands that work on labeled videos: check, recipes, train, evaluate."""

from json import loads
from pathlib import Path

from videoswin._errors import InputError
from videoswin._files import require_writable_file, require_writable_folder
from videoswin._text import printable
from videoswin.cli.terminal import print_json, print_rows, print_text, print_to_stderr
from videoswin.inference.backends import Precision


def check(
    data: str,
    *,
    root: str | None = None,
    model: str | None = None,
    out: str | None = None,
    min_frames: int = 64,
    quick: bool = False,
    workers: int = 2,
    license: str | None = None,
    json: bool = False,
) -> int:
    """Decode every labeled video and report problems of the data.

    Example: videoswin check my_videos/ --out clean.csv
    The exit code is 1 if files cannot be read or splits share videos.

    Args:
        data: Folder with one subfolder per class, or a list (CSV, Parquet, Kinetics, ...).
        model: Initial weights: report videos shorter than a clip of this model.
        out: Output CSV file: the list without unreadable, empty and duplicate files.
        min_frames: Without --model, minimum number of frames of a video.
        quick: Decode 8 frames per video only: faster, but damage can be missed.
        json: Print the report as one JSON object.
    """
    from videoswin.data.check import check_videos
    from videoswin.data.manifest import read_manifest, write_manifest
    from videoswin.weights.checkpoint import Checkpoint

    if out is not None:
        if not out.lower().endswith(".csv"):
            raise InputError(f"--out must be a file that ends in .csv, got {out}")
        require_writable_file(out, name="--out")
    manifest = read_manifest(data, root=root)
    for note in manifest.notes:
        print_to_stderr(f"note: {note}")
    clip = Checkpoint.load(model, license=license).clip if model else None
    report = check_videos(
        manifest, workers=workers, min_frames=min_frames, clip=clip, sampled=quick, progress=True
    )
    if out is not None and (clean := report.clean()).samples:
        write_manifest(clean, out)
    if json:
        print(report.to_json())
    else:
        text = report.to_text(written=out, model=model or "tiny-k400", root=root)
        print_text(text, printable(report.manifest.source))
    return 0 if report.usable else 1


def recipes(name: str | None = None, *, json: bool = False) -> int:
    """List the recipes of `videoswin train`, or the settings of one.

    Example: videoswin recipes finetune

    Args:
        name: Recipe whose settings are listed with value and description.
        json: Print one JSON object per line.
    """
    from videoswin.recipes import describe_recipe, describe_recipes

    print_rows(describe_recipes() if name is None else describe_recipe(name), as_json=json)
    return 0


def train(
    recipe: str,
    *,
    out: str,
    data: str | None = None,
    root: str | None = None,
    model: str | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: Precision | None = None,
    workers: int | None = None,
    set: list[str] = [],  # noqa: B006 - never changed
    license: str | None = None,
    trust: bool = False,
    json: bool = False,
) -> int:
    """Train a model: fine-tune on your videos, or run a published recipe.

    Example: videoswin train finetune --data my_videos/ --model tiny-k400 --out run/
    Run the same command again to resume a run that was stopped.

    Args:
        recipe: finetune, kinetics:tiny, module:function or a file.
        out: Output folder of checkpoints, metrics and curves.
        data: Folder with one subfolder per class, or a list.
        model: Initial weights: name or checkpoint file.
        epochs: Number of epochs.
        lr: Peak learning rate.
        batch_size: Clips per step, over all devices.
        seed: Seed of the random numbers.
        device: auto, cpu, cuda.
        precision: bf16 and fp16 are mixed precision.
        workers: Number of loader processes per device.
        set: Any other setting; see `videoswin recipes RECIPE`.
        trust: Allow a recipe.json to run code.
        json: Print the result as one JSON object.
    """
    from videoswin._distributed import is_first_process
    from videoswin.recipes import plan_run, recipe_to_dict
    from videoswin.recipes.finetune import read_measured_settings
    from videoswin.training import loop
    from videoswin.training.learner import require_training_packages
    from videoswin.training.settings import parse_assignments

    require_training_packages()
    require_writable_folder(out, name="--out")
    # A run that is resumed keeps what was measured when it began.
    measured = read_measured_settings(Path(out)) if recipe == "finetune" else {}
    given = {
        "schedule.epochs": epochs,
        "optimizer.lr": lr,
        "data.batch_size": batch_size,
        "run.seed": seed,
        "run.device": device,
        "run.precision": precision,
        "data.num_workers": workers,
        "data.root": root,
    }
    plain = [f"{name}={value}" for name, value in given.items() if value is not None]
    settings = {**measured, **parse_assignments([*plain, *set])}
    plan = plan_run(recipe, data=data, init_from=model, settings=settings, trust=trust, license=license)
    for reason in plan.reasons if not measured and is_first_process() else ():
        print_to_stderr(reason)
    saved_recipe = recipe_to_dict(plan.recipe, recipe, data, model)
    best = loop.train(plan.recipe, Path(out), saved_recipe=saved_recipe, inputs=plan.inputs, license=license)
    if is_first_process():
        if best is None:
            print_to_stderr("stopped and saved; run the same command again to resume")
        if json:
            checkpoint = None if best is None else str(best)
            print_json({"run": out, "checkpoint": checkpoint, "val_score": best_score(Path(out))})
        elif best is not None:
            print(printable(str(best)))
    return 0


def best_score(run: Path) -> float | None:
    """Return the highest validation score of a run so far; None without validation."""
    metrics = run / "metrics.jsonl"  # absent if the run was stopped before its first line
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    return max((row["val_score"] for row in map(loads, lines) if "val_score" in row), default=None)


def evaluate(
    data: str,
    *,
    model: str,
    protocol: str | None = None,
    split: str | None = None,
    out: str | None = None,
    root: str | None = None,
    workers: int = 2,
    device: str = "auto",
    precision: Precision | None = None,
    license: str | None = None,
    trust: bool = False,
    json: bool = False,
) -> int:
    """Evaluate a model on labeled videos; unreadable videos count as wrong.

    Example: videoswin evaluate test.csv --model run/best.safetensors --out report/

    Args:
        data: Folder with one subfolder per class, or a list.
        model: Name, checkpoint or exported file.
        split: Split to evaluate; by default test, else val, if any.
        out: Output folder of the report, its tables and its plots.
        precision: fp32 by default.
        json: Print the report as one JSON object.
    """
    from videoswin._distributed import join_ranks
    from videoswin.data.manifest import read_manifest
    from videoswin.evaluation.evaluate import evaluate as evaluate_videos
    from videoswin.evaluation.plots import require_drawing
    from videoswin.inference.predictor import Predictor

    rank = join_ranks()  # before the predictor chooses its device
    if out is not None and rank == 0:
        require_drawing()
        require_writable_folder(out, name="--out")
    manifest = read_manifest(data, root=root)
    for note in manifest.notes if rank == 0 else ():
        print_to_stderr(f"note: {note}")
    split = split or next((name for name in ("test", "val") if name in manifest.splits), None)
    if split is not None:
        manifest = manifest.part(split)
        if rank == 0:
            print_to_stderr(f"scoring the split {split}")
    predictor = Predictor.from_pretrained(
        model,
        device=device,
        protocol=protocol,
        precision=precision,
        license=license,
        trust=trust,
    )
    report = evaluate_videos(predictor, manifest, workers=workers, progress=True)
    if rank > 0:
        return 0  # only rank 0 prints
    # Print first: if the report cannot be saved, its scores are not lost.
    if json:
        print(report.to_json(), flush=True)
    else:
        print_text(report.to_text(), printable(report.model))
    if out is not None:
        report.save(out)
        print_to_stderr(f"saved the report, its tables and its pictures in {out}")
    return 0
