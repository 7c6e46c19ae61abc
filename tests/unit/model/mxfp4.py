"""gpt-oss checkpoints in MXFP4, and its kernels as plain formulas on the CPU.

Axes: E experts, T tokens, K top_k; blocks are of 32 values along d_in.
"""

import json
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tiny_moe import tiny_network
from transformers.integrations import hub_kernels
from transformers.integrations import mxfp4 as integration
from transformers.quantizers import quantizer_mxfp4

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def packed_fp4(rng: np.random.Generator, n_experts: int, d_out: int, d_in: int):
    """Return random MXFP4 blocks and scales (OCP Microscaling 1.0), and what they stand for."""
    blocks = rng.integers(0, 256, (n_experts, d_out, d_in // 32, 16), dtype=np.uint8)
    scales = rng.integers(120, 124, (n_experts, d_out, d_in // 32), dtype=np.uint8)
    return blocks, scales, unpacked(blocks, scales).swapaxes(1, 2)


def unpacked(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the values (E, d_out, d_in) of blocks (E, d_out, d_in / 32, 16)."""
    codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:3], 32)
    values = FP4[codes] * 2.0 ** (scales[..., None].astype(np.float32) - 127)
    return values.reshape(*blocks.shape[:2], -1)


def save_mxfp4(folder, **changes) -> dict[str, np.ndarray]:
    """Write a tiny gpt-oss in MXFP4 to `folder`; return its experts' weights by name."""
    rng = np.random.default_rng(0)
    tiny_network("gpt_oss", intermediate_size=32, **changes).save_pretrained(folder)
    tensors, expected = load_file(folder / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith("_proj")]:
        n_experts, d_in, d_out = tensors.pop(name).shape
        blocks, scales, expected[name] = packed_fp4(rng, n_experts, d_out, d_in)
        tensors[f"{name}_blocks"] = torch.from_numpy(blocks)
        tensors[f"{name}_scales"] = torch.from_numpy(scales)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    raw = json.loads((folder / "config.json").read_text())
    raw["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    (folder / "config.json").write_text(json.dumps(raw))
    return expected


class Packed:
    """Stands for a tensor of the kernels: 4-bit weights (E, d_out, d_in / 2) and their scales."""

    def __init__(self, blocks: torch.Tensor, scales: torch.Tensor):
        self.shape = blocks.shape
        n_experts, d_out = scales.shape[:2]
        blocks_EOB = blocks.reshape(n_experts, d_out, -1, 16).numpy()
        self.values = torch.from_numpy(unpacked(blocks_EOB, scales.numpy())).transpose(1, 2)


def _matmul(x, weight, bias, routing, *, gammas=None, fused_activation=None, **index):
    """Multiply each row by its expert; gather tokens before, or weigh and add them up after."""
    gather, scatter = index.get("gather_indx"), index.get("scatter_indx")
    slots = (gather.src_indx if gather else scatter.dst_indx).long()  # sorted by expert
    tokens = slots // routing.n_top_k
    rows = (x[tokens] if gather else x).split(routing.hist.int().tolist())
    out = torch.cat([part @ weight.values[e] + bias[e] for e, part in enumerate(rows)])
    if fused_activation:
        return fused_activation(out)
    weighed = out * gammas[:, None]
    return weighed.new_zeros(int(tokens.max()) + 1, out.shape[-1]).index_add_(0, tokens, weighed)


def _swiglu(alpha: float, limit: float):
    def activate(x):
        gate, up = x[:, ::2].clamp(max=limit), x[:, 1::2].clamp(-limit, limit)
        return (up + 1) * gate * torch.sigmoid(alpha * gate)

    return activate


def _fused_routing(logits, top_k):
    """Route inside of the block, where no router is called."""
    top, ids = logits.topk(top_k, -1)
    return integration.routing_from_top_k(ids, top.softmax(-1), logits.shape[-1])


HUB = SimpleNamespace(
    matmul_ogs=SimpleNamespace(
        matmul_ogs=_matmul,
        FnSpecs=lambda *args: None,
        FusedActivation=lambda specs, arguments, step: _swiglu(*arguments),
        PrecisionConfig=SimpleNamespace,
        FlexCtx=SimpleNamespace,
        InFlexData=SimpleNamespace,
    ),
    routing=SimpleNamespace(
        GatherIndx=SimpleNamespace,
        ScatterIndx=SimpleNamespace,
        RoutingData=lambda gates, hist, n_experts, n_top_k, data: SimpleNamespace(
            gate_scal=gates, hist=hist, n_top_k=n_top_k
        ),
        compute_expt_data_torch=lambda *args: None,
        routing=_fused_routing,
    ),
    swiglu=SimpleNamespace(swiglu_fn=None),
)


def stub_kernels(monkeypatch) -> None:
    """Have transformers take HUB for the kernels of the Hub, and the CPU for a GPU."""
    monkeypatch.setattr(hub_kernels, "get_kernel", lambda *args, **kwargs: HUB)
    monkeypatch.setattr(integration, "triton_kernels_hub", HUB, raising=False)
    monkeypatch.setattr(
        integration,
        "swizzle_mxfp4",
        lambda blocks, scales, hub: (Packed(blocks.mT, scales.mT), None),
    )
    histc = torch.histc  # of integers, on GPUs alone
    monkeypatch.setattr(torch, "histc", lambda x, **kwargs: histc(x.float(), **kwargs))
    quantizer = quantizer_mxfp4.Mxfp4HfQuantizer
    monkeypatch.setattr(quantizer, "validate_environment", lambda self, *args, **kwargs: None)
    monkeypatch.setattr(quantizer_mxfp4, "get_current_accelerator", lambda: torch.device("cuda"))
