"""Reproduce the study of MixSTE, and lift, evaluate and export with its networks."""

import codecs
import io
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from mixste.data import SOURCES
from mixste.io.weights import DEFAULT, bundled

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
data_app = typer.Typer(no_args_is_help=True, help="Inspect data sources, and fetch the open ones.")
app.add_typer(data_app, name="data")
runs_app = typer.Typer(no_args_is_help=True, help="List the runs in the store, and copy runs between machines.")
app.add_typer(runs_app, name="runs")

Source = Annotated[str, typer.Argument(help=f"{', '.join(SOURCES)}.")]
Root = Annotated[Path | None, typer.Option(help="Folder or archive with the data (default: MIXSTE_DATA).")]
Keypoints = Annotated[str, typer.Option(help='"gt", or the name of a detector.')]
ProfileName = Annotated[str, typer.Option(help="Profile of the study: smoke, open, paper, …")]
Checkpoint = Annotated[
    str, typer.Option(help=f"Bundled weights ({' or '.join(bundled())}), or a .safetensors or .bin file.")
]


def listed(values: list[str] | None) -> list[str]:
    """The values of an option that may be repeated and may hold several values: "5,6"."""
    return [value.strip() for value in ",".join(values or []).split(",") if value.strip()]


def network(checkpoint: str, layout: str | None = None):
    """The network in a file, or that of bundled weights, whose names have no suffix.

    layout: the joint layout that it was trained on, if this is not in the file. Raises CheckpointError for NaN or
    infinity in the weights, and for a layout that is unknown or differs from the file's.
    """
    import numpy as np

    from mixste import checkpoints
    from mixste.network import Network
    from mixste.skeleton import layouts_of

    model = (checkpoints.load_checkpoint if Path(checkpoint).suffix else Network.from_pretrained)(checkpoint)
    for name, weights in model.state_dict().items():
        if not np.isfinite(weights.float().numpy()).all():  # NumPy: no threads that wait for each other at each tensor
            raise checkpoints.CheckpointError(f"{checkpoint}: expected finite weights, found NaN or infinity in {name}")
    if layout is not None:
        possible = [model.layout] if model.layout else layouts_of(model.joints)
        if layout not in possible:
            raise checkpoints.CheckpointError(
                f"{checkpoint}: expected a network trained on layout {layout}, found one of {model.joints} joints "
                f"({' or '.join(possible) or 'no layout known here'})"
            )
        model.layout = layout
    return model


@data_app.command("show")
def show_data(source: Source, root: Root = None, keypoints: Keypoints = "gt") -> None:
    """Count what a source holds: clips and frames by subject."""
    from mixste.data import load
    from mixste.data.check import counts

    dataset = load(source, root, keypoints)
    print(f"{dataset.title} ({dataset.licence})")
    print(counts(dataset).to_string(index=False))


@data_app.command("check")
def check_data(
    source: Annotated[
        str | None, typer.Argument(help="human36m, humaneva, mpi_inf_3dhp, or open-people. Default: all licensed ones.")
    ] = None,
    root: Root = None,
    keypoints: Keypoints = "gt",
) -> None:
    """Check the data: which files are present or missing, where to get them, and which tables they allow."""
    from mixste.data.check import PUBLISHED, check
    from mixste.data.sources import open_people
    from mixste.io import DataError
    from mixste.study.profiles import PROFILES
    from mixste.study.tables import lacking_data

    if source not in (None, "open-people", *PUBLISHED):
        raise DataError(f"expected {', '.join(PUBLISHED)} or open-people, found {source!r}")
    if source == "open-people":
        table, problems = open_people.check(root)
        print(table.to_string(index=False), *(f"! {problem}" for problem in problems), sep="\n")
        raise SystemExit(1 if problems else 0)
    reports = [check(name, root, keypoints) for name in ([source] if source else PUBLISHED)]
    print(*reports, "tables of profile paper, and the files they lack", sep="\n\n")
    for table, files in lacking_data(PROFILES["paper"], root).items():
        print(f"  {table:<14} {', '.join(files) or 'complete'}")
    if any(report.problems for report in reports):
        raise SystemExit(1)


