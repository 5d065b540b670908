"""Experiments of the paper on hidden Gaussian structure, with their figures.

Experiments on networks between memorizing and generalizing may enter.
"""
