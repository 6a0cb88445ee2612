-- a current scoring by a scorer of a topic called one of $names, in the order of the SAEs
select t.name, g.scoring_id, g.sae_key
from scorings as g
join topics as t on t.topic_id = g.topic_id
where t.name in (select unnest($names::varchar[])) and g.is_current and g.scorer = $scorer
order by g.sae_key
