"""Experiments of the paper on score smoothing, with their figures.

Experiments on points of a line and on networks that smooth may enter.
"""
