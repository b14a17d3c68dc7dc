"""One candidate: its recipe, its step time, its training, its row.

Training is the ordinary loop's, in a work directory of the candidate's own, so an
interrupted candidate goes on inside its run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from effnetv2.backbones import Backbone
from effnetv2.reward import reward
from nfnets import flops
from nfnets.errors import UserError
from nfnets.training import processes, workdir
from nfnets.training.between_steps import NonFiniteError
from nfnets.training.loop import Result, train_and_evaluate
from nfnets.training.metrics import Row
from nfnets.training.recipe import Recipe
from nfnets.training.recipe_parts import CONSTANT
from nfnets.training.step_time import (
    StepTime,
    Timer,
    compare,
    make_timer,
    prepare_step,
)
from nfnets.training.storage import is_remote, write_atomically
from nfnets.training.typed_config import from_mapping

STEP_TIME = "step_time.json"
LOG = "log.txt"
# EfficientNetV2 scores on minival, 20 of 1024 parts of ImageNet's 1,281,167 images.
MINIVAL_IMAGES = 25023


def search_recipe(
    recipe: Recipe, steps: int | None, num_images: int, holdout: int = 0
) -> Recipe:
    """The recipe that all candidates share: short, scored on held-out training images.

    There is no progressive learning, since S is the time of one step.

    Args:
      recipe: as the user gave it.
      steps: train steps per candidate, without a cooldown; None keeps the recipe's
        length.
      num_images: training images of the data, nothing held out.
      holdout: of these, kept to score on; 0 is minival's number, a tenth at most.
    """
    if steps is not None and steps < 1:
        raise UserError(f"--steps is {steps}, expected 1 or more")
    holdout = holdout or max(1, min(MINIVAL_IMAGES, num_images // 10))
    num_train = num_images - holdout
    if steps is not None:
        recipe = dataclasses.replace(
            recipe,
            num_epochs=steps * recipe.batch_size / num_train,
            min_steps=steps,
            optim=dataclasses.replace(recipe.optim, cooldown_epochs=0.0),
        )
    data = dataclasses.replace(recipe.data, holdout=holdout, num_train=num_train)
    recipe = dataclasses.replace(recipe, data=data, progressive=CONSTANT)
    epochs = recipe.total_steps / recipe.steps_per_epoch
    return dataclasses.replace(
        recipe,
        # A warmup of several epochs would be most of so short a run; a tenth at most.
        optim=dataclasses.replace(
            recipe.optim, warmup_epochs=min(recipe.optim.warmup_epochs, epochs / 10)
        ),
        eval=dataclasses.replace(recipe.eval, split="holdout", every_epochs=2 * epochs),
    )


def network_recipe(
    recipe: Recipe, backbone: Backbone, stages: tuple[str, ...]
) -> Recipe:
    """A recipe with the network of these stages; what it said of another is dropped.

    But the weight decay and the RandAugment magnitude that it took from the other's
    row stay, as an EfficientNet's row has neither.
    """
    own = recipe.model_overrides if recipe.model == backbone.model else {}
    augment = recipe.augment
    if augment.randaugment_layers > 0 and augment.randaugment_magnitude is None:
        magnitude = recipe.stages[-1].augment.randaugment_magnitude
        augment = dataclasses.replace(augment, randaugment_magnitude=magnitude)
    return dataclasses.replace(
        recipe,
        optim=dataclasses.replace(recipe.optim, weight_decay=recipe.weight_decay),
        augment=augment,
        model=backbone.model,
        reference_model=backbone.model,
        model_overrides={**own, **backbone.overrides, "stages": stages},
    )


@dataclasses.dataclass(frozen=True)
class Reference:
    """The backbone, by which step time and parameters are measured."""

    timer: Timer
    num_params: int


def make_reference(recipe: Recipe, num_classes: int) -> Reference:
    """Compiles the backbone's step once, for all candidates of this process."""
    recipe = recipe.for_source(num_classes=num_classes)
    timer = make_timer(prepare_step(recipe, lambda line: None))
    return Reference(timer, num_params_of(recipe))


