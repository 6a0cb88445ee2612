-- one row: the smallest and the largest g among the neurons that have a score under a topic's current scoring of an SAE, and the
-- exponent of the distance
select min(s.g) as lowest, max(s.g) as highest, any_value(g.power) as power, any_value(g.distance) as distance
from topics as t
join scorings as g on g.topic_id = t.topic_id
join scores as s on s.scoring_id = g.scoring_id
where t.name = $topic and g.sae_key = $sae_key and g.is_current and g.scorer = $scorer and s.score is not null
