"""The published systems: what each paper printed, its protocol, and ours beside them."""
