-- a neuron's vector, of the neurons $first to $last of an SAE; in no order: sorting them takes longer than reading
select v.neuron, v.vector
from neuron_vectors as v
where v.sae_key = $sae_key and v.neuron between $first::uinteger and $last::uinteger
