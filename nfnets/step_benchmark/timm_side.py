"""timm's train step in a process of its own, as a module that is run.

Its arguments are a file with a `StepJob` and the file that the `StepResult` goes to.
The step does what ours does under the same recipe: forward in the recipe's dtype
(autocast), loss with label smoothing, backward, AGC with timm's own function where the
recipe clips, the recipe's kind of optimizer, and the moving average where it keeps one.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nfnets.step_benchmark import turns
from nfnets.step_benchmark.job import (
    TRACED_STEPS,
    StepJob,
    StepResult,
    process_memory,
    time_steps,
)
from nfnets.training.recipe import Recipe

# Seconds that each implementation of the optimizer is tried for.
TRIAL_SECONDS = 1.0


def measure(job: StepJob) -> StepResult:
    """Times the step with the faster implementation of the optimizer."""
    import torch

    recipe = Recipe.from_config(job.recipe)
    mode, layout = job.form.removeprefix("timm ").split()
    on_gpu = torch.cuda.is_available()
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    names = implementations(recipe)
    with turns.compiling():
        started = time.perf_counter()
        parts = _build(recipe, mode, layout, on_gpu)

        def make(name: str) -> Callable[[], Any]:
            return _make_step(parts, recipe, make_optimizer(parts.model, recipe, name))

        make(names[0])()
        wait()
        first = time.perf_counter() - started
        if on_gpu:
            torch.cuda.empty_cache()  # other processes need the device's memory too
    with turns.timing():
        best = fastest(names, make, wait)
        gc.collect()  # PyTorch's first optimizer is part of a cycle
        run = make(best)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        seconds, spread, cpu = time_steps(run, wait, job.seconds)
        if job.profile is not None:
            _write_profile(run, wait, Path(job.profile))
    return StepResult(
        seconds=seconds,
        spread=spread,
        cpu_seconds=cpu,
        first_seconds=first,
        memory_bytes=torch.cuda.max_memory_allocated() if on_gpu else process_memory(),
        loss=float(run()),
        params=sum(p.numel() for p in parts.model.parameters()),
        note=f"{best} optimizer",
    )


def fastest(
    names: Sequence[str],
    make: Callable[[str], Callable[[], Any]],
    wait: Callable[[], None],
) -> str:
    """The name whose step is fastest; no step outlives its trial, with its memory.

    Args:
      names: one or more.
      make: gives a step that has its own optimizer.
      wait: until all steps that were started are done.
    """
    tried = {name: time_steps(make(name), wait, TRIAL_SECONDS)[0] for name in names}
    return min(tried, key=lambda name: tried[name])


def _write_profile(
    run: Callable[[], Any], wait: Callable[[], None], directory: Path
) -> None:
    """A table of the kernels that took longest, over ``TRACED_STEPS`` steps."""
    from torch.profiler import profile

    with profile() as profiler:
        for _ in range(TRACED_STEPS):
            run()
        wait()
    averages = profiler.key_averages()
    table = averages.table("self_device_time_total", 60, max_name_column_width=120)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "kernels.txt").write_text(table, encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Parts:
    """A network on its device, with a batch of random pixels."""

    model: Any
    forward: Callable[[Any], Any]
    images: Any
    labels: Any
    average: Any
    clipped: list[Any]


def _build(recipe: Recipe, mode: str, layout: str, on_gpu: bool) -> Parts:
    """The network in one of the two layouts, compiled or not."""
    import timm
    import torch
    from timm.utils import ModelEmaV3

    device = "cuda" if on_gpu else "cpu"
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    channels_last = layout == "NHWC"
    memory = torch.channels_last if channels_last else torch.contiguous_format
    ours = recipe.create_model()
    model = timm.create_model(
        timm_name(recipe.model),
        num_classes=recipe.num_classes,
        drop_rate=ours.drop_rate,
        drop_path_rate=ours.stochastic_depth_rate,
    )
    model = model.to(device, memory_format=memory).train()
    decay = recipe.ema_decay
    average = None if decay is None else ModelEmaV3(model, decay=decay, foreach=True)
    size, batch = recipe.train_image_size, recipe.batch_size
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=memory)
    labels = torch.randint(0, recipe.num_classes, (batch,), device=device)
    head = model.get_classifier()
    is_head = {id(p) for p in head.parameters() if p.ndim > 1}
    clips = recipe.optim.agc_clipping is not None
    clipped = [p for p in model.parameters() if clips and id(p) not in is_head]
    forward = torch.compile(model) if mode == "compile" else model
    return Parts(model, forward, images, labels, average, clipped)


def _make_step(parts: Parts, recipe: Recipe, optimizer: Any) -> Callable[[], Any]:
    """One update; gives the loss, on the device."""
    import torch
    from timm.utils.agc import adaptive_clip_grad

    loss_of = make_loss(recipe)
    clipping, eps = recipe.optim.agc_clipping, recipe.optim.agc_eps
    half = recipe.dtype == "bfloat16"

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        device = parts.images.device.type
        with torch.autocast(device, torch.bfloat16, enabled=half):
            logits = parts.forward(parts.images)
        loss = loss_of(logits.float(), parts.labels)
        loss.backward()
        if parts.clipped:
            adaptive_clip_grad(parts.clipped, clipping, eps)
        optimizer.step()
        if parts.average is not None:
            parts.average.update(parts.model, step=1)
        return loss.detach()

    return step


def make_loss(recipe: Recipe) -> Callable[[Any, Any], Any]:
    """(logits [N, K], labels [N]) -> a scalar."""
    import torch

    if recipe.loss == "softmax":
        return torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    binary = torch.nn.BCEWithLogitsLoss()

    def loss_of(logits: Any, labels: Any) -> Any:
        targets = torch.nn.functional.one_hot(labels, logits.shape[1])
        return binary(logits, targets.float())

    return loss_of


def implementations(recipe: Recipe) -> list[str]:
    """Of the recipe's optimizer, in PyTorch: those worth trying."""
    has_fused = recipe.optim.name in ("sgd", "adamw")
    return ["foreach", "fused"] if has_fused else ["foreach"]


