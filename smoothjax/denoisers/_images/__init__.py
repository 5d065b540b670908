"""Denoisers of images: by patches, by position and anywhere, composites, and masks of Fourier modes.

What knows of pixels may enter.
"""
