-- temp table: a prompt, its share, and one column distance_<topic_id> per topic, so that one scan of the activations
-- serves all topics
create or replace temp table factors as
pivot long_factors on name using sum(distance) group by prompt_id, share
