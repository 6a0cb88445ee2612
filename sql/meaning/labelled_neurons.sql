-- a neuron's label of a source, and whether it is the one that is shown
select
    s.sae_key, s.release, s.sae_id, l.neuron, n.support, l.label, l.quality,
    coalesce(x.source = l.source, false) as shown
from labels as l
join saes as s on s.sae_key = l.sae_key
join neurons as n on n.sae_key = l.sae_key and n.neuron = l.neuron
left join neuron_labels as x on x.sae_key = l.sae_key and x.neuron = l.neuron
where l.source = $source and coalesce(s.sae_key::varchar = $sae::varchar, true)
order by l.sae_key, l.neuron
