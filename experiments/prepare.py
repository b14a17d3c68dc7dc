"""Builds a TFDS data set and checks all of it, once, before training on it.

Usage: python experiments/prepare.py imagenet2012 --manual_dir=DIR_WITH_TARS

For ImageNet the folder holds the official ILSVRC2012_img_train.tar and
ILSVRC2012_img_val.tar; other data sets TFDS downloads itself. The same command again
goes on where the last one stopped. docs/imagenet.md says more.

Exit status: 0 prepared and checked, 2 a mistake or damaged data (one line says which),
1 anything else.
"""

from __future__ import annotations

import argparse
import os
import sys

from nfnets.data.prepare import prepare
from nfnets.data.prepare_checks import IMAGENET_IMAGES
from nfnets.errors import UserError


def main() -> int:
    """Runs the command; returns its exit status."""
    args = parse_arguments()
    expected = dict(IMAGENET_IMAGES) if args.name == "imagenet2012" else {}
    for split in IMAGENET_IMAGES:
        if vars(args)[f"num_{split}"] is not None:
            expected[split] = vars(args)[f"num_{split}"]
    try:
        prepare(
            args.name,
            manual_dir=args.manual_dir,
            data_dir=args.data_dir,
            file_format=args.file_format,
            threads=args.threads,
            expected=expected,
            log=lambda message: print(message, file=sys.stderr, flush=True),
        )
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 1
    return 0


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="imagenet2012, or another name of TFDS: cifar10")
    parser.add_argument("--manual_dir", help="folder of files downloaded by hand")
    parser.add_argument(
        "--data_dir", help="default: $TFDS_DATA_DIR, or ~/tensorflow_datasets"
    )
    parser.add_argument(
        "--file_format", help="array_record (the default) or tfrecord, as for gs://"
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="that decode"
    )
    for split, count in IMAGENET_IMAGES.items():
        parser.add_argument(
            f"--num_{split}",
            type=int,
            help=f"records expected in {split}; default for imagenet2012: {count}",
        )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
