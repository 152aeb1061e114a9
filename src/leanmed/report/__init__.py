"""An evaluation as a page: plots, pictures, words and tables that every kind of task shares."""
