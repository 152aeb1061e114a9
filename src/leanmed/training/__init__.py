"""From a recipe and a data folder to a run folder: folds, batches, the loop."""
