"""Weights as few bytes: entropy coding, and the packed file `.esm` with its reader."""
