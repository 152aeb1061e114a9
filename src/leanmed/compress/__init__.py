"""Techniques that make a trained model smaller, each in one of three shapes, and none knowing the task.

model -> model, task -> task, and here artifact -> artifact: `quantize` (FP16, INT8, INT4).
"""
