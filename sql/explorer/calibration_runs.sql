-- a run of a topic that may be a point of a curve of strengths: of $method, or of unsteered text beside one; the last evaluation first
select r.run_id, r.evaluation_id, r.method, r.parameters
from runs as r
where r.topic = $topic and r.method in ('original', $method)
order by r.evaluation_id desc, r.run_id
