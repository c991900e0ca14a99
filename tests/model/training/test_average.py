"""The mean of models."""

from pathlib import Path

import pytest
import torch

from model.config import hybrid_config
from model.files import read_object
from model.loading.load import load_network
from model.network import CausalLM
from model.training.export import average, export
from tests.model.families.checkpoints import write_checkpoint
from tests.model.training.conftest import BUNDLED


def finished_model(directory: Path, seed: int, width: int = 64) -> Path:
    torch.manual_seed(seed)
    network = CausalLM(hybrid_config(hidden_size=width, num_layers=4, num_heads=2, num_kv_heads=1, num_experts=4))
    network.tie_head()
    return export(network, BUNDLED, directory)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return dict(load_network(directory, torch.float32, freeze=False).named_parameters())


def test_the_mean_weighs_each_model_as_often_as_it_stands(tmp_path: Path) -> None:
    a, b = (finished_model(tmp_path / str(seed), seed) for seed in (1, 2))
    mean = weights(average([a, a, b], tmp_path / "mean"))
    of_a, of_b = weights(a), weights(b)
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (2 * of_a[name] + of_b[name]) / 3, atol=4e-3, rtol=2**-7)  # bfloat16
    assert any(not torch.allclose(tensor, of_a[name], atol=1e-2) for name, tensor in mean.items())


def test_what_describes_the_first_model_describes_the_mean(tmp_path: Path) -> None:
    """Not our settings: the models may be those of others."""
    first, second = (write_checkpoint("qwen3_next", tmp_path / name, eos_token_id=7).directory for name in "ab")
    (first / "generation_config.json").write_text('{"eos_token_id": [7, 5], "temperature": 0.9}')
    for name in ("tokenizer.json", "chat_template.jinja", "quality.json"):
        (first / name).write_text("{}")
    mean = average([first, second], tmp_path / "mean")
    assert read_object(mean / "generation_config.json") == {"eos_token_id": [7, 5], "temperature": 0.9}
    assert read_object(mean / "config.json")["eos_token_id"] == 7
    copied = {path.name for path in mean.iterdir()}
    assert copied >= {"tokenizer.json", "chat_template.jinja"}
    assert "quality.json" not in copied


def test_one_model_or_models_of_two_networks_are_refused(tmp_path: Path) -> None:
    small, large = finished_model(tmp_path / "small", 1), finished_model(tmp_path / "large", 1, width=128)
    with pytest.raises(ValueError, match="two models or more"):
        average([small], tmp_path / "mean")
    with pytest.raises(ValueError, match="another network"):
        average([small, large], tmp_path / "mean")


def test_the_files_of_something_else_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [finished_model(tmp_path / name, 1) for name in "ab"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path} holds other files than those of a model: name a new directory"):
        average(models, Path())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    average(models, average(models, tmp_path / "mean"))  # an older mean is replaced


def test_a_network_that_cannot_be_written_is_refused_in_a_sentence(tmp_path: Path) -> None:
    write_checkpoint("qwen2_moe", tmp_path)
    with pytest.raises(ValueError, match="qwen3_next wants"):
        average([tmp_path, tmp_path], tmp_path / "mean")
