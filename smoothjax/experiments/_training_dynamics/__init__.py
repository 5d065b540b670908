"""Experiments on training time: the order in which modes are learned, and how long memorisation takes.
An experiment enters here with its figure beside it."""
