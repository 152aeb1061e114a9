"""Where objects of one kind are: boxes with scores."""
