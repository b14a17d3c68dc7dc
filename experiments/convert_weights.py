"""Converts a file of weights, once, to .safetensors with a .json beside it.

Usage: python experiments/convert_weights.py --model=nfnet_f0 --weights=F0_haiku.npz \
    --out=nfnet_f0.safetensors --metadata top1=0.836

Exit status: 0 converted; 2 a mistake, which one line explains.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
from pathlib import Path

import jax

from nfnets.errors import UserError
from nfnets.weights import load_weights, save_weights
from nfnets.weights.files import description_path


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="e.g. nfnet_f0")
    parser.add_argument(
        "--weights", required=True, help="official .npz (a pickle), .npz, .safetensors"
    )
    parser.add_argument("--out", required=True, help="NAME.safetensors, to write")
    parser.add_argument(
        "--metadata", action="append", default=[], help="KEY=VALUE for NAME.json"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    args = parser.parse_args(arguments)
    try:
        metadata = dict(parse_metadata(item) for item in args.metadata)
        convert(args.model, args.weights, args.out, metadata, args.overwrite)
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def convert(
    model: str,
    weights: str,
    out: str,
    metadata: dict[str, str | int | float],
    overwrite: bool,
) -> None:
    """Reads, checks and writes; prints what was read and written."""
    written = (Path(out), description_path(Path(out)))
    for path in written:
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists; name another --out, or add --overwrite")
    variables = load_weights(model, weights)
    leaves = jax.tree.leaves(variables)
    print(
        f"read  {weights}: {len(leaves)} arrays, "
        f"{sum(leaf.size for leaf in leaves):,} numbers, "
        f"{variables['params']['head']['bias'].size} classes"
    )
    with open(weights, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source = {"source": Path(weights).name, "source_sha256": digest}
    save_weights(model, variables, out, source | metadata)
    print(f"wrote {written[0]} ({written[0].stat().st_size:,} bytes), {written[1]}")


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
    sys.exit(main())
