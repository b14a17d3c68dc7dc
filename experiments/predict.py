"""Says what a network takes images for; docs/predict.md.

    python experiments/predict.py --workdir=RUN PATH...
    python experiments/predict.py --workdir=RUN --out=FILE.csv --grid=FILE.png PATH...
    python experiments/predict.py --config=NAME --config.init_from=FILE PATH...

A PATH is an image, a folder (subfolders included) or a pattern such as "*/7_*.png". Of
a run the last checkpoint is taken, and of that the moving average where there is one.

Exit status: 0 complete, 2 a mistake in the command, data or settings (one line says
which), or images that cannot be read: they are named, and the others are predicted; 75
interrupted (what was predicted is written), 1 anything else.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    from absl import flags
    from ml_collections import config_flags

    from nfnets.command_line import (
        EXIT_INTERRUPTED,
        end_with_status,
        quiet_checkpoint_library,
        say,
        stop_on_signals,
        use_compilation_cache,
    )
    from nfnets.data.image_files import find_images
    from nfnets.errors import EXIT_COMPLETE, UserError
    from nfnets.training.predict_images import Asked, predict_images
    from nfnets.training.prediction_files import table_path
    from nfnets.training.storage import as_path
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
flags.DEFINE_integer("top_k", 5, "Classes per image.")
flags.DEFINE_string("out", None, "FILE.csv or FILE.json, a row per image.")
flags.DEFINE_string("grid", None, "FILE.png, a picture of the first images.")


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit status, or ends the process with it."""
    return end_with_status(run_command, argv)


def run_command(argv: list[str]) -> int:
    """Does what the arguments say and returns the exit status."""
    if {"--help", "-h", "-help"} & set(argv[1:]):
        print(f"{__doc__}\n{FLAGS.module_help(sys.modules[__name__])}")
        return EXIT_COMPLETE
    choice, places = choose_weights(argv, FLAGS, CONFIG_DIR, paths=True)
    if not places:
        raise UserError("name images: files, folders or patterns, after the flags")
    table = None if FLAGS.out is None else table_path(FLAGS.out)
    grid = None if FLAGS.grid is None else as_path(FLAGS.grid)
    paths = find_images(places)
    use_compilation_cache()
    quiet_checkpoint_library()
    done = predict_images(
        choice.read(say),
        paths,
        Asked(FLAGS.raw, FLAGS.top_k, table, grid),
        log=say,
        stop_requested=stop_on_signals(),
    )
    if len(done) < len(paths):
        say(f"interrupted: {len(done)} of {len(paths)} images were predicted")
        return EXIT_INTERRUPTED
    damaged = [prediction.path for prediction in done if prediction.damage is not None]
    if damaged:
        names = ", ".join(damaged[:3]) + (", ..." if len(damaged) > 3 else "")
        raise UserError(
            f"{len(damaged)} of {len(paths)} images cannot be read: {names}"
        )
    return EXIT_COMPLETE


if __name__ == "__main__":
    sys.exit(main(sys.argv))
