"""The peers' own trainers, one step at a time, and what they have learnt.

| peer | what is driven, unmodified |
|---|---|
| dictionary-learning | `BatchTopKTrainer.update`; its package imports nnsight for a buffer that is not used here, so an empty module stands in for nnsight where that is not installed |
| sae-lens | `SAETrainer.step` on `BatchTopKTrainingSAE`, and on `TopKTrainingSAE` with sparse activations (which need `rescale_acts_by_decoder_norm=False`: with its default True the step raises NotImplementedError on CPU with torch 2.13) |
| eai-sparsify | `SparseCoder`, its optimizers, and the lines of `Trainer.fit` for one hook point: `fit` itself has no step that could be called. tests/peers shows that both end in the same weights |

All else is each peer's default: learning rate, schedule, initialisation, dead features; but a
warm-up of 1,000 steps is cut to a tenth of a shorter run.

Axes: T tokens, F features, C columns.
"""  # noqa: E501
# ruff: noqa: D102 (`Peer` says what the methods do)

import torch
from contestant import Learnt, Setting
from torch import Tensor


class DictionaryLearning:
    """dictionary-learning's BatchTopK; it keeps a threshold after 1,000 steps only."""

    NAME = "dictionary-learning BatchTopK"
    MODULES = ("dictionary_learning.trainers.batch_top_k",)

    def __init__(self, setting: Setting) -> None:
        from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

        self.trainer = BatchTopKTrainer(
            steps=setting.n_steps,
            activation_dim=setting.d_in,
            dict_size=setting.d_dict,
            k=setting.k,
            layer=0,
            lm_name="",
            warmup_steps=setting.warmup_steps,
            seed=setting.seed,
            device="cpu",
        )
        self.n_steps = 0

    def step(self, inputs_TC: Tensor) -> float:
        self.n_steps += 1
        return self.trainer.update(self.n_steps - 1, inputs_TC)

    def kill(self, is_dead_F: Tensor) -> None:
        self.trainer.num_tokens_since_fired[is_dead_F] = 10**9
        self.trainer.ae.encoder.weight.data[is_dead_F] = 0.0
        self.trainer.ae.encoder.bias.data[is_dead_F] = 0.0

    def n_dead(self) -> int:
        silent_F = self.trainer.num_tokens_since_fired
        return int((silent_F >= self.trainer.dead_feature_threshold).sum())

    @torch.no_grad()
    def n_active(self, inputs_TC: Tensor) -> int:
        return int((self.trainer.ae.encode(inputs_TC, use_threshold=False) > 0).sum())

    @torch.no_grad()
    def learnt(self) -> Learnt:
        sae = self.trainer.ae
        shift_F = sae.encoder.weight @ sae.b_dec
        return _copied(
            sae.encoder.weight,
            sae.encoder.bias - shift_F,
            sae.decoder.weight.t(),
            sae.b_dec,
            sae.threshold.clamp_min(0).expand(len(shift_F)),
        )


class SaeLensBatchTopK:
    """sae-lens' BatchTopK."""

    NAME = "sae-lens BatchTopK"
    MODULES = ("sae_lens", "sae_lens.training.sae_trainer")

    def __init__(self, setting: Setting) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        torch.manual_seed(setting.seed)
        config = SAETrainerConfig(
            total_training_samples=setting.n_steps * setting.batch_tokens,
            train_batch_size_samples=setting.batch_tokens,
            lr_end=3e-5,  # what its runner fills in; a constant schedule does not use it
        )
        self.trainer = SAETrainer(config, self._sae(setting), data_provider=iter(()))

    def _sae(self, setting: Setting) -> torch.nn.Module:
        from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

        return BatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(d_in=setting.d_in, d_sae=setting.d_dict, k=setting.k)
        )

    def step(self, inputs_TC: Tensor) -> float:
        loss = self.trainer.step(inputs_TC).loss
        self.trainer.n_training_steps += 1
        return loss.item()

    def kill(self, is_dead_F: Tensor) -> None:
        self.trainer.n_forward_passes_since_fired[is_dead_F] = 1e6
        self.trainer.sae.W_enc.data[:, is_dead_F] = 0.0
        self.trainer.sae.b_enc.data[is_dead_F] = 0.0

    def n_dead(self) -> int:
        return int(self.trainer.dead_neurons.sum())

    @torch.no_grad()
    def n_active(self, inputs_TC: Tensor) -> int:
        activations_TF, _ = self.trainer.sae.encode_with_hidden_pre(inputs_TC)
        return int((activations_TF.to_dense() > 0).sum())

    @torch.no_grad()
    def learnt(self) -> Learnt:
        sae = self.trainer.sae
        norm_F = sae.W_dec.norm(dim=1)  # scores are z * norm
        return _copied(
            sae.W_enc.t(),
            sae.b_enc - sae.b_dec @ sae.W_enc,
            sae.W_dec,
            sae.b_dec,
            sae.topk_threshold.float() / norm_F,
        )


