"""The kinds of question leanmed asks of an image: one folder for each."""
