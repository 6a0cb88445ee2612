-- a note on a neuron, of the list $list (null: of all)
select o.list, o.sae_key, o.neuron, o.text, o.created_at
from notes as o
where coalesce(o.list = $list::varchar, true)
order by o.list, o.sae_key, o.neuron
