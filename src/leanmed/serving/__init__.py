"""Answers over HTTP: `leanmed serve`."""
