"""Untrusted files to pixels and volumes: the only door through which data enter."""
