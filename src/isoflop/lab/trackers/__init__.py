"""Trackers of others that runs are shown in: a file each, named as ``--track`` names it; see ``lab.tracking``."""