@data_app.command("fetch")
def fetch_data(
    what: Annotated[str, typer.Argument(help='"open": the recordings of open-people and open-styles.')],
    to: Annotated[Path | None, typer.Option(help="Folder for the recordings. Default: where the loaders look.")] = None,
) -> None:
    """Fetch the open motion capture with git, at the pinned commits."""
    from mixste.data.sources import open_mocap
    from mixste.io import DataError

    if what != "open":
        raise DataError(f'only "open" can be fetched, found {what!r}; get the licensed data sets from their owners')
    print(open_mocap.fetch(to) if to else open_mocap.fetch())


@app.command()
def train(
    profile: ProfileName = "smoke",
    table: Annotated[
        list[str] | None, typer.Option(help='Only the runs of these tables, as "5" or "table5". May be repeated.')
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Number of runs at a time.")] = None,
    run: Annotated[Path | None, typer.Option(help="Only the run described by this file of a batch.")] = None,
    chosen: Annotated[
        list[str] | None,
        typer.Option("--id", help="Only the runs with these ids, which `mixste reproduce --dry-run` lists."),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option(
            help="End after N minutes. The same command then resumes from states saved in the last minute.",
            min=0,
            show_default=False,
        ),
    ] = math.inf,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also train runs whose training failed before.")
    ] = False,
) -> None:
    """Train the runs that are missing from the store, and recompute errors that outdated code computed."""
    from mixste.study import store, trainer
    from mixste.study.profiles import profile_of
    from mixste.study.tables import distinct, named

    if run:
        trainer.make_as_planned(run, retry_failed)
        return
    end = time.monotonic() + 60 * minutes
    wanted = distinct(profile_of(profile), [one.key for one in named(listed(table))] or None)
    if ids := listed(chosen):
        of_id = {run.id: run for run in wanted}
        if unknown := [name for name in ids if name not in of_id]:
            raise ValueError(f"expected ids of runs of profile {profile}, found {', '.join(unknown)}")
        wanted = [of_id[name] for name in ids]
    if retry_failed:
        trainer.forget_failed(wanted)
    trainer.warn_without_gpu(profile_of(profile), len(trainer.lacking(wanted)))
    failed = trainer.make_all(wanted, jobs, f"training, profile {profile}", end)
    left = len(trainer.lacking(wanted))
    rest = f", {left} unfinished: the same command goes on from here" if left else ""
    print(f"{len(wanted) - left} runs in {store.store()}{rest}")
    if failed:
        raise store.RunError(failed)


