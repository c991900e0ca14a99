"""Everyday talk from templates: persona, refusals, small talk, longer talks, exercises with computed answers."""
