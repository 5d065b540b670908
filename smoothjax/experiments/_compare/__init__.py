"""The comparison of mechanisms on one training set, part by part.

What measures any denoiser belongs to `smoothjax.measures` instead.
"""
