"""A teacher of 60,000 weights with the bundled model's tokenizer."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from model.bundled_recipe.teacher.network import Llama
from model.checkpoints.hub import BUNDLED

CONFIG = LlamaConfig(
    vocab_size=7680,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    initializer_range=0.3,
)


@pytest.fixture(scope="session")
def oracle() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG)


@pytest.fixture
def network(oracle: LlamaForCausalLM) -> Llama:
    weights = {name: tensor for name, tensor in oracle.state_dict().items() if name != "lm_head.weight"}
    return Llama(CONFIG.to_dict(), weights)


@pytest.fixture(scope="session")
def checkpoint(oracle: LlamaForCausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("teacher")
    oracle.save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED / name, directory)
    return directory
