-- a topic's texts go, what the model did on them, its scorings and their scores; its id and name stay
delete from scores where scoring_id in (
    select g.scoring_id from scorings as g join topics as t on t.topic_id = g.topic_id where t.name = $topic
);
delete from scorings where topic_id in (select t.topic_id from topics as t where t.name = $topic);
delete from topic_activations where topic_id in (select t.topic_id from topics as t where t.name = $topic);
delete from topic_texts where topic_id in (select t.topic_id from topics as t where t.name = $topic);
