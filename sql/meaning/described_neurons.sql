-- a neuron of the pairs $sae_keys, $neurons, each given once: what a reader knows it by, that is its SAE, its support, five tokens
-- that it fires on most, those that it writes, and its label
with wanted as (
    select unnest($sae_keys::uinteger[]) as sae_key, unnest($neurons::uinteger[]) as neuron
), words as (
    select w.sae_key, w.neuron, lower(trim(x.token)) as word, min(x.rank) as first_rank
    from wanted as w
    join examples as x on x.sae_key = w.sae_key and x.neuron = w.neuron
    group by w.sae_key, w.neuron, lower(trim(x.token))
), fires as (
    select v.sae_key, v.neuron, list(v.word order by v.first_rank)[:5] as fires_on
    from words as v
    group by v.sae_key, v.neuron
)
select w.sae_key, w.neuron, e.release, e.sae_id, n.support, f.fires_on, n.top_tokens, l.label
from wanted as w
join saes as e on e.sae_key = w.sae_key
join neurons as n on n.sae_key = w.sae_key and n.neuron = w.neuron
left join fires as f on f.sae_key = w.sae_key and f.neuron = w.neuron
left join neuron_labels as l on l.sae_key = w.sae_key and l.neuron = w.neuron
