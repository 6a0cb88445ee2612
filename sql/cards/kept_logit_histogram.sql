-- how the logits of a neuron's decoder row are spread over the vocabulary, where it is kept
select b.low, b.high, b.counts
from logit_histograms as b
where b.sae_key = $sae_key and b.neuron = $neuron
