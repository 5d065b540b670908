"""Denoisers of a training set as it is: in memory, over devices, from a file, padded.

What changes the law of the data may not enter.
"""
