"""The lab: nodes in containers, a conda channel and its installers, all made on this machine and served to the nodes.

Run as ``python -m lab`` with ``tests`` on ``PYTHONPATH``; ``python -m lab --help`` lists the commands.
"""
