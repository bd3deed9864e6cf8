"""Federations on one machine, before anybody commits: which topology, groups, privacy and rounds will do."""
