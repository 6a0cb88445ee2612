-- a label of a neuron, and whether it is the one that is shown
with own as (
    select 'user' as source, n.label, null::float as quality, null::timestamp as created_at
    from neurons as n
    where n.sae_key = $sae_key and n.neuron = $neuron and n.label is not null
    union all
    select l.source, l.label, l.quality, l.created_at
    from labels as l
    where l.sae_key = $sae_key and l.neuron = $neuron
)
select o.source, o.label, o.quality, o.created_at, coalesce(x.source = o.source and x.label = o.label, false) as shown
from own as o
left join neuron_labels as x on x.sae_key = $sae_key and x.neuron = $neuron
order by shown desc, o.source, o.created_at
