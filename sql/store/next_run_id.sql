-- one row: the next free id of a run
select coalesce(max(r.run_id) + 1, 0) as run_id from runs as r
