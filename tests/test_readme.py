"""What README says can be loaded is what can be loaded."""

import re
from pathlib import Path

from model.checkpoints.gguf.config import CONFIGS
from model.checkpoints.gguf.ggml_types import TYPES
from model.families import supported
from model.quantization.formats import FORMATS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
SAME_AS_ANOTHER = {"qwen3_5_moe_text"}  # the text part of a family that is named
SPOKEN = {
    "compressed-tensors": "compressed-tensors (integers, FP8, MXFP8, MXFP4 and NVFP4)",
    "modelopt": "modelopt (FP8, MXFP8, NVFP4 and mixtures of them)",
    "bitsandbytes": "bitsandbytes (nf4, fp4, int8)",
    "torchao": "torchao (int4, int8, FP8)",
}


def test_the_table_has_every_family() -> None:
    table = README.partition("| kind | families |\n|---|---|\n")[2].partition("\n\n")[0]
    cells = [row.split("|")[2] for row in table.splitlines()]
    named = {re.sub(r"\(.*?\)", "", name).strip() for cell in cells for name in cell.split(", ")}
    assert named == set(supported()) - SAME_AS_ANOTHER


def test_every_stored_form_is_named() -> None:
    prose = " ".join(README.split())
    for name in FORMATS:
        assert SPOKEN.get(name, name).lower() in prose.lower(), name


def test_gguf_files_are_read_as_far_as_it_says() -> None:
    prose = " ".join(README.split())
    architectures = prose.partition("GGUF files of the architectures ")[2].partition(", with weights")[0]
    named = re.sub(r"\(.*?\)", "", architectures.replace(" and ", ", ")).split(",")
    assert {name.strip() for name in named} == CONFIGS.keys()
    types = prose.partition("with weights of the types ")[2].partition(". ")[0]
    assert set(types.replace(" and ", ", ").split(", ")) == {kind.name for kind in TYPES.values()}
