-- a scoring of a topic by a scorer, current or not
select g.scoring_id
from scorings as g
join topics as t on t.topic_id = g.topic_id
where t.name = $topic and g.scorer = $scorer
