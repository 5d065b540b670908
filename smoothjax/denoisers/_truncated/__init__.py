"""The certified sum over few points: candidates, screens, plans, trees, and the bounds of what is left out.

What decides which points are summed, and certifies the rest, may enter.
"""
