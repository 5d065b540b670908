"""Files written whole or not at all, and read without trusting them.

What knows of bytes may enter, what knows of results may not.
"""
