-- temp table: a (topic, prompt) of the frame `wanted`, and what the prompt's activations are multiplied by: with weights
-- w = activation / total, factor makes w * d, square w^2 * d and fourth w^2 * d^2 of them, d being distance ** power
create or replace temp table long_factors as
with powers as (
    select
        t.topic_id, t.prompt_id,
        pow(case $distance when 'cosine' then t.euclidean * t.euclidean / 2 else t.euclidean end, $power::double) as d,
        nullif(case $summary when 'mean' then p.sum_total when 'max' then p.max_total else p.count_total end, 0) as total
    from wanted as w
    join distances as t on t.topic_id = w.topic_id
    join prompt_totals as p on p.prompt_id = t.prompt_id and p.sae_key = $sae_key
)
select p.prompt_id, 'factor_' || p.topic_id as name, p.d / p.total as factor from powers as p
union all
select p.prompt_id, 'square_' || p.topic_id, p.d / p.total / p.total from powers as p
union all
select p.prompt_id, 'fourth_' || p.topic_id, p.d * p.d / p.total / p.total from powers as p
