-- a (random topic, neuron) with its centred g, over the topics of `random_factors`. The frame `random_members` holds each
-- topic's own prompts, which are left out: (topic, prompt).
insert into random_means (topic, neuron, centred_g)
with sums as (
    unpivot (
        select
            a.neuron,
            sum(
                case $summary when 'mean' then a.act_sum when 'max' then a.act_max else a.act_count end
                * columns('null_[0-9]+')
            )
        from activations as a
        join random_factors as f on f.prompt_id = a.prompt_id
        where a.sae_key = $sae_key
        group by a.neuron
    ) on columns('null_[0-9]+') into name name value weighted_sum
), numbered as (  -- whole numbers are joined and grouped several times faster than names
    select cast(replace(s.name, 'null_', '') as integer) as topic, s.neuron, s.weighted_sum from sums as s
), left_out as (
    select
        r.topic, a.neuron,
        sum(
            case $summary
                when 'mean' then a.act_sum / p.sum_total
                when 'max' then a.act_max / p.max_total
                else a.act_count / p.count_total
            end
        ) as mass
    from (
        select cast(replace(b.name, 'null_', '') as integer) as topic, b.prompt_id from random_members as b
    ) as r
    join activations as a on a.prompt_id = r.prompt_id and a.sae_key = $sae_key
    join prompt_totals as p on p.prompt_id = r.prompt_id and p.sae_key = $sae_key
    group by r.topic, a.neuron
), eligible as (
    select
        e.neuron, case $summary when 'mean' then e.mass_mean when 'max' then e.mass_max else e.mass_count end as mass
    from neurons as e
    where e.sae_key = $sae_key and e.support >= $min_support
), means as (  -- none where all but rounding was left out
    select
        s.topic, s.neuron,
        case when n.mass - coalesce(o.mass, 0) > 1e-9 * n.mass then s.weighted_sum / (n.mass - coalesce(o.mass, 0)) end as g
    from numbered as s
    join eligible as n on n.neuron = s.neuron
    left join left_out as o on o.topic = s.topic and o.neuron = s.neuron
)
select m.topic, m.neuron, m.g - avg(m.g) over (partition by m.topic) as centred_g from means as m
