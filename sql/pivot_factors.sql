-- temp table: a prompt, and one column factor_<topic_id> per topic, so that one scan of the activations serves all topics
create or replace temp table factors as
pivot long_factors on name using sum(factor) group by prompt_id
