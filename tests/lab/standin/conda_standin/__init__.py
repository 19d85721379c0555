"""A small stand-in for conda over py-rattler, for tests where no real conda is to be had.

It offers the commands that a manager of shared environments and its users need, and answers them as conda 26.7.1 does:
same exit codes, same JSON, same files on disk. It is not conda, and says so.
"""

VERSION = "26.7.1+lab.0"
"""The conda whose behaviour is kept, and the release of the stand-in."""
