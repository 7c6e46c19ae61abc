"""What benchmarks/peers.py drives is the peers' own training, and what it reads is their result."""

import pytest
import torch
from contestant import Setting, why_missing
from peers import (
    DictionaryLearning,
    SaeLensBatchTopK,
    SaeLensTopK,
    Sparsify,
    SparsifyAdam,
)

# Warnings of the peers' code are not ours to mend.
pytestmark = pytest.mark.filterwarnings("default")

SETTING = Setting(d_in=24, d_dict=96, k=4, batch_tokens=128, n_steps=1200)


def batches(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    directions = torch.randn(60, SETTING.d_in, generator=rng)
    codes = torch.rand(n, SETTING.batch_tokens, 60, generator=rng)
    return list((codes * (codes > 0.95)) @ directions + 0.3)


def made(peer):
    if reason := why_missing(peer):
        pytest.skip(f"{peer.NAME}: {reason}; run `make peers`")
    return peer(SETTING)


@pytest.mark.parametrize(
    "peer", [DictionaryLearning, SaeLensBatchTopK, SaeLensTopK, Sparsify, SparsifyAdam]
)
@torch.no_grad()
def test_what_is_read_from_a_peer_reconstructs_as_the_peer_does(peer):
    trained = made(peer)
    with torch.enable_grad():
        for x_TC in batches(40):
            trained.step(x_TC)
    if peer is DictionaryLearning:  # it sets a threshold after 1,000 steps only
        trained.trainer.ae.threshold.fill_(3.0)
    (x_TC,) = batches(1, seed=1)
    learnt = trained.learnt()
    z_TF = (x_TC @ learnt.encoder_FC.t() + learnt.encoder_bias_F).relu()
    if learnt.threshold_F is None:
        kept = z_TF.topk(SETTING.k, dim=1)
        z_TF = torch.zeros_like(z_TF).scatter_(1, kept.indices, kept.values)
    else:
        z_TF = z_TF * (z_TF >= learnt.threshold_F)
    output_TC = z_TF @ learnt.decoder_FC + learnt.decoder_bias_C
    theirs_TC = own_output(trained, x_TC)
    assert 0.1 < float((theirs_TC - x_TC).square().mean() / x_TC.var()) < 1.5
    torch.testing.assert_close(output_TC, theirs_TC, rtol=1e-4, atol=1e-4)


def own_output(trained, x_TC):
    """Return what the peer's own inference makes of a batch."""
    if isinstance(trained, DictionaryLearning):
        return trained.trainer.ae(x_TC)
    if isinstance(trained, SaeLensTopK):
        return trained.trainer.sae(x_TC)
    if isinstance(trained, SaeLensBatchTopK):
        return saved_by_sae_lens(trained.trainer.sae)(x_TC)
    trained._average(True)
    output_TC = trained.sae(x_TC).sae_out
    trained._average(False)
    return output_TC


def saved_by_sae_lens(sae):
    """Return the JumpReLU SAE that sae-lens saves a BatchTopK SAE as."""
    from sae_lens import SAE

    config = sae.cfg.get_inference_sae_cfg_dict()
    inference = SAE.from_dict(config)
    state = {name: value.clone() for name, value in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(state)
    inference.load_state_dict(state)
    return inference


@pytest.mark.parametrize(("peer", "optimizer"), [(Sparsify, "signum"), (SparsifyAdam, "adam")])
def test_steps_of_sparsify_are_those_of_its_own_loop(peer, optimizer, tmp_path):
    stepped = made(peer)
    from sparsify import SparseCoderConfig, TrainConfig, Trainer

    data = batches(30)
    config = TrainConfig(
        sae=SparseCoderConfig(num_latents=SETTING.d_dict, k=SETTING.k),
        batch_size=1,
        optimizer=optimizer,
        lr_warmup_steps=SETTING._replace(n_steps=len(data)).warmup_steps,
        hookpoints=["layer"],
        save_dir=str(tmp_path),
        log_to_wandb=False,
    )
    token_ids = torch.arange(len(data) * SETTING.batch_tokens).view(len(data), -1)
    own = Trainer(config, [{"input_ids": row} for row in token_ids], Replay(torch.cat(data)))
    precision = torch.get_float32_matmul_precision()
    own.fit()
    torch.set_float32_matmul_precision(precision)
    stepped = peer(SETTING._replace(n_steps=len(data)))
    start = stepped.sae.encoder.weight.detach().clone()
    for x_TC in data:
        stepped.step(x_TC)
    (theirs,) = own.saes.values()
    for name, value in stepped.sae.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name])
    assert (stepped.sae.encoder.weight - start).abs().max() > 1e-4


class Replay(torch.nn.Module):
    """A model whose only layer puts out activations that were given."""

    def __init__(self, activations_TC):
        super().__init__()
        self.layer = torch.nn.Embedding.from_pretrained(activations_TC)
        self.device = torch.device("cpu")
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}

    @property
    def base_model(self):
        return self

    def forward(self, input_ids):
        return self.layer(input_ids)
