"""Arrays in, arrays out: compiled loops, the only package that imports Numba."""
