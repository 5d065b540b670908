"""The number of this release, in this one place: the build, the package, the command and the site read it here."""

__version__ = "0.1.0"
