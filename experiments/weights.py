"""Says what a file of weights is, and converts it; docs/weights.md.

    python experiments/weights.py info FILE|RUN [--model=NAME] [--list]
    python experiments/weights.py convert --weights=FILE|RUN --out=FILE \
        --to=ours|timm|haiku|keras [--model=NAME] [--metadata KEY=VALUE] [--overwrite]

RUN is a work directory or its checkpoints/STEP, of which the moving average is taken
where there is one. --model may be left out where the run, or the .json beside a file of
ours, says it.

Exit status: 0 done; 2 a mistake, which one line explains; 1 anything else.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from nfnets.errors import EXIT_COMPLETE, EXIT_USER_ERROR, UserError, in_one_line
from nfnets.registry import family_of
from nfnets.weights import export_weights, load_weights, save_weights
from nfnets.weights.contents import (
    Contents,
    fitting_models,
    misfit,
    read_contents,
)
from nfnets.weights.descriptions import described_model, description_path, sha256_of
from nfnets.weights.naming import is_statistic
from nfnets.weights.readers import kind_of

FORMS = {
    "pickle": "pickle (was not run)",
    "npz": ".npz",
    "safetensors": ".safetensors",
    "hdf5": "HDF5 of Keras (.h5)",
    "keras": "archive of Keras (.keras)",
}
NAMES = {
    "ours": "ours",
    "timm": "timm's",
    "keras": "Keras's",
    "haiku": "DeepMind's (Haiku)",
    None: "of a program that is not known here",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights to convert.

    Attributes:
      model: its name.
      overrides: changed fields of its row.
      variables: NumPy arrays.
      metadata: where they are from.
    """

    model: str
    overrides: Mapping[str, Any]
    variables: Mapping[str, Any]
    metadata: Mapping[str, str | int | float]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = _parser().parse_args(arguments)
    try:
        args.run(args)
    except ImportError as error:
        message = f'{error}; runs are read with: pip install "nfnets-flax[train]"'
    except BrokenPipeError:
        raise
    except (UserError, OSError) as error:
        message = " ".join(str(error).split())
    else:
        return EXIT_COMPLETE
    print(f"error: {message}", file=sys.stderr)
    return EXIT_USER_ERROR


