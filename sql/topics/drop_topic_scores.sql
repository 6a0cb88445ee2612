-- the scores of a topic go
delete from scores where scoring_id in (
    select g.scoring_id from scorings as g join topics as t on t.topic_id = g.topic_id where t.name = $topic
)
