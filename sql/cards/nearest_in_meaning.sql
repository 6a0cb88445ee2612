-- one of the $n neurons of the SAE $other that are nearest to a neuron in meaning
select x.sae_key, x.neuron, x.cosine
from nearest_neurons($neuron, $n, sae := $sae, other := $other) as x
order by x.rank
