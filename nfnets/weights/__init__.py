"""Import and export of weights: files, and official names of parameters."""

from nfnets.weights.channels import adapt_input_channels
from nfnets.weights.exporting import export_weights
from nfnets.weights.files import load_weights, save_weights
from nfnets.weights.haiku import convert_haiku, export_haiku
from nfnets.weights.keras import convert_keras, export_keras
from nfnets.weights.timm import convert_timm, export_timm

__all__ = [
    "adapt_input_channels",
    "convert_haiku",
    "convert_keras",
    "convert_timm",
    "export_haiku",
    "export_keras",
    "export_timm",
    "export_weights",
    "load_weights",
    "save_weights",
]
