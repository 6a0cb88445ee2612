-- a neuron of the SAEs $sae_keys that has a vector, in no order: what random topics are like for it
select v.sae_key, v.neuron, v.square, v.expected_g, v.spread
from neuron_vectors as v
where list_contains($sae_keys::uinteger[], v.sae_key)
