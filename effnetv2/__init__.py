"""EfficientNetV2 (Tan and Le 2021, 2104.00298) and EfficientNet (2019, 1905.11946)."""
