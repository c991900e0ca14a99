"""Granite MoE with a shared expert (`model_type` granitemoeshared): its config has a `shared_intermediate_size`."""

from model.families.granitemoe import config_from_hf, rules

__all__ = ["config_from_hf", "rules"]
