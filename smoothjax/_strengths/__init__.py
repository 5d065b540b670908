"""How strongly a mechanism acts: the strength that fits best, how sure that is, and one that depends on the noise level.

What is known of one mechanism's strength may enter; what a network or a comparison makes of it may not.
"""
