-- a neuron of an SAE, in order, with what steering reads: its score under a scoring (null without one), the signals of the
-- topic's other current scorings, and its largest activation
select
    n.neuron, s.score, s.se, d.z, v.z as centroid_z, c.score as auroc, o.score as output, n.density, n.max_activation
from neurons as n
left join scores as s on s.neuron = n.neuron and s.scoring_id = $scoring_id
left join scores as d on d.neuron = n.neuron and d.scoring_id = (
    select g.scoring_id from scorings as g join scorings as w on w.topic_id = g.topic_id and w.sae_key = g.sae_key
    where w.scoring_id = $scoring_id and g.scorer = 'distance' and g.is_current
)
left join scores as v on v.neuron = n.neuron and v.scoring_id = (
    select g.scoring_id from scorings as g join scorings as w on w.topic_id = g.topic_id and w.sae_key = g.sae_key
    where w.scoring_id = $scoring_id and g.scorer = 'centroid' and g.is_current
)
left join scores as c on c.neuron = n.neuron and c.scoring_id = (
    select g.scoring_id from scorings as g join scorings as w on w.topic_id = g.topic_id and w.sae_key = g.sae_key
    where w.scoring_id = $scoring_id and g.scorer = 'contrast' and g.is_current
)
left join scores as o on o.neuron = n.neuron and o.scoring_id = (
    select g.scoring_id from scorings as g join scorings as w on w.topic_id = g.topic_id and w.sae_key = g.sae_key
    where w.scoring_id = $scoring_id and g.scorer = 'output' and g.is_current
)
where n.sae_key = $sae_key
order by n.neuron
