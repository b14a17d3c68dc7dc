"""Train steps, measured beside each other, timm's, and the input pipeline."""