class SaeLensTopK(SaeLensBatchTopK):
    """sae-lens' per-token TopK, the faster form of it."""

    NAME = "sae-lens TopK, sparse"

    def _sae(self, setting: Setting) -> torch.nn.Module:
        from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

        config = TopKTrainingSAEConfig(
            d_in=setting.d_in,
            d_sae=setting.d_dict,
            k=setting.k,
            use_sparse_activations=True,
            rescale_acts_by_decoder_norm=False,
        )
        return TopKTrainingSAE(config)

    @torch.no_grad()
    def learnt(self) -> Learnt:
        sae = self.trainer.sae
        bias_F = sae.b_enc - sae.b_dec @ sae.W_enc
        return _copied(sae.W_enc.t(), bias_F, sae.W_dec, sae.b_dec, None)


class Sparsify:
    """sparsify's per-token TopK (it has no BatchTopK) with signum, its default optimizer."""

    NAME = "sparsify TopK"
    MODULES = ("sparsify", "schedulefree")

    def __init__(self, setting: Setting) -> None:
        from sparsify import SparseCoder, SparseCoderConfig

        torch.manual_seed(setting.seed)
        config = SparseCoderConfig(num_latents=setting.d_dict, k=setting.k)
        self.sae = SparseCoder(setting.d_in, config, device="cpu", dtype=torch.float32)
        self.n_steps, self.auxk_alpha = 0, 1 / 32 if setting.auxk else 0.0
        self.dead_tokens = 10_000_000  # TrainConfig.dead_feature_threshold
        self.silent_F = torch.zeros(setting.d_dict, dtype=torch.int64)
        self.optimizer, self.scheduler = self._optimizer(setting)

    def _optimizer(self, setting: Setting) -> tuple:
        from schedulefree import ScheduleFreeWrapper
        from sparsify.sign_sgd import SignSGD

        rate = 5e-3 / (setting.d_dict / 2**14) ** 0.5
        groups = [{"params": self.sae.parameters(), "lr": rate}]
        optimizer = ScheduleFreeWrapper(SignSGD(groups), momentum=0.95)
        optimizer.train()
        return optimizer, None

    def step(self, inputs_TC: Tensor) -> float:
        sae = self.sae
        if self.n_steps == 0:
            sae.b_dec.data = inputs_TC.mean(0)
        sae.set_decoder_norm_to_unit_norm()
        is_dead_F = self.silent_F > self.dead_tokens if self.auxk_alpha else None
        variance = (inputs_TC - inputs_TC.mean(0)).pow(2).sum()
        out = sae(x=inputs_TC, y=inputs_TC, dead_mask=is_dead_F, total_variance=variance)
        loss = out.fvu + self.auxk_alpha * out.auxk_loss + out.multi_topk_fvu / 8
        loss.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.scheduler:
            self.scheduler.step()
        self.silent_F += len(inputs_TC)
        self.silent_F[out.latent_indices.flatten()] = 0
        self.n_steps += 1
        return loss.item()

    def kill(self, is_dead_F: Tensor) -> None:
        self.silent_F[is_dead_F] = 10**9
        self.sae.encoder.weight.data[is_dead_F] = 0.0
        self.sae.encoder.bias.data[is_dead_F] = 0.0

    def n_dead(self) -> int:
        return int((self.silent_F > self.dead_tokens).sum())

    @torch.no_grad()
    def n_active(self, inputs_TC: Tensor) -> int:
        return int((self.sae.encode(inputs_TC).top_acts > 0).sum())

    @torch.no_grad()
    def learnt(self) -> Learnt:
        self._average(True)
        sae = self.sae
        bias_F = sae.encoder.bias - sae.encoder.weight @ sae.b_dec
        learnt = _copied(sae.encoder.weight, bias_F, sae.W_dec, sae.b_dec, None)
        self._average(False)
        return learnt

    def _average(self, is_wanted: bool) -> None:
        """Put the averaged weights in place, as sparsify does to save, or those in training."""
        if is_wanted:
            self.optimizer.eval()
        else:
            self.optimizer.train()


class SparsifyAdam(Sparsify):
    """sparsify's per-token TopK with Adam."""

    NAME = "sparsify TopK, Adam"

    def _optimizer(self, setting: Setting) -> tuple:
        from transformers import get_linear_schedule_with_warmup

        rate = 2e-4 / (setting.d_dict / 2**14) ** 0.5
        optimizer = torch.optim.Adam([{"params": self.sae.parameters(), "lr": rate}])
        return optimizer, get_linear_schedule_with_warmup(
            optimizer, setting.warmup_steps, setting.n_steps
        )

    def _average(self, is_wanted: bool) -> None:
        """Adam keeps no average."""


def _copied(*tensors: Tensor | None) -> Learnt:
    return Learnt(*(None if t is None else t.detach().clone().contiguous() for t in tensors))


BATCH_TOPK = (SaeLensBatchTopK, DictionaryLearning)
TOPK = (Sparsify, SaeLensTopK)
