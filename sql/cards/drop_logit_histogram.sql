-- a neuron has no histogram of logits any more
delete from logit_histograms as b
where b.sae_key = $sae_key and b.neuron = $neuron
