-- temp table: a (topic, prompt) of the frame `wanted`: the prompt's distance ** power, under the name that its column of
-- `factors` gets, and share: an activation times share is the weight of the prompt for the neuron
create or replace temp table long_factors as
select
    t.prompt_id, 'distance_' || t.topic_id as name,
    pow(case $distance when 'cosine' then t.euclidean * t.euclidean / 2 else t.euclidean end, $power::double) as distance,
    1 / nullif(case $summary when 'mean' then p.sum_total when 'max' then p.max_total else p.count_total end, 0) as share
from wanted as w
join distances as t on t.topic_id = w.topic_id
join prompt_totals as p on p.prompt_id = t.prompt_id and p.sae_key = $sae_key
