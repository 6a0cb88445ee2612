-- a neuron of an SAE that fired on $support prompts or more, in order, with the label that is shown
select n.neuron, n.support, l.label
from neurons as n
left join neuron_labels as l on l.sae_key = n.sae_key and l.neuron = n.neuron
where n.sae_key = $sae_key and n.support >= $support and n.mass_mean > 0
order by n.neuron
