-- a neuron of the lists $keys and $neurons, in their order: what a reader knows it by
with wanted as (
    select unnest($keys::uinteger[]) as sae_key, unnest($neurons::uinteger[]) as neuron, unnest(range(len($keys::uinteger[]))) as place
), words as (
    select w.sae_key, w.neuron, lower(trim(x.token)) as word, min(x.rank) as first_rank
    from (select distinct w.sae_key, w.neuron from wanted as w) as w
    join examples as x on x.sae_key = w.sae_key and x.neuron = w.neuron
    group by w.sae_key, w.neuron, lower(trim(x.token))
), fires as (
    select v.sae_key, v.neuron, list(v.word order by v.first_rank)[:5] as fires_on
    from words as v
    group by v.sae_key, v.neuron
)
select s.sae_id, n.support, f.fires_on, l.label
from wanted as w
join saes as s on s.sae_key = w.sae_key
join neurons as n on n.sae_key = w.sae_key and n.neuron = w.neuron
left join fires as f on f.sae_key = w.sae_key and f.neuron = w.neuron
left join neuron_labels as l on l.sae_key = w.sae_key and l.neuron = w.neuron
order by w.place
