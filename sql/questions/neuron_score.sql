-- a topic's current scoring by a scorer, and a neuron's score under it, with the label it has
select s.scoring_id, s.neuron, s.g, s.score, s.se, s.z, l.label
from topics as t
join scorings as g on g.topic_id = t.topic_id
join scores as s on s.scoring_id = g.scoring_id
left join neuron_labels as l on l.sae_key = g.sae_key and l.neuron = s.neuron
where t.name = $topic and s.neuron = $neuron and g.is_current and g.scorer = $scorer
