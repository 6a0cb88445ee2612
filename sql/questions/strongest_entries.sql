-- one of the strongest entries of a behaviour's current sparse vector for an SAE, with the tokens its neuron fires on
with words as (
    select x.sae_key, x.neuron, lower(trim(x.token)) as word, min(x.rank) as first_rank
    from examples as x
    group by x.sae_key, x.neuron, lower(trim(x.token))
), fires as (
    select w.sae_key, w.neuron, list(w.word order by w.first_rank)[:5] as fires_on
    from words as w
    group by w.sae_key, w.neuron
)
select
    v.name, s.sae_id, v."position", v.tau, x."index" as neuron, x.value, n.support, f.fires_on, n.top_tokens
from vectors as v
join vector_entries as x on x.vector_id = v.vector_id
join saes as s on s.sae_key = v.sae_key
join neurons as n on n.sae_key = v.sae_key and n.neuron = x."index"
left join fires as f on f.sae_key = v.sae_key and f.neuron = x."index"
where v.name = $behaviour and v.kind = 'sas' and v.is_current and coalesce(v.sae_key::varchar = $sae, true)
qualify row_number() over (partition by v.vector_id order by abs(x.value) desc, x."index") <= $n
order by v.sae_key, abs(x.value) desc, x."index"
