"""Prediction: artifacts, answers for one image, for many files, and the lines they are kept in. No torch."""
