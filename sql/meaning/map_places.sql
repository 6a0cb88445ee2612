-- a neuron's place on the map of a basis, with what it may be coloured by
select s.sae_key, s.sae_id, p.neuron, p.x, p.y, n.support, n.density, l.label
from map as p
join saes as s on s.sae_key = p.sae_key
join neurons as n on n.sae_key = p.sae_key and n.neuron = p.neuron
left join neuron_labels as l on l.sae_key = p.sae_key and l.neuron = p.neuron
where p.basis = $basis
order by p.sae_key, p.neuron
