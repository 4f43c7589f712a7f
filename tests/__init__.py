"""Runs before any test module is imported."""

import __main__

# DuckDB takes a process whose main module has no file for a notebook. xdist's workers are such
# processes, and DuckDB would print a progress bar for queries over two seconds.
if not hasattr(__main__, "__file__"):
    __main__.__file__ = __file__
