"""Import and export of weights: official parameter names to ours, and back."""

from nfnets.weights.haiku import convert_haiku, export_haiku

__all__ = ["convert_haiku", "export_haiku"]
