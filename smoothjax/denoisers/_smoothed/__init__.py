"""Denoisers of smoothed scores: tempered, averaged over boxes and Gaussians, piecewise linear, blind to the noise level.

What smooths a posterior over points, and the sums that it needs, may enter.
"""
