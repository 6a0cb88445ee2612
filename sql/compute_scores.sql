-- temp table: a (topic, neuron) with its weighted mean distance g, its score and the score's standard error. With
-- weights w and d = distance ** power, both come from the sums of w * d, w^2 * d and w^2 * d^2 over the prompts: each sum
-- is a third of the query's time, so that products are taken once and multiplied on, and all sums share one scan.
create or replace temp table computed as
with weights as (
    select
        a.neuron, columns('distance_[0-9]+'),
        case $summary when 'mean' then a.act_sum when 'max' then a.act_max else a.act_count end * f.share as weight
    from activations as a
    join factors as f on f.prompt_id = a.prompt_id
    where a.sae_key = $sae_key
), products as (
    select w.neuron, w.weight, w.weight * columns('distance_[0-9]+') from weights as w
), sums as (
    unpivot (
        select
            p.neuron,
            {
                'wd': sum(columns('distance_[0-9]+')),
                'wwd': sum(p.weight * columns('distance_[0-9]+')),
                'wwdd': sum(columns('distance_[0-9]+') * columns('distance_[0-9]+'))
            }
        from products as p
        group by p.neuron
    ) on columns('distance_[0-9]+') into name name value moments
), numbered as (
    select cast(replace(s.name, 'distance_', '') as integer) as topic_id, s.neuron, s.moments from sums as s
), means as (
    select
        t.topic_id, n.neuron, n.support >= $min_support as eligible, m.mass, m.ww,
        s.moments.wd / nullif(m.mass, 0) as g, s.moments.wwd, s.moments.wwdd
    from wanted as t
    cross join neurons as n
    cross join lateral (
        select
            case $summary when 'mean' then n.mass_mean when 'max' then n.mass_max else n.mass_count end as mass,
            case $summary when 'mean' then n.square_mean when 'max' then n.square_max else n.square_count end as ww
    ) as m
    left join numbered as s on s.neuron = n.neuron and s.topic_id = t.topic_id
    where n.sae_key = $sae_key
), ranges as (
    select m.topic_id, min(m.g) as lowest, max(m.g) as highest, count(m.g) as eligible
    from means as m
    where m.eligible
    group by m.topic_id
)
select
    m.topic_id, m.neuron, m.g, coalesce(r.eligible, 0) as eligible, r.highest > r.lowest as spread,
    case when m.eligible then 1 - (m.g - r.lowest) / nullif(r.highest - r.lowest, 0) end as score,
    case when m.eligible then
        sqrt(greatest(m.wwdd - 2 * m.g * m.wwd + m.g * m.g * m.ww, 0)) / m.mass
        / nullif(r.highest - r.lowest, 0)
    end as se
from means as m
left join ranges as r on r.topic_id = m.topic_id
