"""ResNet-RS and ResNet strikes back: ResNets, RegNets, transformers."""
