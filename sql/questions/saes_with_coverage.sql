-- an SAE of the atlas with its coverage, in the order they were added
select e.*, c.neurons, c.fired, c.supported, c.coverage, c.coverage_20
from saes as e
left join neuron_coverage as c on c.sae_key = e.sae_key
order by e.sae_key
