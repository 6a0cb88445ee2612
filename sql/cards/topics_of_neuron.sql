-- a topic that is scored by the distances of prompts, with a neuron's place among those of its SAE, best place first
with own as (
    select t.name as topic, g.scoring_id, g.scorer, s.score, s.se, s.z, s.g
    from scorings as g
    join topics as t on t.topic_id = g.topic_id
    join scores as s on s.scoring_id = g.scoring_id and s.neuron = $neuron
    where g.sae_key = $sae_key and g.is_current and g.scorer in ('distance', 'centroid')
)
select
    o.topic, o.scorer, o.score, o.se, o.z, o.g,
    case when o.score is not null then
        1 + count(*) filter (where x.score > o.score or (x.score = o.score and x.neuron < $neuron))
    end as rank
from own as o
join scores as x on x.scoring_id = o.scoring_id
group by o.topic, o.scoring_id, o.scorer, o.score, o.se, o.z, o.g
order by rank nulls last, o.topic, o.scorer
