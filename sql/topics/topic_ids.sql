-- the id of a topic called one of $names
select t.name, t.topic_id from topics as t where t.name in (select unnest($names::varchar[])) order by t.topic_id
