"""The text part of Qwen3.5 with experts, saved on its own (`model_type` qwen3_5_moe_text)."""

from model.families.qwen3_5_moe import config_from_hf, ignored, layouts, rules

__all__ = ["config_from_hf", "ignored", "layouts", "rules"]
