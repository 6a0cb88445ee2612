-- one of $count neurons of an SAE whose label of a source was measured, with five tokens that it fires on most in the prompts
-- $prompts, and five that it writes; which neurons does not depend on their order
with drawn as (
    select l.sae_key, l.neuron, l.label
    from labels as l
    where l.sae_key = $sae_key and l.source = $source and l.quality is not null
    order by hash(l.neuron), l.neuron
    limit $count
), tokens as (
    select x.neuron, lower(trim(x.token)) as token, min(x.rank) as first_rank
    from examples as x
    where x.sae_key = $sae_key and trim(x.token) <> '' and x.prompt_id in (select unnest($prompts::uinteger[]))
    group by x.neuron, lower(trim(x.token))
), fires as (
    select t.neuron, list(t.token order by t.first_rank)[:5] as fires_on from tokens as t group by t.neuron
)
select
    d.neuron, d.label, coalesce(f.fires_on, []) as fires_on,
    coalesce(list_filter(list_transform(n.top_tokens, lambda t: trim(t)), lambda t: t <> '')[:5], []) as writes
from drawn as d
join neurons as n on n.sae_key = d.sae_key and n.neuron = d.neuron
left join fires as f on f.neuron = d.neuron
order by d.neuron
