-- the next free id of a kind (a statement for each kind): that of a vector is one that no text was generated with either
select coalesce(max(t.topic_id) + 1, 0) as topic_id from topics as t;
select coalesce(max(g.scoring_id) + 1, 0) as scoring_id from scorings as g;
select coalesce(max(n.null_id) + 1, 0) as null_id from nulls as n;
select coalesce(max(r.evaluation_id) + 1, 0) as evaluation_id from runs as r;
select coalesce(max(r.run_id) + 1, 0) as run_id from runs as r;
select coalesce(max(g.generation_id) + 1, 0) as generation_id from generations as g;
select coalesce(max(v.vector_id) + 1, 0) as vector_id
from (select vector_id from vectors union all select unnest(vector_ids) from generations) as v (vector_id);
