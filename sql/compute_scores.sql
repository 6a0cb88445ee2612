-- temp table: a (topic, neuron) with its weighted mean distance g, its score and the score's standard error.
-- A square is taken in double precision: the product of two floats would put an error of 1e-4 into se.
create or replace temp table computed as
with sums as (
    unpivot (
        select
            a.neuron,
            sum(
                case $summary when 'mean' then a.act_sum when 'max' then a.act_max else a.act_count end
                * columns('factor_[0-9]+')
            ),
            sum(
                case $summary when 'mean' then a.act_sum when 'max' then a.act_max else a.act_count end
                * (
                    case $summary when 'mean' then a.act_sum when 'max' then a.act_max else a.act_count end
                    * columns('(?:square|fourth)_[0-9]+')
                )
            )
        from activations as a
        join factors as f on f.prompt_id = a.prompt_id
        where a.sae_key = $sae_key
        group by a.neuron
    ) on columns('(?:factor|square|fourth)_[0-9]+') into name name value weighted_sum
), means as (
    select
        t.topic_id, n.neuron, n.support >= $min_support as eligible, m.mass,
        s.weighted_sum / nullif(m.mass, 0) as g,
        h.weighted_sum as fourth, q.weighted_sum as square,
        case $summary when 'mean' then n.square_mean when 'max' then n.square_max else n.square_count end as weights
    from wanted as t
    cross join neurons as n
    cross join lateral (
        select case $summary when 'mean' then n.mass_mean when 'max' then n.mass_max else n.mass_count end as mass
    ) as m
    left join sums as s on s.neuron = n.neuron and s.name = 'factor_' || t.topic_id
    left join sums as q on q.neuron = n.neuron and q.name = 'square_' || t.topic_id
    left join sums as h on h.neuron = n.neuron and h.name = 'fourth_' || t.topic_id
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
        sqrt(greatest(m.fourth - 2 * m.g * m.square + m.g * m.g * m.weights, 0)) / m.mass
        / nullif(r.highest - r.lowest, 0)
    end as se
from means as m
left join ranges as r on r.topic_id = m.topic_id
