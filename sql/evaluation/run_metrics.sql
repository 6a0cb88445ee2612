-- a figure of a text generated in a run of a topic's evaluations
select m.run_id, m.generation_id, m.name, m.value
from metrics as m
join runs as r on r.run_id = m.run_id
where r.topic = $topic and m.generation_id is not null
