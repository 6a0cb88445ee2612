-- a neuron's vector, of the $count neurons of an SAE from number $first on, in order
select v.neuron, v.vector
from neuron_vectors as v
where v.sae_key = $sae_key and v.neuron >= $first::bigint and v.neuron < $first::bigint + $count::bigint
order by v.neuron
