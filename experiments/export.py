"""Exports a network to a file that runs without this project; docs/export.md.

    python experiments/export.py --workdir=RUN --format=stablehlo --out=FILE.stablehlo
    python experiments/export.py --workdir=RUN --format=onnx --out=FILE.onnx
    python experiments/export.py --workdir=RUN --format=savedmodel --out=DIR
    python experiments/export.py --config=NAME --config.init_from=FILE ...

It takes images as uint8 [B, S, S, 3], normalises them itself, and gives logits. Of a
run the last checkpoint is taken, and of that the moving average where there is one. The
export is run at once in another process and compared with the network.

Exit status: 0 complete; 2 a mistake in the command or settings (one line says which); 1
the export does not compute what the network does, or anything else.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import jax
    from absl import flags
    from ml_collections import config_flags

    from nfnets.command_line import (
        end_with_status,
        quiet_checkpoint_library,
        say,
        use_compilation_cache,
    )
    from nfnets.errors import EXIT_COMPLETE, EXIT_OTHER, UserError
    from nfnets.export.check import ExportError
    from nfnets.export.exporting import check_target, export_weights
    from nfnets.export.formats import FORMATS
    from nfnets.weights_flags import choose_weights
except ImportError as missing:
    print(
        f'error: {missing}; training needs: pip install -e ".[train]"', file=sys.stderr
    )
    sys.exit(2)

CONFIG_DIR = Path(__file__).resolve().parent / "configs"

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config", None, "NAME (run.py --list) or path/file.py:variant; default the run's."
)
flags.DEFINE_string("workdir", None, "Work directory of the run.")
flags.DEFINE_string("checkpoint", "last", "last, best, or a step.")
flags.DEFINE_bool("raw", False, "The weights even where there is a moving average.")
flags.DEFINE_string("format", None, f"{', '.join(FORMATS)}.")
flags.DEFINE_string("out", None, "FILE.stablehlo, FILE.onnx, or a folder; new.")


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit status, or ends the process with it."""
    return end_with_status(run_command, argv)


def run_command(argv: list[str]) -> int:
    """Does what the arguments say and returns the exit status."""
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(f"{__doc__}\n{FLAGS.module_help(sys.modules[__name__])}")
        return EXIT_COMPLETE
    choice, _ = choose_weights(argv, FLAGS, CONFIG_DIR)
    if FLAGS.format is None or FLAGS.out is None:
        raise UserError(f"give --format={'|'.join(FORMATS)} and --out=PATH")
    out = check_target(FLAGS.format, FLAGS.out)
    # The comparison needs exact float32, and an accelerator may be busy training.
    jax.config.update("jax_platforms", "cpu")
    use_compilation_cache()
    quiet_checkpoint_library()
    try:
        export_weights(choice.read(say), FLAGS.format, out, raw=FLAGS.raw, log=say)
    except ExportError as error:
        print(f"error: the export is not used: {error}", file=sys.stderr)
        return EXIT_OTHER
    return EXIT_COMPLETE


if __name__ == "__main__":
    sys.exit(main(sys.argv))
