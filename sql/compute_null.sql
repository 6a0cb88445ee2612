-- a neuron with the mean and standard deviation, over random topics, of its centred g. The frame `random_powers` holds
-- a prompt and one column null_<n> per random topic n: distance ** power, null for the topic's own prompts, which are left
-- out; the frame `random_members` holds those: (topic, prompt).
insert into null_scores
with factors as (
    select
        p.prompt_id,
        coalesce(columns('null_[0-9]+'), 0)
        / nullif(case $summary when 'mean' then p.sum_total when 'max' then p.max_total else p.count_total end, 0)
    from random_powers as d
    join prompt_totals as p on p.prompt_id = d.prompt_id and p.sae_key = $sae_key
), sums as (
    unpivot (
        select
            a.neuron,
            sum(
                case $summary when 'mean' then a.act_sum when 'max' then a.act_max else a.act_count end
                * columns('null_[0-9]+')
            )
        from activations as a
        join factors as f on f.prompt_id = a.prompt_id
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
), means as (
    select
        s.topic, s.neuron,
        s.weighted_sum / nullif(
            case $summary when 'mean' then n.mass_mean when 'max' then n.mass_max else n.mass_count end
            - coalesce(o.mass, 0), 0
        ) as g
    from numbered as s
    join neurons as n on n.sae_key = $sae_key and n.neuron = s.neuron and n.support >= $min_support
    left join left_out as o on o.topic = s.topic and o.neuron = s.neuron
), averages as (
    select m.topic, avg(m.g) as g from means as m group by m.topic
), centred as (
    select m.neuron, m.g - v.g as centred_g from means as m join averages as v on v.topic = m.topic
)
select $null_id, c.neuron, avg(c.centred_g), stddev_samp(c.centred_g)
from centred as c
group by c.neuron
order by c.neuron
