"""Size, speed, start and memory of artifacts, beside PyTorch on the same pixels."""
