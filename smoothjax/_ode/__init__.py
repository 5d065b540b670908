"""Steps of ordinary differential equations: the linear part exactly, tolerances, and what came of a solve.

What more than one package integrates with may enter.
"""
