"""Import and export of weights: files, and official names of parameters."""

from nfnets.weights.files import load_weights, save_weights
from nfnets.weights.haiku import convert_haiku, export_haiku

__all__ = ["convert_haiku", "export_haiku", "load_weights", "save_weights"]
