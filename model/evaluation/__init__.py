"""Evaluation: how good a model is at its tasks, with intervals, and next to each score what no model is needed for."""
