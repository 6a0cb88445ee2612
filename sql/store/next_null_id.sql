-- one row: the next free id of a set of random topics
select coalesce(max(r.null_id) + 1, 0) as null_id from nulls as r
