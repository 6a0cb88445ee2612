-- a neuron whose output score is known; it does not depend on the topic
select s.neuron, any_value(s.g) as output
from scores as s
join scorings as g on g.scoring_id = s.scoring_id
where g.sae_key = $sae_key and g.scorer = 'output'
group by s.neuron
order by s.neuron
