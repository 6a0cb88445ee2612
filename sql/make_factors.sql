-- temp table: a (topic, prompt) of the frame `wanted`, and what the prompt's activations are multiplied by: distance ** power / total
create or replace temp table long_factors as
select
    d.prompt_id, 'factor_' || d.topic_id as name,
    pow(case $distance when 'cosine' then d.euclidean * d.euclidean / 2 else d.euclidean end, $power::double)
    / nullif(case $summary when 'mean' then p.sum_total when 'max' then p.max_total else p.count_total end, 0) as factor
from wanted as w
join distances as d on d.topic_id = w.topic_id
join prompt_totals as p on p.prompt_id = d.prompt_id and p.sae_key = $sae_key
