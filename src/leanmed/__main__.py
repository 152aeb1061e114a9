"""`python -m leanmed`, which torchrun starts."""

from leanmed.cli import main

main()
