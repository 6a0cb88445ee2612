-- temp table: a (topic, neuron) with the sums over its prompts that its score and the score's standard error are made of
-- (sql/compute_scores.sql): with weights w and d = distance ** power, those of w * d, w^2 * d and w^2 * d^2. Each is a third
-- of the query's time, so that products are taken once and multiplied on, and all sums share one scan. atlas/scoring/products.py
-- gives the same sums for many topics.
create or replace temp table sums as
with weights as (
    select
        a.neuron, columns('distance_[0-9]+'),
        case $summary when 'mean' then a.act_sum when 'max' then a.act_max else a.act_count end * f.share as weight
    from activations as a
    join factors as f on f.prompt_id = a.prompt_id
    where a.sae_key = $sae_key
), products as (
    select w.neuron, w.weight, w.weight * columns('distance_[0-9]+') from weights as w
), moments as (
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
)
select
    cast(replace(m.name, 'distance_', '') as integer) as topic_id, m.neuron, m.moments.wd, m.moments.wwd, m.moments.wwdd
from moments as m
