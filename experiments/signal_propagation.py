"""Plots how a network's activations evolve over depth at initialisation.

Usage: python experiments/signal_propagation.py --model=nfnet_f0 --out=f0.png
"""

from __future__ import annotations

import argparse
import sys

import jax

from nfnets.errors import UserError
from nfnets.initialize import init_variables
from nfnets.registry import create_model, get_variant
from nfnets.signal_propagation import (
    plot_signal_propagation,
    signal_propagation,
    with_skip_gain,
)


def main() -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="e.g. nf_resnet50")
    parser.add_argument("--image_size", type=int, help="default: the training size")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--skip_gain", type=float, default=1.0, help="trained from 0")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", default="signal_propagation.png", help="image to write"
    )
    args = parser.parse_args()
    try:
        size = args.image_size or get_variant(args.model).train_size
        model = create_model(args.model, num_classes=1000)
        key_init, key_images = jax.random.split(jax.random.key(args.seed))
        variables = init_variables(model, key_init, size)
        params = with_skip_gain(variables["params"], args.skip_gain)
        images = jax.random.normal(key_images, (args.batch_size, size, size, 3))
        result = signal_propagation(model, {**variables, "params": params}, images)
        title = (
            f"{args.model}, {size} px, unit normal input, skip gain {args.skip_gain}"
        )
        plot_signal_propagation(result, args.out, title)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
