-- temp table: one row, how well a scoring's ranking holds over bootstrap samples of the prompts. The frame `ranking` holds
-- the scoring's neurons with their scores, the frame `samples` a prompt and one column sample_<n> per sample: how often it
-- was drawn. Both sums of a neuron change with the sample, far_<n> of
-- weight * distance ** power and mass_<n> of weight.
create or replace temp table stability as
with totals as (
    select
        s.*,
        pow(case $distance when 'cosine' then d.euclidean * d.euclidean / 2 else d.euclidean end, $power::double) as d,
        nullif(case $summary when 'mean' then p.sum_total when 'max' then p.max_total else p.count_total end, 0) as total
    from samples as s
    join distances as d on d.prompt_id = s.prompt_id and d.topic_id = $topic_id
    join prompt_totals as p on p.prompt_id = s.prompt_id and p.sae_key = $sae_key
), factors as (
    select
        t.prompt_id,
        t.d * columns('sample_([0-9]+)') / t.total as 'far_\1',
        columns('sample_([0-9]+)') / t.total as 'mass_\1'
    from totals as t
), sums as (
    unpivot (
        select
            a.neuron,
            sum(
                case $summary when 'mean' then a.act_sum when 'max' then a.act_max else a.act_count end
                * columns('(?:far|mass)_[0-9]+')
            )
        from activations as a
        join factors as f on f.prompt_id = a.prompt_id
        where a.sae_key = $sae_key
        group by a.neuron
    ) on columns('(?:far|mass)_[0-9]+') into name name value weighted_sum
), ranked as (
    select
        m.name, s.neuron,
        rank() over (partition by m.name order by s.score desc) as own_rank,
        rank() over (partition by m.name order by x.weighted_sum / nullif(m.weighted_sum, 0)) as sample_rank
    from ranking as s
    join sums as m on m.neuron = s.neuron and m.name like 'mass%'
    join sums as x on x.neuron = m.neuron and x.name = replace(m.name, 'mass', 'far')
), samples_found as (
    select
        r.name,
        case when min(r.own_rank) < max(r.own_rank) and min(r.sample_rank) < max(r.sample_rank)
        then corr(r.own_rank, r.sample_rank) end as spearman,
        count(*) filter (where r.own_rank <= 20 and r.sample_rank <= 20) / count(*) filter (where r.own_rank <= 20)
        as overlap
    from ranked as r
    group by r.name
)
select avg(f.spearman) as rank_stability, avg(f.overlap) as top_overlap from samples_found as f