@app.command()
def evaluate(
    checkpoint: Checkpoint = DEFAULT,
    source: Annotated[str, typer.Option(help="Data source, see `mixste data show --help`.")] = "synthetic",
    root: Root = None,
    keypoints: Keypoints = "gt",
    protocol: Annotated[
        str, typer.Option(help='"authors" counts some frames twice, as their script does; "exact" counts each once.')
    ] = "authors",
) -> None:
    """Evaluate a checkpoint on the test clips of a source, by action, on the GPU if there is one.

    On Human3.6M with known keypoints, the paper's numbers for a network of the same T are shown beside.
    """
    import numpy as np
    import torch
    from tqdm import tqdm

    from mixste import evaluate as ev
    from mixste.accel import accelerate
    from mixste.data import load
    from mixste.data.check import PUBLISHED, counts, differences
    from mixste.io import DataError
    from mixste.study.published import published

    ev.counted(np.arange(1), protocol)  # raises at once for an unknown protocol
    model = network(checkpoint)
    dataset = load(source, root, keypoints)
    if not dataset.test:
        raise DataError(f"{source}: expected test clips, found none: {', '.join(dataset.subjects)} are for training")
    if model.joints != len(dataset.skeleton.joints):
        raise ValueError(
            f"{checkpoint}: expected a network of {len(dataset.skeleton.joints)} joints, as {source} has, found one of "
            f"{model.joints}"
        )
    if model.layout not in (None, dataset.skeleton.name):
        raise ValueError(
            f"{checkpoint}: expected a network of {dataset.skeleton.name}'s joints, which {source} has, found one of "
            f"{model.layout}'s"
        )
    if model.layout is None:
        print(f"{checkpoint}: its file has no joint layout: taken for {dataset.skeleton.name}, that of the data")
    if not model.metres:
        print(f"{checkpoint}: its poses are in screen units, not in metres: only P-MPJPE and N-MPJPE ignore that")
    model = accelerate(model.cuda() if torch.cuda.is_available() else model)
    with tqdm(desc="testing", unit="frame", unit_scale=True, disable=None) as bar:
        table = ev.evaluate(model, dataset.test, protocol, skeleton=dataset.skeleton, progress=bar.update)
    wide = ev.by_action(table).pivot(index="action", columns="metric", values="value").loc[table["action"].unique()]
    wide.loc["Avg."] = ev.average(table)
    if dataset.name == "human36m" and keypoints in ("gt", "cpn_ft_h36m_dbb"):
        printed = published(2 if keypoints == "gt" else 1).query("method == 'Ours' and frames == @model.frames")
        paper = printed[printed["keypoints"].isin(["GT", "CPN"])].pivot(
            index="column", columns="metric", values="value"
        )
        wide = wide.join(paper.add_suffix(", paper"))
    print(f"{dataset.title}, keypoints {keypoints}, protocol {protocol}")
    print(", ".join(f"{metric} in {ev.UNITS[metric]}" for metric in wide if metric in ev.UNITS))
    print(wide.round(1).to_string())
    if dataset.name in PUBLISHED:
        for difference in differences(counts(dataset), PUBLISHED[dataset.name]):
            if difference.startswith("test"):
                print(f"! {difference}")


@app.command()
def lift(
    source: Annotated[
        list[Path],
        typer.Argument(help="Videos, keypoint files, folders with one file per frame, or folders of clips."),
    ],
    checkpoint: Checkpoint = DEFAULT,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("lifted"),
    format: Annotated[
        str, typer.Option(help="Input format: auto, openpose, coco, mediapipe, npz, npy or csv.")
    ] = "auto",
    layout: Annotated[
        str | None, typer.Option(help="Order of the points, if the file does not name them: coco17, body25, …")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Width and height of the image, as 1920x1080. Overrides the file's.")
    ] = None,
    units: Annotated[
        str,
        typer.Option(
            help="Units of the coordinates: auto, pixels, shares (0 to 1), centred (-1 to 1 on both axes), screen."
        ),
    ] = "auto",
    fps: Annotated[float | None, typer.Option(help="Frame rate. Overrides the file's.")] = None,
    person: Annotated[
        str, typer.Option(help='Person to lift: 0 is the most prominent one, 1 the next; "all" lifts each.')
    ] = "0",
    world: Annotated[
        bool, typer.Option(help="Place the person on the floor: path, vertical, and feet that stand still.")
    ] = False,
    focal_length: Annotated[
        float | None, typer.Option(help="Focal length of the camera in pixels, for --world. Overrides the file's.")
    ] = None,
    bands: Annotated[
        bool,
        typer.Option(help="Give each joint a radius that holds the true joint in 90 % of cases (docs/lift.md)."),
    ] = False,
    network_layout: Annotated[
        str | None, typer.Option(help="Joint layout that the network was trained on, if its file lacks it: human36m.")
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            help='Output formats: npz, csv, json, bvh, glb, trc, c3d, gif, mp4, html, as "npz,bvh". May be repeated.'
        ),
    ] = None,
) -> None:
    """Lift videos or 2D keypoints to 3D poses."""
    from mixste.io import DataError
    from mixste.wild.lift import lift

    sides = re.fullmatch(r"(\d{1,9})[xX×](\d{1,9})", size or "")
    if size is not None and not sides:
        raise DataError(f"expected a size such as 1920x1080, found {size!r}")
    resolution = sides and (int(sides[1]), int(sides[2]))
    if focal_length is not None and not world:
        raise DataError("expected --world with --focal-length: without it, nothing depends on the focal length")
    if not re.fullmatch(r"\d{1,6}|all", person):
        raise DataError(f"expected --person as a number from 0, or all, found {person!r}")
    outputs = {"outputs": listed(to)} if to else {}
    failed, lifted = [], 0
    for result in lift(
        source,
        out,
        network(checkpoint, network_layout),
        format=format,
        layout=layout,
        resolution=resolution,
        units=units,
        fps=fps,
        person=None if person == "all" else int(person),
        world=world,
        focal=focal_length,
        bands=bands,
        **outputs,
    ):
        if isinstance(result, DataError):
            failed.append(str(result))
            print(f"mixste: {result}", file=sys.stderr)
            continue
        lifted += 1
        print(f"{result.name}: {len(result.poses)} frames to {out}/")
        print(f"  quality: {result.quality['words']}")
        for note in result.notes:
            print(f"  {note}")
    if failed:
        if len(failed) + lifted > 1:
            names = ", ".join(Path(error.split(": ")[0]).name for error in failed)
            print(f"mixste: {len(failed)} of {len(failed) + lifted} clips failed: {names}", file=sys.stderr)
        raise SystemExit(1)


