"""Everything a clinic needs to predict: numpy, ONNX Runtime, Pillow and pydicom, never torch."""
