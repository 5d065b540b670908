"""Which mechanism explains a trained network, with its figure.

What fits or scores mechanisms against a network may enter.
"""
