"""The commands of the shell: options in, functions of the library called, files out.

Parsing and printing may enter, computing may not.
"""
