"""Who may import whom (design: data flows one way), read from the syntax trees."""

import ast
from pathlib import Path

import pytest
from helpers import ROOT

FAMILIES = (
    "nfnets.nfnet",
    "nfnets.nf_resnet",
    "nfnets.nf_regnet",
    "nfnets.resnet_baselines",
    "effnetv2.model",
    "resnet_rs.resnet",
    "resnet_rs.regnet",
    "resnet_rs.vit",
)
MODEL_PARTS = (
    "nfnets.batch_norm",
    "nfnets.conv",
    "nfnets.errors",
    "nfnets.features",
    "nfnets.layers",
    "nfnets.nf_layers",
    "nfnets.resnet_blocks",
)
# What only the families of one package may use.
PACKAGE_PARTS = {
    "effnetv2": ("block_strings", "blocks", "stage_tables"),
    "resnet_rs": ("blocks",),
}
OWN = ("nfnets", "effnetv2", "resnet_rs", "experiments", "tests")
MODULES = sorted(
    path
    for package in ("nfnets", "effnetv2", "resnet_rs")
    for path in ROOT.glob(f"{package}/**/*.py")
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Full names of what a file imports; ``from a import b`` gives both a and a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def own(path: Path) -> set[str]:
    return {name for name in imports(path) if within(name, OWN)}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nothing_imports_tests_or_experiments(path):
    assert not {n for n in imports(path) if within(n, ("tests", "experiments"))}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_nothing_imports_tensorflow_at_module_level(path):
    top = imports(path, top_level_only=True)
    assert not {n for n in top if within(n, ("tensorflow", "tensorflow_datasets"))}


PEERS = ("tensorflow", "torch", "torchvision", "timm", "nvidia")


@pytest.mark.parametrize("path", sorted(ROOT.glob("nfnets/benchmark/*.py")), ids=str)
def test_benchmark_knows_no_models_and_loads_no_peer_early(path):
    allowed = ("nfnets.benchmark", "nfnets.data", "nfnets.errors", "nfnets.versions")
    assert not {n for n in own(path) if not within(n, allowed) and n != "nfnets"}
    assert not {n for n in imports(path, top_level_only=True) if within(n, PEERS)}


BENCHMARKS = ("benchmark", "step_benchmark")


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_only_the_benchmarks_use_the_benchmarks(path):
    if path.parent.name not in BENCHMARKS:
        theirs = tuple(f"nfnets.{name}" for name in BENCHMARKS)
        assert not {n for n in own(path) if within(n, theirs)}


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("nfnets/step_benchmark/*.py")), ids=str
)
def test_step_benchmark_loads_no_peer_early(path):
    assert not {n for n in imports(path, top_level_only=True) if within(n, PEERS)}


TRAINING_MAY_USE = (
    "nfnets.agc",
    "nfnets.data",
    "nfnets.errors",
    "nfnets.flops",
    "nfnets.initialize",
    "nfnets.registry",
    "nfnets.training",
    "nfnets.versions",
    "nfnets.weights",
)


@pytest.mark.parametrize("path", sorted(ROOT.glob("nfnets/training/*.py")), ids=str)
def test_training_knows_no_family_and_no_flags(path):
    others = {n for n in own(path) if not within(n, TRAINING_MAY_USE)} - {"nfnets"}
    assert not others
    assert not {n for n in imports(path) if within(n, ("absl",))}


EXPORT_MAY_USE = (
    "nfnets.conv",
    "nfnets.data",
    "nfnets.errors",
    "nfnets.export",
    "nfnets.layers",
    "nfnets.training",
    "nfnets.versions",
)
CONVERTERS = ("jax2onnx", "onnxruntime", "tensorflow", "flatbuffers")


@pytest.mark.parametrize("path", sorted(ROOT.glob("nfnets/export/*.py")), ids=str)
def test_export_knows_no_family_and_loads_no_converter_early(path):
    others = {n for n in own(path) if not within(n, EXPORT_MAY_USE)} - {"nfnets"}
    assert not others
    assert not {n for n in imports(path, top_level_only=True) if within(n, CONVERTERS)}


