"""What JAX lacks: branches, blocks, derivatives and reductions under `vmap`, precision, compilation, errors of the host.

Nothing of denoisers or noise may enter.
"""
