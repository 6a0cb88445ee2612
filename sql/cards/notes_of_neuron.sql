-- a list that a neuron is in, with what is said of it there
select o.list, o.text, o.created_at
from notes as o
where o.sae_key = $sae_key and o.neuron = $neuron
order by o.list
