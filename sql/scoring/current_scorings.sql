-- a current scoring of a topic by a scorer, in the order of the SAEs
select g.scoring_id, g.sae_key
from scorings as g
join topics as t on t.topic_id = g.topic_id
where t.name = $topic and g.is_current and g.scorer = $scorer
order by g.sae_key
