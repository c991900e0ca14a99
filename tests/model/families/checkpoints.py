"""Tiny random checkpoints of every family, written by transformers and loaded by us.

A case is a config.json in `tiny/`; a new one joins all tests of the families by its file alone. Run as a program, with
the name of a case or a checkpoint directory, this file lists the tensors and our parameters.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from model.checkpoints.safetensors_files import named_tensors, open_checkpoint, read_config
from model.families import family_of, supported
from model.network import CausalLM
from tests.model.loading.plain_loading import load_weights

TINY = Path(__file__).parent / "tiny"
CASES = sorted(path.stem for path in TINY.glob("*.json"))
# what starts as a constant in a fresh model, and would hide that it is not read
_CONSTANT_AT_FIRST = re.compile(r"norm|A_log|dt_bias|bias|sinks|\.D$")
_ROUTER = re.compile(r"Router|Gating|V1Gate")


@dataclass(frozen=True, slots=True)
class Pair:
    """One checkpoint twice: as transformers computes it, in float32, and where it lies on disk."""

    theirs: nn.Module
    directory: Path

    def ours(self) -> CausalLM:
        """Loaded anew, plain and in float32."""
        hf_config = read_config(self.directory)
        family = family_of(hf_config)
        network = CausalLM(family.config_from_hf(hf_config))
        if network.config.tie_word_embeddings:
            network.tie_head()
        load_weights(network, family.rules(network.config), self.directory)
        return network.requires_grad_(False).eval()

    @torch.no_grad()
    def logits(self, ids_BL: Tensor) -> Tensor:
        """What transformers says: [B, L, V]."""
        logits: Tensor = self.theirs(ids_BL, use_cache=False).logits
        return logits

    @torch.no_grad()
    def routings(self, ids_L: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Inputs [T, D], gate weights [T, K] and expert ids [T, K] of every router that transformers ran, in order."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []

        def keep(module: nn.Module, inputs: Any, outputs: tuple[Tensor, Tensor, Tensor]) -> None:
            found.append((inputs[0].flatten(0, -2), outputs[1], outputs[2]))

        routers = [module for module in self.theirs.modules() if _ROUTER.search(type(module).__name__)]
        hooks = [router.register_forward_hook(keep) for router in routers]
        self.theirs(ids_L[None], use_cache=False)
        for hook in hooks:
            hook.remove()
        return found


def model_type(case: str) -> str:
    """The family a case belongs to."""
    found: str = json.loads((TINY / f"{case}.json").read_text())["model_type"]
    return found


def write_checkpoint(case: str, directory: Path, **changes: Any) -> Pair:
    """A random model of that shape, saved by transformers. `changes`: other settings than those of the case."""
    torch.manual_seed(0)
    config = json.loads((TINY / f"{case}.json").read_text()) | changes
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).float().eval()
    for name, tensor in (*theirs.named_parameters(), *theirs.named_buffers()):
        if _CONSTANT_AT_FIRST.search(name) and tensor.is_floating_point():
            tensor.data.add_(torch.randn_like(tensor) * 0.1)
        elif tensor.dim() > 1:
            tensor.data.mul_(4)  # so that contexts matter
    theirs.save_pretrained(directory)
    return Pair(theirs, directory)


def described(directory: Path) -> str:
    """The tensors of a checkpoint and, once its family can read the config, our parameters."""
    reader, hf_config = open_checkpoint(directory), read_config(directory)
    theirs = _listed({name: reader.header(name).shape for name in sorted(reader.names())})
    if hf_config["model_type"] not in supported():
        return theirs
    with torch.device("meta"):
        network = CausalLM(family_of(hf_config).config_from_hf(hf_config))
    return f"{theirs}\n\n{_listed({name: tensor.shape for name, tensor in named_tensors(network).items()})}"


def _listed(shapes: Mapping[str, Sequence[int]]) -> str:
    """A line for each, with N for the numbers of layers and experts."""
    numbered = {re.sub(r"\.\d+\.", ".N.", name): list(shape) for name, shape in shapes.items()}
    return "\n".join(f"{name}  {shape}" for name, shape in numbered.items())


def main(case_or_directory: str) -> None:
    if Path(case_or_directory).is_dir():
        print(described(Path(case_or_directory)))
        return
    with TemporaryDirectory() as directory:
        write_checkpoint(case_or_directory, Path(directory))
        print(described(Path(directory)))


if __name__ == "__main__":
    main(sys.argv[1])
