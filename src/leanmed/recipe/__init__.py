"""The recipe: what may be chosen before a training, checked before anything starts."""
