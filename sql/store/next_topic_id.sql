-- one row: the next free topic id
select coalesce(max(t.topic_id) + 1, 0) as topic_id from topics as t
