-- a note on a neuron, of the list $list (null: of all), with what the neuron is known by
with words as (
    select x.sae_key, x.neuron, lower(trim(x.token)) as word, min(x.rank) as first_rank
    from (select distinct o.sae_key, o.neuron from notes as o) as o
    join examples as x on x.sae_key = o.sae_key and x.neuron = o.neuron
    group by x.sae_key, x.neuron, lower(trim(x.token))
), fires as (
    select w.sae_key, w.neuron, list(w.word order by w.first_rank)[:5] as fires_on
    from words as w
    group by w.sae_key, w.neuron
)
select o.list, o.sae_key, s.sae_id, o.neuron, o.text, o.created_at, n.support, f.fires_on, n.top_tokens, l.label
from notes as o
join saes as s on s.sae_key = o.sae_key
join neurons as n on n.sae_key = o.sae_key and n.neuron = o.neuron
left join fires as f on f.sae_key = o.sae_key and f.neuron = o.neuron
left join neuron_labels as l on l.sae_key = o.sae_key and l.neuron = o.neuron
where coalesce(o.list = $list::varchar, true)
order by o.list, o.sae_key, o.neuron
