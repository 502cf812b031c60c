"""One file per claim; run as `python -m experiments.<name>`."""
