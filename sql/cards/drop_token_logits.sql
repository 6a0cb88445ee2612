-- a neuron has no logits any more
delete from token_logits as w
where w.sae_key = $sae_key and w.neuron = $neuron
