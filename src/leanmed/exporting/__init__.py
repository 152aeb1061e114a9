"""From a run folder to an artifact: the graph, checked against the model, and the card."""
