"""NFNets and the core that every paper of this project shares.

Nothing is imported here, so that ``import nfnets.agc`` needs only jax and optax.
"""

__version__ = "0.1.0"
