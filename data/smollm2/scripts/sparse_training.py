"""SAELens's TopK and BatchTopK training SAEs, computed from the neurons that fire alone.

The losses, selections and gradients are SAELens's (rescale_acts_by_decoder_norm, auxiliary loss for dead neurons). What
differs is how they are computed: at a token, 32 of thousands of neurons fire, so the reconstruction is a weighted sum
of 32 decoder rows (embedding_bag) and not a product with a matrix of zeros. The selection is by the activation times its
decoder row's norm; in the reconstruction that norm cancels. On a processor a training step takes about a third of the time.
"""

from __future__ import annotations

import torch
from sae_lens import BatchTopKTrainingSAE, TopKTrainingSAE
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput


def forward(
    sae: TopKTrainingSAE, step: TrainStepInput, neurons: torch.Tensor, tokens: torch.Tensor, pre: torch.Tensor
) -> TrainStepOutput:
    """The loss of a step from the pairs of a token and a neuron that fires at it.

    Args:
        sae: what is trained.
        step: its input (token d_in) and which neurons are dead.
        neurons: the neuron of each pair, in the order of the tokens.
        tokens: the token of each pair.
        pre: the encoder's products (token neuron), before their norms are counted in.
    """
    weights = pre[tokens, neurons].float().relu()
    starts = torch.searchsorted(tokens, torch.arange(len(pre)))
    rebuilt = torch.nn.functional.embedding_bag(neurons, sae.W_dec, starts, mode="sum", per_sample_weights=weights)
    sae_out = sae.run_time_activation_norm_fn_out(rebuilt + sae.b_dec)
    mse = (sae_out - step.sae_in).square().sum(-1).mean()
    with torch.no_grad():
        norms = sae.W_dec.norm(dim=-1)
        fired = torch.zeros(pre.shape).index_put((tokens, neurons), weights * norms[neurons])
    losses = {"mse_loss": mse}
    if step.dead_neuron_mask is not None and step.dead_neuron_mask.any():
        losses |= sae.calculate_aux_loss(step, fired, pre * sae.W_dec.norm(dim=-1), sae_out)
    total = torch.stack([loss.float() for loss in losses.values()]).sum()
    return TrainStepOutput(step.sae_in, sae_out, fired, pre, total, losses)


class SparseTopK(TopKTrainingSAE):
    """A TopK SAE in training: the k largest at each token fire."""

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """The losses of a batch of activations (token d_in)."""
        pre = self.process_sae_in(step_input.sae_in) @ self.W_enc + self.b_enc
        with torch.no_grad():
            neurons = (pre * self.W_dec.norm(dim=-1)).topk(self.cfg.k, sorted=False).indices
        tokens = torch.arange(len(pre)).repeat_interleave(self.cfg.k)
        return forward(self, step_input, neurons.flatten(), tokens, pre)


class SparseBatchTopK(BatchTopKTrainingSAE):
    """A BatchTopK SAE in training: as many of a batch's largest fire as make k per token on average."""

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """The losses of a batch of activations (token d_in), and the threshold brought up to date."""
        pre = self.process_sae_in(step_input.sae_in) @ self.W_enc + self.b_enc
        with torch.no_grad():
            scaled = (pre * self.W_dec.norm(dim=-1)).float()
            count = int(self.cfg.k * len(pre))
            # The largest of a batch are among the largest at each token, 8 times as many as fire on average.
            candidates = scaled.topk(min(8 * int(self.cfg.k), scaled.shape[1]), sorted=False).values.flatten()
            least = candidates.topk(count, sorted=False).values.min().clamp(min=torch.finfo(torch.float32).tiny)
            tokens, neurons = (scaled >= least).nonzero(as_tuple=True)
        output = forward(self, step_input, neurons, tokens, pre)
        self.update_topk_threshold(output.feature_acts)
        output.metrics["topk_threshold"] = self.topk_threshold
        return output