def _parser() -> argparse.ArgumentParser:
    summary, *_ = __doc__.splitlines()
    parser = argparse.ArgumentParser(description=summary)
    commands = parser.add_subparsers(required=True)
    info = commands.add_parser("info", help="say what a file of weights is")
    info.add_argument("file", help="a file of weights, or a run")
    info.add_argument("--model", help="look only whether it fits this one")
    info.add_argument("--list", action="store_true", help="also every array")
    info.set_defaults(run=run_info)
    convert = commands.add_parser("convert", help="write weights in another form")
    convert.add_argument("--model", help="e.g. nfnet_f0")
    convert.add_argument("--weights", required=True, help="a file, or a run")
    convert.add_argument("--out", required=True, help="the file to write")
    convert.add_argument(
        "--to", required=True, choices=["ours", "timm", "haiku", "keras"]
    )
    convert.add_argument(
        "--metadata",
        action="append",
        default=[],
        help="KEY=VALUE for the .json of --to=ours",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace --out")
    convert.set_defaults(run=run_convert)
    return parser


def run_info(args: argparse.Namespace) -> None:
    """Prints what a file or a run is."""
    if Path(args.file).is_dir():
        source = read_run(args.file, args.model)
        arrays = traverse_util.flatten_dict(dict(source.variables), sep="/")
        lines = {
            "run": args.file,
            "sha256": "of each array, verified",
            "form": "checkpoint",
            "names": NAMES["ours"],
            **counted(arrays),
            "metadata": json.dumps(source.metadata),
            "fits": f"{source.model}{changed(source.overrides)}",
        }
    else:
        contents = read_contents(args.file)
        arrays = dict(contents.arrays)
        lines = {
            "file": f"{contents.path} ({contents.path.stat().st_size:,} bytes)",
            "sha256": contents.sha256 + compared(contents),
            "form": FORMS[contents.kind],
            "names": NAMES[contents.naming],
            **counted(arrays),
            "metadata": metadata_of(contents),
            "fits": fits(contents, args.model),
        }
    for key, value in lines.items():
        print(f"{key:<9} {value}")
    if args.list:
        for name, array in arrays.items():
            print(f"{name} {list(array.shape)} {array.dtype}")


def counted(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """How many arrays and parameters there are, and of what types."""
    statistics = {name for name in arrays if is_statistic(name)}
    parameters = sum(a.size for name, a in arrays.items() if name not in statistics)
    types = collections.Counter(str(array.dtype) for array in arrays.values())
    return {
        "arrays": f"{len(arrays)}, of which {len(statistics)} are statistics",
        "params": f"{parameters:,} numbers (without statistics)",
        "dtypes": ", ".join(f"{name} ({count})" for name, count in types.items()),
    }


def compared(contents: Contents) -> str:
    """Whether the file is the one that is described beside it."""
    if contents.description is None:
        return ""
    name = description_path(contents.path).name
    same = contents.description["sha256"] == contents.sha256
    return f" (as {name} says)" if same else f" (NOT the file that {name} describes)"


def metadata_of(contents: Contents) -> str:
    """The .json beside the file, and the header, as JSON."""
    said = dict(contents.description or {})
    said.pop("sha256", None)
    return json.dumps(said | dict(contents.header)) if said or contents.header else "-"


def fits(contents: Contents, model: str | None) -> str:
    """The models whose arrays these are; of one model, also why not."""
    if model is not None:
        family_of(model)  # raises where there is none of that name
    said = None if contents.description is None else described_model(contents.path)
    if said is not None and model in (None, said[0]):
        name, overrides = said
        reason = misfit(contents, name, overrides)
        return reason or f"{name}{changed(overrides)}"
    if model is not None:
        return misfit(contents, model) or model
    found = fitting_models(contents)
    return ", ".join(found) or "none of our models as they are in the tables"


def changed(overrides: Mapping[str, Any]) -> str:
    """The changed fields of a row, to print after its name."""
    return f" with model_overrides {json.dumps(dict(overrides))}" if overrides else ""


def run_convert(args: argparse.Namespace) -> None:
    """Reads, checks and writes; prints what was read and written."""
    out = Path(args.out)
    written = [out, description_path(out)] if args.to == "ours" else [out]
    for path in written:
        if path.exists() and not args.overwrite:
            raise UserError(f"{path} exists; name another --out, or add --overwrite")
    if args.metadata and args.to != "ours":
        raise UserError(f"--metadata needs --to=ours; files for {args.to} have none")
    metadata = dict(parse_metadata(item) for item in args.metadata)
    source = read_source(args.weights, args.model)
    leaves = jax.tree.leaves(source.variables)
    classes = source.variables["params"]["head"]["bias"].size
    print(
        f"read  {args.weights}: {source.model}{changed(source.overrides)}, "
        f"{len(leaves)} arrays, {sum(leaf.size for leaf in leaves):,} numbers, "
        f"{classes} classes"
    )
    if args.to == "ours":
        save_weights(
            source.model,
            source.variables,
            out,
            {**source.metadata, **metadata},
            overrides=source.overrides,
        )
    else:
        export_weights(
            source.model, source.variables, out, args.to, overrides=source.overrides
        )
    print(f"wrote {', '.join(map(str, written))} ({out.stat().st_size:,} bytes)")
    print(f"sha256 {sha256_of(out)}")


def read_source(path: str, model: str | None) -> Source:
    """The weights of a file or of a run."""
    if Path(path).is_dir():
        return read_run(path, model)
    file = Path(path)
    said = described_model(file) if kind_of(file) == "safetensors" else None
    name, overrides = said or (model, {})
    if name is None:
        raise UserError(
            f"{path} does not say of which model it is; give --model=NAME "
            f"(weights.py info {path} shows which ones it fits)"
        )
    if model not in (None, name):
        raise UserError(f"{path} holds the weights of {name!r}, not of {model}")
    variables = load_weights(name, file, overrides=overrides)
    metadata = {"source": file.name, "source_sha256": sha256_of(file)}
    return Source(name, overrides, variables, metadata)


def read_run(path: str, model: str | None) -> Source:
    """The weights of a run: their moving average where it keeps one."""
    from nfnets.command_line import quiet_checkpoint_library
    from nfnets.training import run_weights
    from nfnets.training.storage import as_path

    quiet_checkpoint_library()
    run, step = run_weights.run_and_step(as_path(path))
    weights = run_weights.read_all_weights(run, step)
    recipe = weights.recipe
    if model not in (None, recipe.model):
        raise UserError(f"the run in {run} has the model {recipe.model}, not {model}")
    average = weights.by_prefix.get("eval_ema")
    return Source(
        recipe.model,
        recipe.overrides,
        average or weights.by_prefix["eval"],
        {
            "source": run.name,
            "step": weights.step,
            "weights": "moving average" if average else "last",
        },
    )


def parse_metadata(item: str) -> tuple[str, str | int | float]:
    """The pair in KEY=VALUE; what reads as a finite number becomes one."""
    key, separator, value = item.partition("=")
    if not key or not separator:
        raise UserError(f"--metadata {item!r} should be KEY=VALUE, e.g. top1=0.836")
    for number in (int, float):
        try:
            parsed = number(value)
        except ValueError:
            continue
        if math.isfinite(parsed):
            return key, parsed
    return key, value


if __name__ == "__main__":
    sys.exit(in_one_line(main))