@app.command()
def export(
    to: Annotated[Path, typer.Argument(help="File to write: .onnx, or .bin for the authors' format.")],
    checkpoint: Checkpoint = DEFAULT,
) -> None:
    """Export a checkpoint to ONNX, checked against PyTorch, or to the authors' format."""
    from mixste import checkpoints
    from mixste.wild import export

    model = network(checkpoint)
    if to.suffix == ".onnx":
        difference = export.export_onnx(model, to)
        print(f"{to}: at most {difference * 1000:.4f} mm from PyTorch")
    elif to.suffix == ".bin":
        checkpoints.export_authors(model, to)
        print(to)
    else:
        raise ValueError(f"expected a file that ends in .onnx or .bin, found {to}")


@app.command()
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(help="Parts: cpu on a CPU; h200 (its name), accuracy, scaling, study on a GPU. Default: all."),
    ] = None,
) -> None:
    """Time the network against a plain PyTorch reference, and write results/bench."""
    import runpy

    from mixste.io.install import needs_checkout

    script = needs_checkout("mixste bench") / "tools" / "bench.py"
    sys.path.insert(0, str(script.parent))  # the folder of the modules that it imports
    runpy.run_path(str(script))["main"](*(parts or ()))


@app.command()
def reproduce(
    profile: ProfileName = "smoke",
    tables: Annotated[
        list[str] | None,
        typer.Option(help='Only the notebooks of these tables, as "5,6" or "limits". May be repeated.'),
    ] = None,
    notebook: Annotated[list[str] | None, typer.Option(help='Only these notebooks, as "6,7". May be repeated.')] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Number of jobs at a time. Default: all cores, or up to four a GPU.", min=1)
    ] = None,
    on: Annotated[str, typer.Option(help="Run through Snakemake on: laptop, node or slurm.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be done and its estimated cost.")
    ] = False,
    of_records: Annotated[
        bool, typer.Option("--records", help="Train nothing. Use the store and the published records.")
    ] = False,
) -> None:
    """Train missing runs and execute the notebooks, which make every table and figure of the study.

    Without --on, all of it runs on this machine. With it, Snakemake runs each training and notebook as a job.
    """
    from mixste.study import batch, notebooks

    # Tables are numbered 5, notebooks 05. Both spellings are accepted for both.
    numbers = [name.zfill(2) for name in listed(notebook)]
    chosen = notebooks.choose([name.lstrip("0") or name for name in listed(tables)], numbers)
    if of_records and (on or dry_run):
        raise ValueError("--records goes without --on and --dry-run")
    where = batch.place(on) if on else None
    if dry_run:
        print(batch.plan(profile, chosen))
    elif where:
        batch.run_jobs(batch.plan(profile, chosen), where, jobs)
    else:
        notebooks.reproduce(profile, chosen, jobs, train=not of_records)


