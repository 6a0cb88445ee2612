-- temp table: a (topic, prompt), and the Euclidean distance of the prompt to the nearest text of the topic; still empty
create or replace temp table distances (topic_id uinteger, prompt_id uinteger, euclidean double)
