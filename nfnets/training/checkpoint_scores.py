"""The score of a checkpoint, by which the best one is kept.

orbax reads it from a small file of its own, and opens no folder in which one of these
is damaged. So it stands, with a digest, in the checkpoint's record too, and the file is
mended before orbax sees it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from etils import epath

from nfnets.training.storage import refusals_of, write_atomically

# The score of a step that was not evaluated: below any accuracy.
NOT_EVALUATED = -1.0


def digest_json(value: Any) -> str:
    """Sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_score(step: epath.Path) -> float:
    """The score that a checkpoint was saved with; NOT_EVALUATED where it is lost.

    Args:
      step: the checkpoint's folder.
    """
    saved = _read_object(step / "record" / "metadata")
    if saved.get("score_sha256") == digest_json(saved.get("score")):
        return saved["score"]
    # Older checkpoints have it in orbax's file only.
    found = _stated_score(step)
    return NOT_EVALUATED if found is None else found


def write_score(step: epath.Path, score: float) -> None:
    """Gives a checkpoint, saved without a score, the one of its later evaluation.

    Raises:
      UserError: it cannot be read or written.
    """
    record = step / "record" / "metadata"
    with refusals_of("read", record):
        saved = json.loads(record.read_bytes())
    scored = {"score": score, "score_sha256": digest_json(score)}
    write_atomically(record, json.dumps(saved | scored))
    write_atomically(_metrics_file(step), json.dumps({"score": score}))


def best_step(folder: epath.Path, steps: list[int]) -> int | None:
    """The step with the highest score, the later one of equals; None: none has one."""
    scores = {step: read_score(folder / str(step)) for step in steps}
    evaluated = [step for step in steps if scores[step] > NOT_EVALUATED]
    return max(evaluated, key=lambda step: (scores[step], step), default=None)


def mend_scores(folder: epath.Path, log: Callable[[str], None]) -> None:
    """Writes anew the scores in a checkpoint folder that are not what was saved.

    Raises:
      UserError: one cannot be written.
    """
    for step in folder.glob("*"):
        if not step.name.isdecimal() or not (step / "metrics").is_dir():
            continue
        score = read_score(step)
        if _stated_score(step) != score:
            write_atomically(_metrics_file(step), json.dumps({"score": score}))
            log(f"the score of checkpoint {step.name} was damaged; it is {score} again")


def _metrics_file(step: epath.Path) -> epath.Path:
    return step / "metrics" / "metrics"


def _stated_score(step: epath.Path) -> float | None:
    score = _read_object(_metrics_file(step)).get("score")
    return score if isinstance(score, float) else None


def _read_object(path: epath.Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
