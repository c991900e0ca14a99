"""What is copied with a checkpoint besides its weights and its config."""

from pathlib import Path

from model.loading.quantize_checkpoint import copy_companions


def test_settings_in_folders_are_copied_too(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    names = ["tokenizer.json", "1_Pooling/config.json", "additional_chat_templates/tool_use.jinja"]
    for name in (*names, "config.json", "hf_quant_config.json", "model.safetensors", "onnx/config.json"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    target.mkdir()
    copy_companions(source, target)
    assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()) == sorted(names)
