"""Where things are, pixel by pixel: one mask for each image."""