def num_params_of(recipe: Recipe) -> int:
    """Parameters of a recipe's network."""
    return flops.count_params_of(recipe.create_model(), recipe.train_image_size)


def evaluate_candidate(
    recipe: Recipe,
    directory: epath.Path,
    make_backbone: Callable[[], Reference],
    num_classes: int,
    stop_requested: Callable[[], bool],
) -> Row | None:
    """Measures and trains one network; going on from what the directory holds.

    Returns:
      What is known of it: ``status`` "ok", "not finite" or "failed", ``reason``, and
      the numbers, None where it has none; ``reward`` 0 unless it is ok. None when it
      was interrupted and saved.

    Raises:
      UserError: of the machine, the data or the settings, rather than of the network.
    """
    started = time.monotonic()
    with _output_to(directory) as log:
        try:
            measured = step_time(recipe, directory, make_backbone, num_classes, log)
            result = train_and_evaluate(
                recipe, directory, log=log, stop_requested=stop_requested
            )
        except UserError:
            raise
        except NonFiniteError as error:
            return failure("not finite", error)
        except Exception as error:
            # A network that cannot be compiled, or does not fit, must not end it all.
            return failure("failed", error)
        finally:
            # Half a gigabyte of compiled steps per candidate would stay.
            jax.clear_caches()
    if not result.complete:
        return None
    row = result_row(recipe, result, measured)
    return row | {"train_seconds": time.monotonic() - started}


def step_time(
    recipe: Recipe,
    directory: epath.Path,
    make_backbone: Callable[[], Reference],
    num_classes: int,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """The measured step time and the parameters, kept in the directory once known."""
    path = directory / STEP_TIME
    if not path.exists():
        reference = make_backbone()
        own = recipe.for_source(num_classes=num_classes)
        timed = compare(make_timer(prepare_step(own, log)), reference.timer)
        record = dataclasses.asdict(timed) | {
            "num_params": num_params_of(own),
            "backbone_params": reference.num_params,
        }

        def write() -> None:
            write_atomically(path, json.dumps(record, indent=2) + "\n")

        processes.on_main(write)
    return json.loads(path.read_text(encoding="utf-8"))


def result_row(recipe: Recipe, result: Result, measured: dict[str, Any]) -> Row:
    """The numbers of a finished run. The accuracy is the moving average's, if any."""
    weights = "eval" if recipe.ema_decay is None else "eval_ema"
    row = result.row
    assert row is not None
    if row[f"{weights}/loss"] is None:
        return failure("not finite", "the loss on held-out images is not finite")
    counts = {name: measured[name] for name in ("num_params", "backbone_params")}
    timed = from_mapping(
        StepTime, {k: v for k, v in measured.items() if k not in counts}, STEP_TIME
    )
    params = counts["num_params"] / counts["backbone_params"]
    accuracy = row[f"{weights}/top1"]
    return {
        "status": "ok",
        "reason": "",
        "reward": reward(accuracy, timed.ratio, params),
        "accuracy": accuracy,
        "step_time": timed.ratio,
        "step_time_spread": timed.spread,
        "step_seconds": timed.seconds,
        "backbone_step_seconds": timed.reference_seconds,
        "params": params,
        "num_params": counts["num_params"],
        "steps": result.step,
    }


def failure(status: str, error: Exception | str) -> Row:
    """The row of a network that got no numbers."""
    text = " ".join(str(error).split())[:300]
    reason = text if isinstance(error, str) else f"{type(error).__name__}: {text}"
    return {"status": status, "reason": reason, "reward": 0.0}


@contextlib.contextmanager
def _output_to(directory: epath.Path) -> Iterator[Callable[[str], None]]:
    """Sends what training says to the candidate's log, so that the search can be read.

    On remote storage, where files cannot grow, it is dropped.
    """
    processes.on_main(lambda: workdir.make_writable(directory))
    if is_remote(directory) or not processes.is_main():
        log = epath.Path(os.devnull)
    else:
        log = directory / LOG
    with log.open("a") as file, contextlib.redirect_stdout(file):
        yield lambda line: print(line, flush=True)
