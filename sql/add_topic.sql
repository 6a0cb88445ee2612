-- append a topic unless there is one of that name
insert into topics
select coalesce((select max(t.topic_id) + 1 from topics as t), 0), $topic, $created_at
where not exists (select 1 from topics as t where t.name = $topic)
