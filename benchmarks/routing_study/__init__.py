"""Routing algorithms compared on equal terms: a study of small training runs, its measures, table and pictures."""
