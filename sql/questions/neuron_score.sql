-- a topic's current scoring by a scorer, and a neuron's score under it
select s.scoring_id, s.neuron, s.g, s.score, s.se, s.z
from topics as t
join scorings as g on g.topic_id = t.topic_id
join scores as s on s.scoring_id = g.scoring_id
where t.name = $topic and s.neuron = $neuron and g.is_current and g.scorer = $scorer
