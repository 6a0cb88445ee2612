-- the texts of a topic go
delete from topic_texts where topic_id in (select t.topic_id from topics as t where t.name = $topic)
