"""The plain definition of every kernel, in PyTorch: what the fast ones are tested against, and the fallback.

Nothing here is clever. Sequences are walked token by token, so results do not depend on what shares the batch. Except
for those that advance a cache, all of them are differentiable.

Shapes: T tokens, S sequences, C channels, J convolution taps, H heads, Q key heads, K key width, V value width, R rows,
N blocks, P tokens a block, G key/value heads, D head width, F feed-forward width.
"""

import torch
from torch import Tensor
from torch.nn import functional


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / rms(x) * (weight + offset) over the last dimension, in float32, returned in x's type."""
    x32 = x.float()
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return (x32 * scale * (weight.float() + offset)).to(x.dtype)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight * silu(gate) over the last dimension, in float32, returned in x's type."""
    x32 = x.float()
    scale = torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)
    return (x32 * scale * weight.float() * functional.silu(gate.float())).to(x.dtype)


def silu_mul(x_T2F: Tensor) -> Tensor:
    """silu of the first half times the second half."""
    gate, up = x_T2F.chunk(2, dim=-1)
    return functional.silu(gate) * up


def sigmoid_mul(x: Tensor, gate: Tensor) -> Tensor:
    """x * sigmoid(gate), elementwise."""
    return x * torch.sigmoid(gate)


def combine(y_TKD: Tensor, weights_TK: Tensor, shared_TD: Tensor | None, gate_T: Tensor | None) -> Tensor:
    """Gate-weighted sum of the experts' outputs, plus sigmoid(gate) times the shared expert's where there is one."""
    out_TD = (y_TKD.float() * weights_TK[..., None]).sum(1)
    if shared_TD is not None and gate_T is not None:
        out_TD = out_TD + shared_TD.float() * torch.sigmoid(gate_T)[:, None]
    return out_TD.to(y_TKD.dtype)


def delta_gates(a_TH: Tensor, b_TH: Tensor, A_log_H: Tensor, dt_bias_H: Tensor) -> tuple[Tensor, Tensor]:
    """Log decay -e^A_log softplus(a + dt_bias) and write strength sigmoid(b), both float32 [T, H]."""
    log_decay_TH = -A_log_H.float().exp() * functional.softplus(a_TH.float() + dt_bias_H.float())
    return log_decay_TH, torch.sigmoid(b_TH.float())


def short_conv(x_TC: Tensor, weight_CJ: Tensor, state_RJC: Tensor, rows_S: Tensor, starts_S1: Tensor) -> Tensor:
    """Causal depthwise convolution and SiLU; advances the last J - 1 inputs kept in `state_RJC` (oldest first)."""
    out_TC = torch.empty_like(x_TC)
    for row, start, end in _spans(rows_S, starts_S1):
        window = torch.cat([state_RJC[row], x_TC[start:end].float()])
        taps = window.unfold(0, weight_CJ.shape[1], 1)
        out_TC[start:end] = functional.silu((taps * weight_CJ.float()).sum(-1)).to(x_TC.dtype)
        state_RJC[row] = window[end - start :]
    return out_TC


def short_conv_train(x_BLC: Tensor, weight_CJ: Tensor) -> Tensor:
    """The same convolution and SiLU over whole rows that start from nothing: differentiable."""
    channels, taps = weight_CJ.shape
    padded_BCL = functional.pad(x_BLC.transpose(1, 2), (taps - 1, 0))
    y_BCL = functional.conv1d(padded_BCL, weight_CJ[:, None].to(x_BLC.dtype), groups=channels)
    return functional.silu(y_BCL.transpose(1, 2))


def normalize(x: Tensor) -> Tensor:
    """Unit length over the last dimension, as the delta rule wants its queries and keys, in float32."""
    x32 = x.float()
    return x32 * torch.rsqrt(x32.square().sum(-1, keepdim=True) + 1e-6)


def delta_rule(
    q_TQK: Tensor,
    k_TQK: Tensor,
    v_THV: Tensor,
    log_decay_TH: Tensor,
    beta_TH: Tensor,
    state_RHKV: Tensor,
    rows_S: Tensor,
    starts_S1: Tensor,
) -> Tensor:
    """The gated delta rule (arXiv 2412.06464), one token after another; advances `state_RHKV`. Returns o_THV.

    S <- e^g S;  u = beta (v - S^T k);  S <- S + k u^T;  o = S^T q / sqrt(K), with q and k of unit length.
    """
    groups = v_THV.shape[1] // q_TQK.shape[1]
    q = (normalize(q_TQK) * q_TQK.shape[-1] ** -0.5).repeat_interleave(groups, dim=1)
    k = normalize(k_TQK).repeat_interleave(groups, dim=1)
    out_THV = torch.empty_like(v_THV)
    for row, start, end in _spans(rows_S, starts_S1):
        S_HKV = state_RHKV[row].clone()
        for t in range(start, end):
            S_HKV = S_HKV * log_decay_TH[t].exp()[:, None, None]
            u_HV = beta_TH[t, :, None] * (v_THV[t].float() - torch.einsum("hkv,hk->hv", S_HKV, k[t]))
            S_HKV = S_HKV + k[t, :, :, None] * u_HV[:, None, :]
            out_THV[t] = torch.einsum("hkv,hk->hv", S_HKV, q[t]).to(v_THV.dtype)
        state_RHKV[row] = S_HKV
    return out_THV


