"""Experiments of the paper on generalization through variance, with their figures.

Experiments on models that are trained many times may enter.
"""
