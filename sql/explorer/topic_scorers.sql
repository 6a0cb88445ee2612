-- a scorer by which a topic has current scores
select distinct g.scorer
from scorings as g
join topics as t on t.topic_id = g.topic_id
where t.name = $topic and g.is_current
order by g.scorer
