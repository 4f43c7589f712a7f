"""Nothing of these tests is imported before this."""

import __main__

# DuckDB takes a process whose main module has no file, like a worker of xdist's, for a notebook: it
# would print there how far a query is that takes two seconds.
if not hasattr(__main__, "__file__"):
    __main__.__file__ = __file__
