"""Video Swin Transformer in plain PyTorch: normalized clips in, logits out."""
