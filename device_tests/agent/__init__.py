"""The only code that runs on a board: Python 3.6 syntax, standard library, numpy, one runtime."""
