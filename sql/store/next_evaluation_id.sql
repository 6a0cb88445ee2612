-- one row: the next free id of an evaluation
select coalesce(max(r.evaluation_id) + 1, 0) as evaluation_id from runs as r
