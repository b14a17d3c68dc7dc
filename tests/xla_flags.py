"""Flags of the compiler for tests, which compile a lot; imports nothing."""

# Without most of its optimizations.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)


def devices(count: int) -> str:
    """Flags for so many CPU devices in a process, and quick compiling."""
    return f"--xla_force_host_platform_device_count={count} {QUICK}"