SWEEP_MAY_USE = (
    "nfnets.errors",
    "nfnets.registry",
    "nfnets.sweep",
    "nfnets.training",
    "nfnets.versions",
)


@pytest.mark.parametrize("path", sorted(ROOT.glob("nfnets/sweep/*.py")), ids=str)
def test_the_sweep_trains_by_running_the_program(path):
    others = {n for n in own(path) if not within(n, SWEEP_MAY_USE)} - {"nfnets"}
    assert not others
    # JAX would take the devices, which are for the processes that train.
    assert not {n for n in imports(path) if within(n, ("absl", "jax", "flax"))}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_only_the_sweep_uses_the_sweep(path):
    if path.parent.name != "sweep":
        assert not {n for n in own(path) if within(n, ("nfnets.sweep",))}


@pytest.mark.parametrize("path", sorted(ROOT.glob("nfnets/data/*.py")), ids=str)
def test_data_knows_no_models(path):
    allowed = ("nfnets.data", "nfnets.errors", "nfnets.versions")
    assert not {n for n in own(path) if not within(n, allowed) and n != "nfnets"}
    assert not {n for n in imports(path) if within(n, ("flax", "optax", "absl"))}


@pytest.mark.parametrize("name", FAMILIES)
def test_families_use_only_the_shared_layers(name):
    package = name.partition(".")[0]
    parts = [name, *(f"{package}.{part}" for part in PACKAGE_PARTS.get(package, ()))]
    allowed = (*MODEL_PARTS, *parts)
    for part in parts:
        path = ROOT / Path(*part.split(".")).with_suffix(".py")
        used = own(path) - {"nfnets", package}
        assert not {n for n in used if not within(n, allowed)}, part


def test_registry_is_the_only_place_that_names_families():
    """Family modules are imported by name, so strings count too.

    The tables of official parameter names are kept per family and may say which.
    """
    for path in MODULES:
        name = module_name(path)
        if name in ("nfnets.registry", *FAMILIES) or within(name, ("nfnets.weights",)):
            continue
        assert not {n for n in imports(path) if within(n, FAMILIES)}, path
        tree = ast.parse(path.read_text(encoding="utf-8"))
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
        assert not strings & set(FAMILIES), path


SEARCH_MAY_USE = (
    "effnetv2",
    "nfnets.errors",
    "nfnets.flops",
    "nfnets.initialize",
    "nfnets.registry",
    "nfnets.training",
    "nfnets.versions",
)
NETWORKS = ("__init__", "model", "blocks", "block_strings", "stage_tables")
SEARCH = [p for p in ROOT.glob("effnetv2/*.py") if p.stem not in NETWORKS]


@pytest.mark.parametrize("path", sorted(SEARCH), ids=module_name)
def test_search_trains_by_the_loop_and_makes_networks_by_name(path):
    others = {n for n in own(path) if not within(n, SEARCH_MAY_USE)} - {"nfnets"}
    assert not others
    assert not within("effnetv2.model", tuple(own(path)))
    assert not {n for n in imports(path) if within(n, ("absl", "flax", "optax"))}


@pytest.mark.parametrize("path", sorted(ROOT.glob("nfnets/**/*.py")), ids=module_name)
def test_the_core_imports_no_paper(path):
    assert not {n for n in own(path) if within(n, ("effnetv2", "resnet_rs"))}


def test_agc_imports_jax_and_optax_only():
    allowed = ("jax", "optax", "typing", "collections", "__future__")
    found = imports(ROOT / "nfnets" / "agc.py")
    assert not {n for n in found if not within(n, allowed)}


def test_scripts_and_tests_are_no_packages():
    assert not (ROOT / "tests" / "__init__.py").exists()
    assert not (ROOT / "experiments" / "__init__.py").exists()
