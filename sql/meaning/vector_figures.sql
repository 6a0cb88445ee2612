-- a neuron of an SAE that has a vector, in order: its support, and what random topics are like for it
select v.neuron, r.support, v.square, v.expected_g, v.spread
from neuron_vectors as v
join neurons as r on r.sae_key = v.sae_key and r.neuron = v.neuron
where v.sae_key = $sae_key
order by v.neuron