def make_optimizer(model: Any, recipe: Recipe, implementation: str) -> Any:
    """PyTorch's nearest to the recipe's; biases and gains are not decayed."""
    import torch

    optim = recipe.optim
    groups = [
        {
            "params": [p for p in model.parameters() if p.ndim > 1],
            "weight_decay": recipe.weight_decay,
        },
        {
            "params": [p for p in model.parameters() if p.ndim <= 1],
            "weight_decay": 0.0,
        },
    ]
    how: dict[str, Any] = {implementation: True, "lr": 1e-3}
    if optim.name == "sgd":
        momentum = {"momentum": optim.momentum, "nesterov": optim.nesterov}
        return torch.optim.SGD(groups, **momentum, **how)
    if optim.name == "rmsprop":
        decays = {"alpha": optim.rms_decay, "momentum": optim.momentum}
        return torch.optim.RMSprop(groups, **decays, eps=optim.rms_eps, **how)
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, **how)
    from timm.optim import Lamb

    return Lamb(groups, lr=1e-3)


def timm_name(model: str) -> str:
    """What timm calls the network (docs/weights.md); NFNets' differ in the GELU."""
    for ours, theirs in (
        ("nfnet_", "dm_nfnet_"),
        ("effnetv2_", "tf_efficientnetv2_"),
        ("effnet_", "tf_efficientnet_"),
        ("resnet_rs_", "resnetrs"),
    ):
        if model.startswith(ours):
            return theirs + model.removeprefix(ours)
    return {"nf_resnet50": "nf_resnet50", "deit_s": "deit_small_patch16_224"}.get(
        model, model
    )


def main(argv: list[str]) -> None:
    """Reads the job, writes the result."""
    job = StepJob(**json.loads(Path(argv[1]).read_text(encoding="utf-8")))
    result = json.dumps(dataclasses.asdict(measure(job)))
    Path(argv[2]).write_text(result, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv)