def delta_rule_train(
    q_BLHK: Tensor, k_BLHK: Tensor, v_BLHV: Tensor, log_decay_BLH: Tensor, beta_BLH: Tensor, chunk: int = 32
) -> Tensor:
    """The same rule over whole rows from a zero state, as matrix products over chunks: differentiable. Returns o_BLHV.

    Within a chunk (G: running sum of log decays) the writes u solve (I + A) u = beta (v - decayed S^T k) with A
    strictly lower triangular; its inverse is (I - A)(I + A^2)(I + A^4)... because A is nilpotent.
    """
    length = q_BLHK.shape[1]
    pad = -length % chunk

    def chunks(x: Tensor) -> Tensor:  # [B, L, H, ...] -> [B, H, n, chunk, ...], padded with no-op tokens
        x = functional.pad(x.float(), (0, 0) * (x.dim() - 2) + (0, pad)).transpose(1, 2)
        return x.unflatten(2, (-1, chunk))

    q = chunks(normalize(q_BLHK) * q_BLHK.shape[-1] ** -0.5)
    k, v = chunks(normalize(k_BLHK)), chunks(v_BLHV)
    G = chunks(log_decay_BLH).cumsum(-1)
    beta = chunks(beta_BLH)[..., None]
    future = torch.ones(chunk, chunk, dtype=torch.bool, device=q.device).triu(1)
    decay = (G[..., :, None] - G[..., None, :]).masked_fill(future, float("-inf")).exp()
    A = ((k @ k.transpose(-1, -2)) * decay * beta).tril(-1)
    inverse, power = torch.eye(chunk, device=q.device) - A, A
    for _ in range((chunk - 1).bit_length() - 1):
        power = power @ power
        inverse = inverse + inverse @ power
    grown = G.exp()[..., None]
    U, K_in = inverse @ (beta * v), inverse @ (beta * grown * k)
    inside = (q @ k.transpose(-1, -2)) * decay
    k_out = k * (G[..., -1:] - G).exp()[..., None]
    S = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    outs = []
    for n in range(q.shape[2]):
        u = U[:, :, n] - K_in[:, :, n] @ S
        outs.append((q * grown)[:, :, n] @ S + inside[:, :, n] @ u)
        S = S * grown[:, :, n, -1:] + k_out[:, :, n].transpose(-1, -2) @ u
    out = torch.stack(outs, 2).flatten(2, 3)[:, :, :length]
    return out.transpose(1, 2).to(v_BLHV.dtype)


def softmax_gradient(logits_RV: Tensor, targets_R: Tensor, weights_R: Tensor) -> tuple[Tensor, Tensor]:
    """-log p(target) per row, float32 [R], and weight * (softmax - one-hot), which may overwrite the logits."""
    log_p_RV = logits_RV.float().log_softmax(-1)
    losses_R = -log_p_RV.gather(1, targets_R[:, None]).squeeze(1)
    gradient_RV = log_p_RV.exp()
    gradient_RV.scatter_add_(1, targets_R[:, None], gradient_RV.new_full((len(targets_R), 1), -1.0))
    return losses_R, (gradient_RV * weights_R[:, None]).to(logits_RV.dtype)


def store_kv(
    k_TGD: Tensor,
    v_TGD: Tensor,
    keys_NPGD: Tensor,
    values_NPGD: Tensor,
    positions_T: Tensor,
    starts_S1: Tensor,
    block_table_SB: Tensor,
) -> None:
    """Write every token's key and value to its place in the paged cache."""
    block_size = keys_NPGD.shape[1]
    counts = (starts_S1[1:] - starts_S1[:-1]).long()
    owner_T = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    blocks_T = block_table_SB[owner_T, positions_T // block_size].long()
    keys_NPGD[blocks_T, positions_T % block_size] = k_TGD
    values_NPGD[blocks_T, positions_T % block_size] = v_TGD


def paged_attention(
    q_THD: Tensor,
    keys_NPGD: Tensor,
    values_NPGD: Tensor,
    positions_T: Tensor,
    starts_S1: Tensor,
    block_table_SB: Tensor,
) -> Tensor:
    """Softmax attention of every token over its own sequence up to itself, in float32. Returns o_THD."""
    groups = q_THD.shape[1] // keys_NPGD.shape[2]
    out_THD = torch.empty_like(q_THD)
    sequences = torch.arange(len(block_table_SB))
    for sequence, start, end in _spans(sequences, starts_S1):
        blocks = block_table_SB[sequence].long()
        for t in range(start, end):
            count = int(positions_T[t]) + 1
            used = blocks[: -(-count // keys_NPGD.shape[1])]
            keys = keys_NPGD[used].flatten(0, 1)[:count].float().repeat_interleave(groups, dim=1)
            values = values_NPGD[used].flatten(0, 1)[:count].float().repeat_interleave(groups, dim=1)
            scores = torch.einsum("hd,phd->hp", q_THD[t].float() * q_THD.shape[-1] ** -0.5, keys)
            out_THD[t] = torch.einsum("hp,phd->hd", scores.softmax(-1), values).to(q_THD.dtype)
    return out_THD


def _spans(rows_S: Tensor, starts_S1: Tensor) -> list[tuple[int, int, int]]:
    """(row, first token, end) of every sequence."""
    starts = starts_S1.tolist()
    return list(zip(rows_S.tolist(), starts[:-1], starts[1:], strict=True))
