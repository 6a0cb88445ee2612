-- a text generated in a run of a topic's (or a behaviour's) evaluations
select g.generation_id, g.run_id, g.method, g.prompt, g.text, g.seed
from generations as g
join runs as r on r.run_id = g.run_id
where r.topic = $topic
order by g.generation_id
