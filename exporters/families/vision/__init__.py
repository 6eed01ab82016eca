"""Image encoders of transformers, timm and torchvision."""
