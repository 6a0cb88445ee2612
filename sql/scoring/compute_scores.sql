-- temp table: a (topic, neuron) with its weighted mean distance g, its score and the score's standard error, from the sums
-- over its prompts; a neuron that fired on one prompt has no error. lowest and highest: the range of g that is mapped to [0, 1].
create or replace temp table computed as
with means as (
    select
        t.topic_id, n.neuron, n.support, n.support >= $min_support as eligible, m.mass, m.ww,
        s.wd / nullif(m.mass, 0) as g, s.wwd, s.wwdd
    from wanted as t
    cross join neurons as n
    cross join lateral (
        select
            case $summary when 'mean' then n.mass_mean when 'max' then n.mass_max else n.mass_count end as mass,
            case $summary when 'mean' then n.square_mean when 'max' then n.square_max else n.square_count end as ww
    ) as m
    left join sums as s on s.neuron = n.neuron and s.topic_id = t.topic_id
    where n.sae_key = $sae_key
), ranges as (
    select m.topic_id, min(m.g) as lowest, max(m.g) as highest, count(m.g) as eligible
    from means as m
    where m.eligible
    group by m.topic_id
)
select
    m.topic_id, m.neuron, m.g, coalesce(r.eligible, 0) as eligible, r.lowest, r.highest,
    case when m.eligible then 1 - (m.g - r.lowest) / nullif(r.highest - r.lowest, 0) end as score,
    case when m.eligible and m.support > 1 then
        sqrt(greatest(m.wwdd - 2 * m.g * m.wwd + m.g * m.g * m.ww, 0)) / m.mass
        / nullif(r.highest - r.lowest, 0)
    end as se
from means as m
left join ranges as r on r.topic_id = m.topic_id
