"""The posterior over a finite set of points: the set, logits, anchors, passes over it, and merging of parts.

What computes posterior sums for more than one family of denoisers may enter.
"""
