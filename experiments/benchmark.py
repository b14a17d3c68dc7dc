"""Measures speed and memory here: ``python experiments/benchmark.py input``.

``input`` runs our loaders and those of others on the same JPEGs, each in a process of
its own, pinned to --cores, in several rounds, and prints a Markdown table.
``memory`` runs our loader over many batches and prints what it needed at most.
``step`` times the train steps of several networks or recipes in turns, on this device,
with memory, compile time and the shares of the device's measured peaks.
``both`` runs a recipe's loader, its step, and the loop of both, and names the slower.

What is not installed is named, with the command that installs it, and left out.
The first two are for Linux only. docs/benchmarks.md says what is measured and what came
out.

Exit status: 0 measured, 1 something failed (its last line is printed), 2 a mistake in
the command, which one line says.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nfnets.benchmark import images as image_set
from nfnets.benchmark.job import Job
from nfnets.benchmark.memory import format_memory
from nfnets.benchmark.report import check_json, say, surroundings, write_json
from nfnets.benchmark.runner import (
    MeasurementFailed,
    parse_cores,
    run_process,
    run_rounds,
)
from nfnets.benchmark.summary import format_table, make_rows
from nfnets.benchmark.variants import (
    OURS,
    PEERS,
    POLICIES,
    Variant,
    choose,
    missing_packages,
)
from nfnets.errors import UserError, in_one_line

CONFIG_DIR = Path(__file__).resolve().parent / "configs"
MADE_UP_IMAGES = 300


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit status."""
    args = parse_arguments(argv)
    try:
        check_arguments(args)
        commands = {
            "input": measure_input,
            "memory": measure_memory,
            "step": measure_steps,
            "both": measure_steps,
        }
        return commands[args.command](args)
    except MeasurementFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f'error: {error}; it needs: pip install -e ".[train]"', file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add_input_commands(commands)
    add_step_commands(commands)
    return parser.parse_args(argv)


def add_input_commands(commands: Any) -> None:
    """``input`` and ``memory``, of loaders alone."""
    speed = commands.add_parser("input", help="images per CPU second, beside others")
    speed.add_argument("--rounds", type=int, default=5)
    speed.add_argument("--ours", default=",".join(OURS), help="of ours: %(default)s")
    speed.add_argument("--peers", default=",".join(PEERS), help="others: %(default)s")
    speed.add_argument("--only", default="", help="parts of names, separated by ,")
    speed.add_argument("--list", action="store_true", help="name all variants and exit")
    speed.set_defaults(batches=10)
    memory = commands.add_parser(
        "memory", help="memory of our loader over many batches"
    )
    memory.add_argument("--backend", default="auto", help="native, python or auto")
    memory.set_defaults(batches=200)
    for command in (speed, memory):
        command.add_argument("--size", type=int, default=224, help="side, in pixels")
        command.add_argument("--cores", default="0", help="such as 0 or 0,1 or 0-3")
        command.add_argument("--images", help="tar or folder of JPEGs; else made up")
        command.add_argument("--batches", type=int, help="default: %(default)s")
        command.add_argument("--batch_size", type=int, default=64)
        command.add_argument("--augment", choices=POLICIES, default="plain")
        command.add_argument("--json", help="file for all numbers")


def add_step_commands(commands: Any) -> None:
    """``step`` and ``both``, of recipes."""
    step = commands.add_parser("step", help="train steps, beside the first's")
    step.add_argument(
        "--config", required=True, help="names of configs, separated by ,"
    )
    step.add_argument("--models", default="", help="of one config; default: its own")
    step.add_argument("--inference", action="store_true", help="at the test size")
    step.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: own")
    step.add_argument("--compare", choices=("timm",), help="each form in a process")
    step.add_argument("--forms", help="with --compare: of both sides, separated by ,")
    step.add_argument("--rounds", type=int, help="with --compare; default: 1")
    step.add_argument("--seconds", type=float, help="with --compare: each; default: 4")
    step.add_argument("--budget_s", type=float, help="with --compare; default: 3600")
    both = commands.add_parser("both", help="loader, train step, and both together")
    both.add_argument("--config", required=True, help="the name of a config")
    both.add_argument("--models", default="", help="one; default: the config's own")
    both.add_argument("--source", help="data.source; default: the config's")
    both.add_argument("--data_dir", help="of tfds: sources; default: the config's")
    both.add_argument("--seconds", type=float, default=4.0, help="of each, 5 times")
    for command in (step, both):
        command.add_argument("--size", type=int, help="pixels; default: the config's")
        command.add_argument("--batch_size", type=int, help="default: the config's")
        command.add_argument(
            "--profile", help="folder for a trace (TensorBoard, XProf)"
        )
        command.add_argument("--json", help="file for all numbers")


def check_arguments(args: argparse.Namespace) -> None:
    """Refuses counts below 1, systems without /proc, and places that lose results."""
    if args.command in ("input", "memory") and not sys.platform.startswith("linux"):
        raise UserError(f"measuring needs Linux's /proc; this is {sys.platform}")
    for name in ("size", "batches", "batch_size", "rounds"):
        value = vars(args).get(name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; expected 1 or more")
    for name in ("seconds", "budget_s"):
        value = vars(args).get(name)
        if value is not None and not value > 0:
            raise UserError(f"--{name} is {value}; expected more than 0")
    check_json(args.json)
    if vars(args).get("profile") is not None:
        try:
            Path(args.profile).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--profile={args.profile}: {error.strerror}; give a folder that can "
                f"be made"
            ) from error


