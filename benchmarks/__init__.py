"""Measurements. Nothing imports them; each writes a JSON file with the machine, the commit and the command."""
