"""Denoisers of Gaussians and of mixtures of them, in closed form.

Laws with finitely many Gaussian components may enter.
"""
