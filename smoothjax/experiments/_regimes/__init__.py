"""When models memorise and when they commit, on the user's data.

Experiments that put quantities of `smoothjax.regimes` side by side may enter, each with its figure beside it.
"""
