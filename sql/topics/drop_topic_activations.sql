-- what the model did on a topic's texts goes
delete from topic_activations where topic_id in (select t.topic_id from topics as t where t.name = $topic)
