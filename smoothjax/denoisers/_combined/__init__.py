"""Denoisers made of others: switched and scheduled by the noise level, guided, rescaled, on a line.

A law of its own may not enter.
"""
