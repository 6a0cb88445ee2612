-- one row: a topic's id; none when it is not known
select t.topic_id from topics as t where t.name = $topic
