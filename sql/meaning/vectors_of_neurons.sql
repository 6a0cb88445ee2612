-- the vector of a neuron of an SAE, of the neurons $neurons, in order
select v.vector
from neuron_vectors as v
where v.sae_key = $sae_key and v.neuron in (select unnest($neurons::uinteger[]))
order by v.neuron
