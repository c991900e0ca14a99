"""Grammars: compiled by llguidance, kept by one sequence as the mask of its next token."""
