"""What a mask is pointed at: points or a box say which object of an image is marked."""
