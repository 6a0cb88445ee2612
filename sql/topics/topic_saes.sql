-- an SAE that was run over the topic's texts
select distinct a.sae_key
from topic_activations as a
join topics as t on t.topic_id = a.topic_id
where t.name = $topic