@runs_app.command("list")
def list_runs() -> None:
    """List all runs in the store (finished, failed, unfinished, damaged) with settings, error, time and size.

    The reason of each failed run follows the list.
    """
    from mixste.study import store

    table = store.listing()
    if len(table):
        print(
            table.drop(columns="failed", errors="ignore").to_string(
                index=False, na_rep="", float_format="{:.1f}".format
            )
        )
        for run in table[table["state"] == "failed"].itertuples():
            print(f"run {run.run} failed: {run.failed}")
    counts = table["state"].value_counts()
    print(f"{len(table)} runs in {store.store()}" + "".join(f", {count} {state}" for state, count in counts.items()))


@runs_app.command("pack")
def pack_runs(
    to: Annotated[Path, typer.Argument(help="Folder to write. It must not exist.")],
    run: Annotated[list[str] | None, typer.Option(help="Only the run with this id. May be repeated.")] = None,
    unfinished: Annotated[bool, typer.Option(help="Also pack interrupted trainings, to resume elsewhere.")] = False,
    weights: Annotated[bool, typer.Option(help="Include the trained networks, which are most of the size.")] = True,
) -> None:
    """Pack finished runs into files of at most 16 MiB, to copy to another machine."""
    from mixste.study import bundle

    print(bundle.pack(to, run or [], unfinished, weights))


@runs_app.command("unpack")
def unpack_runs(source: Annotated[Path, typer.Argument(help="Folder written by `mixste runs pack`.")]) -> None:
    """Unpack runs into the store. A bundle that is incomplete or damaged is refused as a whole."""
    from mixste.study import bundle

    print(bundle.unpack(source))


def plain(error: UnicodeEncodeError) -> tuple[str, int]:
    """An error handler for `codecs`: replaces characters outside the console's encoding, and undecodable bytes.

    Our own signs become their like in ASCII, a Japanese letter \\u6b69, a byte \\xe9: names stay recognisable, and are
    those that a shell's $'...' takes.
    """
    signs = {"…": "...", "–": "-", "−": "-", "×": "x", "·": "*", "²": "2"}
    text = error.object[error.start : error.end]
    return "".join(
        f"\\x{ord(sign) - 0xDC00:02x}" if "\udc80" <= sign <= "\udcff" else signs.get(sign) or ascii(sign)[1:-1]
        for sign in text
    ), error.end


def main() -> None:
    """Entry point: a user's mistake ends in one sentence, not in a traceback, and any text on any console."""
    codecs.register_error("mixste.plain", plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mixste.plain")
    # For the processes that a command starts: workers, kernels, Snakemake.
    os.environ["PYTHONIOENCODING"] = os.environ.get("PYTHONIOENCODING", "").partition(":")[0] + ":backslashreplace"
    try:
        app()
    except (
        ValueError,
        OSError,
        RuntimeError,
        ImportError,
    ) as error:  # DataError, CheckpointError and RunError are among them
        print(f"mixste: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:  # before typer could take it
        print("mixste: stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except SystemExit as end:
        if end.code == 130:  # Ctrl-C, as typer hands it on
            resumes = sys.argv[1:2] in (["train"], ["reproduce"])
            rest = "the same command goes on from here" if resumes else "files written so far are complete"
            print(f"mixste: stopped; {rest}", file=sys.stderr)
        raise