def measure_input(args: argparse.Namespace) -> int:
    """Compares the loaders; returns the exit status."""
    cores = parse_cores(args.cores)
    loaders = [name for name in f"{args.ours},{args.peers}".split(",") if name]
    wanted = choose(loaders, args.augment, len(cores))
    parts = args.only.split(",")
    wanted = [v for v in wanted if any(part in v.name for part in parts)]
    left_out = {v.name: missing_packages(v) for v in wanted if missing_packages(v)}
    variants = [variant for variant in wanted if variant.name not in left_out]
    if args.list:
        for variant in wanted:
            absent = variant.name in left_out
            print(f"{variant.name}{' (not installed)' if absent else ''}")
        return 0
    if not wanted:
        raise UserError("nothing to measure; see --list, --ours, --peers and --only")
    say_left_out(wanted, left_out)
    if not variants:
        return 0
    with tempfile.TemporaryDirectory(prefix="nfnets-benchmark-") as directory:
        description = prepare_images(args.images, Path(directory))
        template = {**job_settings(args), "directory": directory}
        context = describe_run(args, description)
        measured, failed = run_rounds(
            variants, template, rounds=args.rounds, cores=cores, log=say
        )
    rows = make_rows(variants, measured)
    print(f"\n{headline(context)}\n\n{format_table(rows)}")
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}")
    content = {
        **context,
        "rows": [asdict(row) for row in rows],
        "measurements": [asdict(result) for result in measured],
        "left_out": left_out,
        "failed": failed,
    }
    write_json(args.json, content)
    return 1 if failed else 0


def measure_memory(args: argparse.Namespace) -> int:
    """Measures the loader of --augment's usual form; returns the exit status."""
    cores = parse_cores(args.cores)
    with tempfile.TemporaryDirectory(prefix="nfnets-benchmark-") as directory:
        description = prepare_images(args.images, Path(directory))
        context = describe_run(args, description)
        job = Job(
            # Names crop and kernel; which backend makes them is said beside it.
            variant="ours python timm_box bicubic AA",
            threads=len(cores),
            directory=directory,
            **job_settings(args),
        )
        settings = {**asdict(job), "backend": args.backend}
        result = run_process("nfnets.benchmark.memory", settings, cores, timeout_s=None)
    print(f"\n{headline(context)}\n\n{format_memory(result, args.batch_size)}")
    write_json(args.json, {**context, **result})
    return 0


def measure_steps(args: argparse.Namespace) -> int:
    """Times train steps, alone or with their input; returns the exit status."""
    # JAX would take the devices, which are for the processes that `input` starts.
    from nfnets.step_benchmark.commands import run_both, run_step
    from nfnets.training.config_files import load_config

    run = run_step if args.command == "step" else run_both
    return run(args, lambda name: load_config(name, CONFIG_DIR))


def job_settings(args: argparse.Namespace) -> dict[str, Any]:
    """What all processes are told alike."""
    return {
        "size": args.size,
        "batch_size": args.batch_size,
        "batches": args.batches,
        "policy": args.augment,
    }


def prepare_images(path: str | None, directory: Path) -> dict[str, Any]:
    """Writes the containers; returns what the report says of the images."""
    if path is None:
        say(f"--images names none: making {MADE_UP_IMAGES} JPEGs of waves and noise")
        images, origin = image_set.make_images(MADE_UP_IMAGES), "made up"
    else:
        images, origin = image_set.read_images(path), Path(path).name
    image_set.write_containers(images, directory)
    return image_set.describe_images(images, origin)


def describe_run(
    args: argparse.Namespace, description: dict[str, Any]
) -> dict[str, Any]:
    """Surroundings and images."""
    return {**surroundings(vars(args)), "images": description}


def headline(context: dict[str, Any]) -> str:
    """One paragraph above the table."""
    settings, images = context["settings"], context["images"]
    processor = context["machine"]["processor"]
    names = [f"{name} {version}" for name, version in context["versions"].items()]
    return (
        f"{settings['size']} px, batch {settings['batch_size']}, "
        f"{settings['augment']}, cores {settings['cores']} of {processor}, "
        f"{images['count']} JPEGs ({images['origin']}, mean {images['mean_width']}x"
        f"{images['mean_height']}, {images['mean_bytes'] // 1000} kB, sha256 "
        f"{images['sha256']}), {context['machine']['time']}; {', '.join(names)}."
    )


def say_left_out(wanted: Sequence[Variant], left_out: dict[str, list[str]]) -> None:
    """One line per loader that is not installed."""
    lines = {}
    for variant in wanted:
        if variant.name in left_out:
            modules = ", ".join(left_out[variant.name])
            lines[variant.loader] = f"no module {modules}; {variant.install}"
    for loader, reason in lines.items():
        print(f"left out: {loader}: {reason}", flush=True)


if __name__ == "__main__":
    # An exception, so that what was started is ended too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(in_one_line(lambda: main(sys.argv[1:])))
