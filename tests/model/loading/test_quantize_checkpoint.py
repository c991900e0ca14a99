"""What `routelm quantize` keeps of a checkpoint besides its weights."""

from pathlib import Path

from model.loading.load import load_network
from model.loading.pooling import Pooling
from model.loading.quantize_checkpoint import quantize_checkpoint
from model.quantization import SCHEMES
from tests.server.embedding_checkpoint import write_embedding_checkpoint


def test_an_embedding_model_stays_one(tmp_path: Path) -> None:
    write_embedding_checkpoint(tmp_path / "source")
    quantize_checkpoint(tmp_path / "source", tmp_path / "target", SCHEMES["int8"])
    kept = Pooling.load(tmp_path / "target")
    assert kept == Pooling.load(tmp_path / "source")
    assert kept is not None
    assert kept.type == "lasttoken"
    assert load_network(tmp_path / "target").config.tie_word_embeddings
