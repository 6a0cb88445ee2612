-- the scorings of a topic go
delete from scorings where topic_id in (select t.topic_id from topics as t where t.name = $topic)
