"""Measurements. Nothing imports them; each writes a JSON file with the machine, the commit and the command."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `routelm` does, see server/cli.py
