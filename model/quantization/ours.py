"""The checkpoint format of `routelm quantize`: quantized matrices under our own parameter names.

The safetensors files have, for each module `name` of the network,

    name.values, name.scales    the codes of a quantized matrix (codes.Codes), of all experts in one tensor
    name.weight                 a matrix that is not quantized
    name.bias                   its bias, if it has one
    and every other parameter under its own name.

The files do not depend on the processor, because matrices are packed when they are loaded. config.json has
{"quant_method": "routelm", "scheme": ...}; the other files are copies from the original checkpoint.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model.checkpoints.safetensors_files import CheckpointError, CheckpointReader
from model.kernels.matmul.codes import GROUP_SIZE, Codes
from model.layers.linear import GroupedLinear, Linear
from model.quantization import plain
from model.quantization.scheme import frozen_grouped, frozen_linear

METHOD = "routelm"
VERSION = 1


def settings(scheme_name: str) -> dict[str, Any]:
    """The `quantization_config` to write."""
    return {"quant_method": METHOD, "version": VERSION, "scheme": scheme_name}


def scheme_name(hf_config: Mapping[str, Any]) -> str | None:
    """The scheme of a checkpoint in this format, None for any other checkpoint.

    Raises CheckpointError if another version of this program wrote it.
    """
    found = hf_config.get("quantization_config") or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"quantization_config is {found!r}: an object is expected")
    if found.get("quant_method") != METHOD:
        return None
    if found.get("version") != VERSION:
        raise CheckpointError(
            f"quantization_config says version {found.get('version')!r}, this program reads {VERSION}: "
            "quantize the original checkpoint again with `routelm quantize`"
        )
    if not isinstance(found.get("scheme"), str):
        raise CheckpointError(
            "quantization_config has no scheme: quantize the original checkpoint again with `routelm quantize`"
        )
    return str(found["scheme"])


def code_tensors(codes: Codes) -> dict[str, Tensor]:
    """The tensors to store, by the last part of their names."""
    if codes.scales is None:
        return {"weight": codes.values}
    return codes.tensors()


def load_weights(network: nn.Module, reader: CheckpointReader) -> None:
    """Load all weights into a network on the device "meta", and pack its matrices.

    Raises CheckpointError for a missing or unexpected tensor or a wrong shape, before anything is read.
    """
    matrices = {name: m for name, m in network.named_modules() if isinstance(m, Linear | GroupedLinear)}
    others = _others(network, matrices)
    _check(reader, matrices, others)
    for name, module in matrices.items():
        network.set_submodule(name, _frozen(reader, name, module))
    for name, tensor in others.items():
        owner, _, leaf = name.rpartition(".")
        read = reader.get(name).to(tensor.dtype)
        is_parameter = isinstance(tensor, nn.Parameter)
        setattr(network.get_submodule(owner), leaf, nn.Parameter(read, requires_grad=False) if is_parameter else read)


def _others(network: nn.Module, matrices: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers that are not part of a matrix."""
    everything = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers())
    stored = network.state_dict().keys()
    return {name: t for name, t in everything.items() if name in stored and name.rpartition(".")[0] not in matrices}


def _check(reader: CheckpointReader, matrices: Mapping[str, Linear | GroupedLinear], others: dict[str, Tensor]) -> None:
    there = set(reader.names())
    wanted = {name: tuple(tensor.shape) for name, tensor in others.items()}
    for name, module in matrices.items():
        wanted |= _shapes(name, module, there, reader)
    for name, shape in wanted.items():
        if name not in there:
            raise CheckpointError(f"tensor {name} is missing from the checkpoint")
        if reader.header(name).shape != shape:
            raise CheckpointError(f"tensor {name} has shape {reader.header(name).shape} where {shape} is expected")
    for name in sorted(there - wanted.keys()):
        raise CheckpointError(f"the checkpoint has a tensor that this model does not: {name}")


def _shapes(
    name: str, module: Linear | GroupedLinear, there: set[str], reader: CheckpointReader
) -> dict[str, tuple[int, ...]]:
    """The expected shapes of the tensors of a matrix."""
    *outer, inputs = module.weight.shape
    shapes = {f"{name}.weight": (*outer, inputs)}
    if f"{name}.values" in there:
        dtype = reader.header(f"{name}.values").dtype
        if dtype not in (torch.int8, torch.uint8):
            raise CheckpointError(f"tensor {name}.values has type {dtype} where codes (int8 or uint8) are expected")
        by_group = f"{name}.scales" in there and len(reader.header(f"{name}.scales").shape) > len(outer)
        shapes = {f"{name}.values": (*outer, inputs), f"{name}.scales": (*outer,)}
        if dtype == torch.uint8:
            shapes[f"{name}.values"] = (*outer, inputs // 2)
        if dtype == torch.uint8 or by_group:
            shapes[f"{name}.scales"] = (*outer, inputs // GROUP_SIZE)
    if module.bias is not None:
        shapes[f"{name}.bias"] = tuple(module.bias.shape)
    return shapes


def _frozen(reader: CheckpointReader, name: str, module: Linear | GroupedLinear) -> nn.Module:
    dtype = module.weight.dtype
    bias = None if module.bias is None else reader.get(f"{name}.bias").to(module.bias.dtype)
    if f"{name}.values" in reader.names():
        codes = Codes(reader.get(f"{name}.values"), reader.get(f"{name}.scales"))
    else:
        codes = plain.keep(reader.get(f"{name}.weight").to(dtype))
    freeze = frozen_linear if isinstance(module, Linear) else frozen_grouped
    return freeze(codes, bias)
